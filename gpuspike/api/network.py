"""A network as a user holds it: architecture, parameters, perhaps a chip, and what it went through."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gpuspike.api import checks
from gpuspike.api.history import History
from gpuspike.api.neurons import by_layer as neurons_by_layer
from gpuspike.api.neurons import told
from gpuspike.backend import select, thread_count
from gpuspike.errors import ValueRangeError
from gpuspike.kernels import host, load
from gpuspike.kernels.limits import check_times, largest_sum
from gpuspike.network.decision import decisions
from gpuspike.network.delays import DelayRule, learnt
from gpuspike.network.initial import from_fan_in
from gpuspike.network.layers import Moment
from gpuspike.network.membranes import of_layer
from gpuspike.network.network import Architecture, Machine, answer
from gpuspike.network.parameters import Parameters, trained_on_host
from gpuspike.network.plan import Maps, told_plan
from gpuspike.neuron import LIF
from gpuspike.store import checkpoint
from gpuspike.substrate import EmulatedChip, OnChip
from gpuspike.training.fit import Recipe

if TYPE_CHECKING:
    from gpuspike.api.chip import Chip

Array = NDArray[Any]

TOGETHER = 1000
"""Samples of a forward pass: no answer depends on it."""


class Network:
    """A feed-forward network of LIF neurons that answers with first spike times, or several side by side.

    Initial weights are normal, and scaled so that the size of a layer does not matter: with n = inputs and
    bias spikes of a neuron, and w1 the weight of a single input that just reaches the threshold, their mean
    is 4 w1/n and their standard deviation w1/(2 sqrt(n)); see `gpuspike.network.initial.from_fan_in`.

    Args:
        sizes: neurons by layer, inputs first: [4, 120, 3]. An image comes first as its (rows, columns), or
            (rows, columns, channels), flattened pixel by pixel; layers may then be convolutions, and their
            earliest spikes heard: [(28, 28), {"conv": 16, "kernel": 5}, {"pool": 2}, 10], see `read_plan`.
        bias_times: for each layer after the inputs the times of its bias spikes; one list, [[0.9]], stands
            for all layers; None: no bias spikes.
        seed: of the first replica's initial weights, shuffles and noise; replica r has seed + r.
        replicas: independent networks side by side.
        neuron: of all layers, its parameters numbers; or one a layer, whose parameters may be arrays.
        dtype: of times and weights, float32 or float64.
        backend: "auto" (a CUDA device where CuPy finds one, else the CPU), "cuda", "cpu" or "reference".
        weight_mean, weight_std: of the initial weights, in place of that rule: a number, or one a layer.
        trained: constants that each neuron learns for itself, beside the weights, by their names in
            `gpuspike.network.constants.TRAINED`: "threshold", "tau_mem", "tau_syn".
        delays: that it learns: "axonal" (one an input), "dendritic" (one a neuron), "synaptic" (one a weight)
            or a sum of them, "axonal+dendritic". Constants and delays are trained piecewise, on a CPU.
        delay_rule: range and form of the delays, in the network's unit of time; None: up to tau_syn.

    Attributes:
        parameters: what it has learnt; `parameters.weights` are (n_replica, n_pre, n_post) each.
        architecture: layers and kernels;  backend: what computes, in words.
        chip: under it, None without one;  gradient: what it learns from there, see `on`.
        epoch: epochs that it was trained for;  history: of these;  recipe: of the last training, or None;
            told_recipe: the same, or as a file tells it whose loss or optimiser nobody has registered.
        provenance: what it was made with: filled where it comes from a file, else empty.

    Raises:
        ValueRangeError: sizes, times, a seed or deviations that mean nothing.
        DtypeError: another dtype.
        BackendError: a backend that is not there.

    Warns:
        UserWarning: a value that nothing reads.
    """

    def __init__(
        self,
        sizes: Sequence[Any],
        bias_times: Sequence[Sequence[float]] | None = None,
        *,
        seed: int = 0,
        replicas: int = 1,
        neuron: LIF | Sequence[LIF] | None = None,
        dtype: DTypeLike = "float64",
        backend: str = "auto",
        weight_mean: float | Sequence[float] | None = None,
        weight_std: float | Sequence[float] | None = None,
        trained: Sequence[str] = (),
        delays: str | Sequence[str] = "none",
        delay_rule: DelayRule | None = None,
    ) -> None:
        trained, rule = learnt(trained, delays), checks.delay_rule(delay_rule, delays)
        neuron = LIF() if neuron is None else neuron
        self._build(sizes, bias_times, seed, replicas, neuron, dtype, backend, trained, rule)
        layers, rule = self._architecture.layers, self._architecture.delay_rule
        suited_means, suited_stds = from_fan_in(layers)
        means = checks.by_layer("weight_mean", weight_mean, suited_means)
        stds = checks.by_layer("weight_std", weight_std, suited_stds)
        if min(stds) < 0.0:
            raise ValueRangeError(f"weight_std must be 0 or more, got {weight_std!r}")
        weights = self._architecture.initial_weights(self.seeds, means, stds, self.dtype)
        self.parameters = Parameters.of_weights(weights).training(trained, layers, self.seeds, rule)
        self.parameters.check([layer.neuron for layer in layers])

    def _build(
        self,
        sizes: Sequence[Any],
        bias_times: Sequence[Sequence[float]] | None,
        seed: int,
        replicas: int,
        neuron: LIF | Sequence[LIF],
        dtype: DTypeLike,
        backend: str,
        trained: Sequence[str],
        delay_rule: DelayRule | None,
    ) -> None:
        n_in, image, layers = checks.read_sizes(sizes)
        self.seeds = checks.seeds(seed, replicas)
        columns = [layer.n_maps if isinstance(layer, Maps) else layer for layer in layers]
        neurons = neurons_by_layer(neuron, [n_in, *columns], self.replicas)
        bias = checks.bias_spikes([[]] if bias_times is None else bias_times)
        bias = bias * len(layers) if len(bias) == 1 else bias
        self.dtype = checks.working_type(dtype)
        for times in bias:
            check_times("bias_times", np.array(times, np.float64), dtype=self.dtype)
        self._host_only = trained_on_host(trained)
        self._told_sizes = [n_in if image is None else list(image), *told_plan(layers)]
        self._asked, self.backend = backend, select(backend, host_only=self._host_only)
        thread_count()  # refuses a number of threads that means nothing
        built = Architecture.build([n_in, *layers], bias, neurons, load(self.backend.name), image)
        for layer in built.layers:
            largest_sum(layer.neuron, self.dtype)  # refuses neurons that the dtype has no room for
        rule = checks.usual_delays(built.layers[0].neuron) if delay_rule is None else delay_rule
        self._architecture = replace(built, delay_rule=rule)
        self.chip: Chip | None = None
        self.gradient = "nominal"
        self._machine: Machine = self._architecture
        self.state: dict[str, Array] = {}
        self.epoch = 0
        self.history = History.of_lines([], len(bias), self.replicas)
        self.told_recipe: Recipe | Mapping[str, Any] | None = None
        self.provenance: dict[str, Any] = {}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Spikes by layer, inputs first: neurons, and of convolutions what is heard."""
        layers = self._architecture.layers
        return (layers[0].n_in, *(layer.n_out for layer in layers))

    @property
    def recipe(self) -> Recipe | None:
        """Of the last training, with the loss in the network's unit of time; None where there was none.

        Raises:
            NotGivenError: of a file, whose loss or optimiser nobody has registered yet.
        """
        if isinstance(self.told_recipe, Mapping):
            self.recipe = Recipe.of_plain(self.told_recipe)
        return self.told_recipe  # type: ignore[return-value]

    @recipe.setter
    def recipe(self, recipe: Recipe | None) -> None:
        """Keeps one, with its loss in the network's unit of time."""
        if recipe is not None:
            recipe = replace(recipe, loss=replace(recipe.loss, tau_syn=self.tau_syn))
        self.told_recipe = recipe

    @property
    def architecture(self) -> Architecture:
        """Layers and kernels, with the constants that the neurons have learnt."""
        return self._architecture.having(self.parameters)

    @property
    def machine(self) -> Machine:
        """What answers: the network, or the chip under it.

        Raises:
            ValueRangeError: weights, put there since, that are not finite or of other layers.
        """
        self.check()
        return self._machine.having(self.parameters)

    def check(self) -> None:
        """Refuses weights, put there since, not finite or of other layers; raises ValueRangeError."""
        layers = self._architecture.layers
        wanted = [((self.replicas, layer.n_pre, layer.n_post), self.dtype) for layer in layers]
        found = [(own.weights.shape, own.weights.dtype) for own in self.parameters]
        if found != wanted:
            want, got = (", ".join(f"{shape} {dtype}" for shape, dtype in all_) for all_ in (wanted, found))
            raise ValueRangeError(f"weights of this network must be {want}, got {got}")
        self.parameters.check([layer.neuron for layer in layers])

    @property
    def neuron(self) -> LIF:
        """Of the first layer, before any of its constants is trained; of all, unless each has its own."""
        return self._architecture.layers[0].neuron

    @property
    def tau_syn(self) -> float:
        """The first layer's synaptic time constant, or its neurons' mean, in the network's unit of time."""
        return float(np.mean(self.neuron.tau_syn))

    @property
    def replicas(self) -> int:
        """Networks side by side."""
        return len(self.seeds)

    @overload
    def __call__(self, t_in: ArrayLike, *, layers: Literal[False] = False) -> Array: ...
    @overload
    def __call__(self, t_in: ArrayLike, *, layers: Literal[True]) -> list[Array]: ...
    def __call__(self, t_in: ArrayLike, *, layers: bool = False) -> Array | list[Array]:
        """First spike times of the last layer, or of all layers; inf = no spike.

        On a chip, its trials are those of every evaluation: asked again, it answers the same.

        Args:
            t_in: (n_samples, n_inputs) spike times, inf = no spike.
            layers: a list with one array for each layer after the inputs.

        Returns:
            (n_samples, n_neurons); (n_replica, n_samples, n_neurons) where there are replicas.

        Raises:
            ShapeError, DtypeError, ValueRangeError: what was expected and what was got.
        """
        t_in = checks.spike_times("t_in", t_in, self.sizes[0], self.dtype)
        parts, machine = [], self.machine
        for first in range(0, len(t_in), TOGETHER):
            received = machine.receive(t_in[None, first : first + TOGETHER], sort=False)
            states = answer(machine, self.parameters.weights, received, Moment(first=first))
            parts.append([state.t_out for state in (states if layers else states[-1:])])
        joined = [self._told(np.concatenate(of_layer, axis=1)) for of_layer in zip(*parts, strict=True)]
        return joined if layers else joined[0]

    def _told(self, array: Array) -> Array:
        """Without the axis of replicas, where there is one alone."""
        return array if self.replicas > 1 else array[0]

    def accuracy(self, t_in: ArrayLike, labels: ArrayLike) -> float | Array:
        """Share of samples whose label's neuron spikes first; (n_replica,) where there are replicas.

        Raises:
            ConfigError: the network ends with a convolution.
            ShapeError, DtypeError, ValueRangeError: what was expected and what was got.
        """
        t_in = checks.spike_times("t_in", t_in, self.sizes[0], self.dtype)
        classes = checks.n_classes(self._architecture.layers)
        labels = checks.class_labels("labels", labels, len(t_in), classes)
        found = decisions(self.machine, self.parameters.weights, t_in)
        right = (self._told(found.classes) == labels).mean(axis=-1)
        return right if self.replicas > 1 else float(right)

    def membranes(self, sample: ArrayLike, times: ArrayLike) -> list[Array]:
        """Membrane potentials of every neuron for one sample, as if no neuron were reset.

        On an emulated chip they are the chip's, with its weights and time constants, without a trial's noise.

        Args:
            sample: (n_inputs,) spike times, inf = no spike.
            times: (n_times,) at which to look.

        Returns:
            For each layer after the inputs (n_times, n_neurons); a first axis of replicas where there are.
            Those of a convolution come position by position, row by row, whether they are heard or not.

        Raises:
            ShapeError, DtypeError, ValueRangeError: what was expected and what was got.
        """
        times = checks.finite_axis("times", times)
        t_in = checks.one_sample("sample", sample, self.sizes[0], self.dtype)
        weights, layers = self.parameters.weights, self.architecture.layers
        neurons, delays = [layer.neuron for layer in layers], [layer.delays for layer in layers]
        machine = self.machine
        if isinstance(machine, OnChip) and isinstance(chip := machine.chip, EmulatedChip):
            weights, neurons, delays = chip.effective(weights), chip.neurons, chip.delays
        states = answer(machine, self.parameters.weights, self.architecture.receive(t_in[None], sort=False))
        traces = []
        for state, w, neuron, own, layer in zip(states, weights, neurons, delays, layers, strict=True):
            inputs = np.broadcast_to(host(state.t_in)[:, 0], (self.replicas, state.t_in.shape[2]))
            one = [of_layer(times, layer, t, w[r], neuron, r, own) for r, t in enumerate(inputs)]
            traces.append(self._told(np.stack(one)))
        return traces

    def on(self, chip: Chip | None, *, gradient: str = "nominal") -> Network:
        """The same network with a chip under it, which then answers; its weights are a copy.

        Args:
            chip: one piece of silicon a replica; None: no chip.
            gradient: what `gs.fit` learns from there. "nominal": the chip's spike times in the network's own
                equations, as with hardware in the loop; "exact": the chip's own parameters; "ideal": nothing
                of the chip, which answers in evaluations only.

        Warns:
            UserWarning: the chip's range of weights is of another unit than the network; a value that nothing
                reads.

        Raises:
            ConfigError: a network that has no room on the chip, or an unknown gradient.
            BackendError: the network is on a device, which does not know all that the chip does.
        """
        from gpuspike.api.chip import refuse_other, unsuited

        refuse_other(chip, gradient)
        net = self.placed(chip, gradient)
        for note in unsuited(net, chip, gradient):
            warnings.warn(note, stacklevel=2)
        return net

    def placed(self, chip: Chip | None, gradient: str) -> Network:
        """See `on`, which says what may not be meant."""
        self.check()
        net = self._copy()
        net.chip, net.gradient = None, "nominal"
        alone = net._host_only
        if chip is not None:
            substrate = chip.substrate(self.tau_syn)
            alone = alone or trained_on_host(self.parameters.trained, on_chip=not substrate.ideal)
            alone = alone or substrate.host_only
        net.backend = select(self._asked, host_only=alone)
        net._architecture = replace(self._architecture, kernels=load(net.backend.name))
        net._machine = net._architecture
        if chip is None:
            return net
        layers, kernels = net._architecture.layers, net._architecture.kernels
        emulated = chip.emulated(layers, kernels, self.replicas, self.tau_syn)
        if not emulated.substrate.ideal:
            net._machine = OnChip(net._architecture, emulated, "exact" if gradient == "exact" else "nominal")
        net.chip, net.gradient = type(chip).of(chip.values, chip.seed, emulated.arrays()), gradient
        return net

    def _copy(self) -> Network:
        net = copy.copy(self)
        net.parameters = self.parameters.map(np.copy)
        net.state = {name: array.copy() for name, array in self.state.items()}
        return net

    def save(self, path: str | Path) -> None:
        """Writes the network to an .npz file: parameters, chip, history, and what further training needs.

        Raises:
            OutputError: the file cannot be written, or something else than a network would be lost.
            ValueRangeError: weights that nobody could read again, NaN for example.
        """
        from gpuspike.store.provenance import provenance

        self.check()
        arrays, header = self.__getstate__()
        header["provenance"] = self.provenance or provenance(self.seeds[0], self.replicas)
        checkpoint.save(Path(path), arrays, header, keep_previous=False)

    def __getstate__(self) -> tuple[dict[str, Array], dict[str, Any]]:
        arrays = self.parameters.arrays() | self.state
        arrays |= {f"history_{name}": array for name, array in self.history.arrays().items()}
        if self.chip is not None:
            arrays |= {f"chip_{name}": array for name, array in self.chip.drawn.items()}
        return arrays, {
            "kind": "network",
            "sizes": self._told_sizes,
            "bias_times": [layer.bias_times for layer in self._architecture.layers],
            "trained": self.parameters.trained,
            "delay_rule": asdict(self._architecture.delay_rule),
            "neuron": told([layer.neuron for layer in self._architecture.layers]),
            "seed": self.seeds[0],
            "replicas": self.replicas,
            "dtype": self.dtype.name,
            "backend": self._asked,
            "epoch": self.epoch,
            "recipe": recipe.plain() if isinstance(recipe := self.told_recipe, Recipe) else recipe,
            "step": self.history.step,
            "step_reason": self.history.step_reason,
            "chip": None if self.chip is None else {"values": self.chip.values, "seed": self.chip.seed},
            "gradient": self.gradient,
            "provenance": self.provenance,
        }

    def __setstate__(self, state: tuple[Mapping[str, Array], Mapping[str, Any]]) -> None:
        from gpuspike.api.kept import revived

        self.__dict__.update(revived(*state, "a pickled network").__dict__)

    def __repr__(self) -> str:
        sizes = self._architecture.sizes
        replicas = f", {self.replicas} replicas" if self.replicas > 1 else ""
        under = f" on {self.chip!r}" if self.chip is not None else ""
        return (
            f"Network({sizes}{replicas}, seed {self.seeds[0]}, {self.dtype}, {self.backend.name}, "
            f"{self.epoch} epochs){under}"
        )
