"""What a network learns: the arrays of each layer, and their names in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuspike.errors import DataError
from gpuspike.network.layers import Layer

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class LayerParameters:
    """What one layer learns; one more field for whatever else it may learn, None where it does not.

    Attributes:
        weights: (n_replica, n_pre, n_post), the rows of bias spikes last.
    """

    weights: Array

    def arrays(self) -> dict[str, Array]:
        """The arrays that the layer has, by the names of their fields."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in found.items() if array is not None}

    def map(self, function: Callable[[Array], Array]) -> LayerParameters:
        """The same with each array replaced by what a function makes of it."""
        return LayerParameters(**{name: function(array) for name, array in self.arrays().items()})

    @staticmethod
    def shapes(layer: Layer, n_replica: int) -> dict[str, tuple[int, ...]]:
        """Shapes of all arrays that a layer must have."""
        return {"weights": (n_replica, layer.n_pre, layer.n_out)}


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
    def from_arrays(
        cls,
        arrays: Mapping[str, Array],
        layers: Sequence[Layer],
        n_replica: int,
        dtype: DTypeLike,
        place: str,
    ) -> Parameters:
        """Parameters out of the arrays of a file, as `arrays` names them; others are ignored.

        Args:
            place: of the file, for the error.

        Raises:
            DataError: an array is missing, or is not of the layer's shape and dtype.
        """
        return cls(
            [
                LayerParameters(
                    **{
                        name: _expected(arrays, f"{name}_{number}", shape, np.dtype(dtype), place)
                        for name, shape in LayerParameters.shapes(layer, n_replica).items()
                    }
                )
                for number, layer in enumerate(layers)
            ]
        )

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

    def arrays(self) -> dict[str, Array]:
        """All arrays by their names in files, "weights_0", "weights_1" and so on; not copied.

        Each kind of array comes for all layers before the next kind does.
        """
        kinds = [field.name for field in fields(LayerParameters)]
        return {
            f"{kind}_{number}": array
            for kind in kinds
            for number, layer in enumerate(self)
            if (array := getattr(layer, kind)) is not None
        }

    def map(self, function: Callable[[Array], Array]) -> Parameters:
        """The same with each array replaced by what a function makes of it: a copy, a replica, a cast."""
        return Parameters([layer.map(function) for layer in self])


def _expected(
    arrays: Mapping[str, Array], name: str, shape: tuple[int, ...], dtype: np.dtype[Any], place: str
) -> Array:
    found = arrays.get(name)
    if found is None or found.shape != shape or found.dtype != dtype:
        got = "none" if found is None else f"{found.shape} {found.dtype}"
        raise DataError(f"{place}: {name} must be {shape} {dtype}, got {got}")
    return found
