"""What a network learns: the arrays of each layer, and their names in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuspike.errors import ConfigError, DataError, ValueRangeError
from gpuspike.kernels.limits import check_weights
from gpuspike.kernels.waiting import computed, later, where
from gpuspike.network.constants import TRAINED
from gpuspike.network.delays import DELAYS, USUAL, DelayRule, Delays, shape
from gpuspike.network.layers import Layer
from gpuspike.network.passes import Pulled
from gpuspike.neuron import LIF
from gpuspike.rng import Purpose, stream

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class LayerParameters:
    """What one layer learns, or the gradients of that.

    Attributes:
        weights: (n_replica, n_pre, n_post), the rows of bias spikes last.
        free: of each trained constant (n_replica, n_post) free numbers, by its name in `TRAINED`, and of each
            kind of delays as many as `delays.Delays` has, by its name in `delays.DELAYS`.
    """

    weights: Array
    free: Mapping[str, Array] = field(default_factory=dict)

    def arrays(self) -> dict[str, Array]:
        """All arrays by name."""
        return {"weights": self.weights, **self.free}

    def map(self, function: Callable[[Array], Array]) -> LayerParameters:
        """The same with each array replaced by what a function makes of it."""
        free = {name: function(array) for name, array in self.free.items()}
        return LayerParameters(function(self.weights), free)

    @property
    def constants(self) -> dict[str, Array]:
        """Free numbers of trained constants, by their names."""
        return {name: free for name, free in self.free.items() if name not in DELAYS}

    def neuron(self, model: LIF, kernels: Any = None) -> LIF:
        """A layer's neurons, the model's with the constants that were trained.

        Args:
            kernels: of the device where the free numbers may be.
        """
        for name, free in self.constants.items():
            model = TRAINED[name].neuron(where(kernels, model, free), later(kernels, free))
        return model

    def delays(self, rule: DelayRule, kernels: Any = None) -> Delays | None:
        """A layer's delays, where the free numbers are; None where it learns none.

        Args:
            kernels: of the device where they may be.
        """
        kinds = {
            DELAYS[name]: computed("delays", rule.of(later(kernels, free)))
            for name, free in self.free.items()
            if name in DELAYS
        }
        return Delays(**kinds) if kinds else None

    def gradients(
        self, found: Pulled, weights: Array, model: LIF, neuron: LIF, rule: DelayRule, kernels: Any
    ) -> LayerParameters:
        """Gradients of all arrays; see `TrainedConstant.gradient`."""
        grads = {}
        if self.constants:
            found = found._replace(by_scale=kernels.single.over_inputs(weights, found.weights))
        for name, free in self.free.items():
            numbers = later(kernels, free)
            if name in DELAYS:
                grad = rule.pull(numbers, later(kernels, getattr(found.delays, DELAYS[name])))
            else:
                own = where(kernels, model, free)
                grad = TRAINED[name].gradient(numbers, own, neuron, weights, found)
                grad = grad.astype(free.dtype, copy=False)
            grads[name] = computed("pulled", grad)
        return LayerParameters(found.weights, grads)

    @staticmethod
    def shapes(layer: Layer, n_replica: int, trained: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
        """Shapes of all arrays that a layer must have."""
        sizes = n_replica, layer.n_pre, layer.n_post
        return {"weights": sizes, **LayerParameters.sizes(*sizes, trained)}

    @staticmethod
    def sizes(n_replica: int, n_pre: int, n_post: int, trained: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Shapes of what is trained beside the weights."""
        kinds = {name: DELAYS.get(name) for name in trained}
        return {
            name: (n_replica, n_post) if kind is None else shape(kind, n_replica, n_pre, n_post)
            for name, kind in kinds.items()
        }


class Parameters(Sequence[LayerParameters]):
    """What the layers of a network learn, one after the other.

    Args:
        layers: of each layer after the inputs.
    """

    def __init__(self, layers: Sequence[LayerParameters]) -> None:
        self._layers = tuple(layers)

    @classmethod
    def of_weights(cls, weights: Sequence[Array]) -> Parameters:
        """Parameters of layers that have nothing but weights, (n_replica, n_pre, n_post) each; not copied."""
        return cls([LayerParameters(w) for w in weights])

    @classmethod
    def of(cls, learnt: Parameters | Sequence[Array]) -> Parameters:
        """The same, or parameters of the weights alone that a list of arrays stands for."""
        return learnt if isinstance(learnt, Parameters) else cls.of_weights(learnt)

    def training(
        self,
        trained: Sequence[str],
        layers: Sequence[Layer],
        seeds: Sequence[int] = (),
        rule: DelayRule = USUAL,
    ) -> Parameters:
        """The same weights, not copied, with constants that begin as the model has them, and drawn delays.

        Args:
            trained: names of constants and of delays.
            seeds: of the replicas;  rule: says how far delays are drawn apart.

        Raises:
            ConfigError: an unknown name.
        """
        made = []
        for number, (own, layer) in enumerate(zip(self, layers, strict=True)):
            shapes = LayerParameters.shapes(layer, len(own.weights), trained)
            free = {name: np.zeros(shapes[name], own.weights.dtype) for name in trained}
            for name, array in free.items():
                if name not in DELAYS:
                    _ = TRAINED[name]
                    continue
                place = list(DELAYS).index(name)
                for drawn, seed in zip(array, seeds, strict=True):
                    numbers = stream(seed, Purpose.DELAYS, number, place)
                    drawn[...] = rule.spread * numbers.standard_normal(drawn.shape)
            made.append(LayerParameters(own.weights, free))
        return Parameters(made)

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Array],
        layers: Sequence[Layer],
        n_replica: int,
        dtype: DTypeLike,
        place: str,
        trained: Sequence[str] = (),
    ) -> Parameters:
        """Parameters out of the arrays of a file, as `arrays` names them; others are ignored.

        Args:
            place: of the file, for the error.
            trained: constants and delays that were trained, by name.

        Raises:
            DataError: an array is missing, is not of the layer's shape and dtype, or fails `check`.
        """
        made = []
        for number, layer in enumerate(layers):
            found = {
                name: _expected(arrays, f"{name}_{number}", size, np.dtype(dtype), place)
                for name, size in LayerParameters.shapes(layer, n_replica, trained).items()
            }
            made.append(LayerParameters(found.pop("weights"), found))
        learnt = cls(made)
        try:
            learnt.check([layer.neuron for layer in layers])
        except ValueRangeError as error:
            raise DataError(f"{place}: {error}") from None
        return learnt

    def check(self, models: Sequence[LIF]) -> None:
        """Refuses numbers whose arithmetic would leave their dtype, NaN and inf among them.

        Args:
            models: of each layer, its neurons before they have learnt constants.

        Raises:
            ValueRangeError: such numbers.
        """
        for number, (own, model) in enumerate(zip(self, models, strict=True)):
            for name, array in own.free.items():
                if not np.isfinite(array).all():
                    wrong = int(np.count_nonzero(~np.isfinite(array)))
                    raise ValueRangeError(f"{name}_{number} must be finite, got {wrong} NaN or inf")
            check_weights(f"weights_{number}", own.weights, own.neuron(model))

    @overload
    def __getitem__(self, index: int) -> LayerParameters: ...
    @overload
    def __getitem__(self, index: slice) -> Parameters: ...
    def __getitem__(self, index: int | slice) -> LayerParameters | Parameters:
        return Parameters(self._layers[index]) if isinstance(index, slice) else self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[LayerParameters]:
        return iter(self._layers)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in self.arrays().items())
        return f"Parameters({shapes})"

    @property
    def weights(self) -> list[Array]:
        """The weights of every layer, (n_replica, n_pre, n_post); not copied."""
        return [layer.weights for layer in self]

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the constants and delays that are trained, the same in every layer."""
        return tuple(self[0].free)

    @property
    def needs_taus(self) -> bool:
        """Whether gradients by the time constants are needed."""
        return any(TRAINED[name].NEEDS_TAUS for name in self.trained if name not in DELAYS)

    def with_weights(self, weights: Sequence[Array]) -> Parameters:
        """The same with other weights."""
        return Parameters([LayerParameters(w, own.free) for w, own in zip(weights, self, strict=True)])

    def arrays(self) -> dict[str, Array]:
        """All arrays by their names in files, "weights_0", "weights_1" and so on; not copied.

        Each kind of array comes for all layers before the next kind does.
        """
        return {
            f"{kind}_{number}": layer.arrays()[kind]
            for kind in ("weights", *self.trained)
            for number, layer in enumerate(self)
        }

    def gradients(
        self,
        found: Sequence[Pulled],
        weights: Sequence[Array],
        models: Sequence[LIF],
        neurons: Sequence[LIF],
        rule: DelayRule,
        kernels: Any,
    ) -> Parameters:
        """Gradients of all arrays; see `LayerParameters.gradients`."""
        each = zip(self, found, weights, models, neurons, strict=True)
        return Parameters(
            [own.gradients(of, w, model, neuron, rule, kernels) for own, of, w, model, neuron in each]
        )

    def map(self, function: Callable[[Array], Array]) -> Parameters:
        """The same with each array replaced by what a function makes of it: a copy, a replica, a cast."""
        return Parameters([layer.map(function) for layer in self])


def trained_on_host(trained: Sequence[str], *, on_chip: bool = False) -> str:
    """What of all that is trained keeps a network from a device, in words; "" where nothing does.

    Args:
        trained: names of constants and of delays.
        on_chip: of the neurons of a chip, which the host programs.

    Raises:
        ConfigError: an unknown constant.
    """
    if isinstance(trained, str) or len(set(trained)) < len(trained):
        raise ConfigError(f"constants to be trained must be a list of different names, got {trained!r}")
    kinds = {name: TRAINED[name] for name in trained if name not in DELAYS}
    constants = [name for name, kind in kinds.items() if on_chip or not kind.DEVICE]
    there = " on a chip" if on_chip else ""
    return f"training {', '.join(constants)}{there}" if constants else ""


def _expected(
    arrays: Mapping[str, Array], name: str, shape: tuple[int, ...], dtype: np.dtype[Any], place: str
) -> Array:
    found = arrays.get(name)
    if found is not None and found.shape == shape and found.dtype != dtype:
        raise DataError(f"{place}: {name} must be {dtype}, got {found.dtype}")
    if found is None or found.shape != shape:
        got = "none" if found is None else f"{found.shape}"
        rows = "; (replica, input or bias spike, neuron)" if name.startswith("weights") else ""
        raise DataError(f"{place}: {name} must be {shape}, got {got}{rows}")
    return found
