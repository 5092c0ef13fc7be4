"""What a chip would need for a network's answers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gpuspike.accountant import Prices, find, read_prices
from gpuspike.accountant.price import Cost, cost_of, observe
from gpuspike.accountant.spikes import Recording, activity, as_array, for_recording, recording
from gpuspike.api.checks import class_labels, n_classes, spike_times
from gpuspike.api.decide import require_network
from gpuspike.api.kept import KEPT_PRICES, PRICES
from gpuspike.api.network import Network
from gpuspike.config.choices import USUAL_PRICES
from gpuspike.config.files import conf_folder
from gpuspike.errors import ConfigError, ValueRangeError
from gpuspike.exchange.populations import populations
from gpuspike.kinds import is_number, whole
from gpuspike.registry import one_of
from gpuspike.store import own_prices
from gpuspike.strangers import names_of
from gpuspike.training.evaluation import Labelled
from gpuspike.training.fit import Recipe


def price(
    net: Network,
    t_in: ArrayLike,
    labels: ArrayLike,
    prices: str | Path | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> Cost:
    """Counts what a network does on some samples, and what these counts would cost on a chip.

    Args:
        net: also one that answers on an emulated chip; the prices may be another chip's.
        t_in: (n_samples, n_inputs) spike times, inf = no spike.
        labels: (n_samples,) integers from 0.
        prices: name of a chip's prices (docs/accounting.md has them all), or path of a YAML file; None: those
            of the chip under the network, without one of the run that it was loaded from, else USUAL_PRICES.
        class_names: of the output neurons; None: their numbers.

    Raises:
        ConfigError: unknown prices, or a network that ends with a convolution.
        ShapeError, DtypeError, ValueRangeError: what was expected and what was got.
    """
    require_network(net)
    chip = _prices_of(net, prices)
    t_in = spike_times("t_in", t_in, net.sizes[0], net.dtype)
    if t_in.min() < 0.0:
        raise ValueRangeError(f"t_in must be 0 or later, when a trial begins, got {float(t_in.min())}")
    if first := min((t for layer in net.architecture.layers for t in layer.bias_times if t < 0.0), default=0):
        raise ValueRangeError(f"bias_times must be 0 or later, when a trial begins, got {first}")
    classes = n_classes(net.architecture.layers)
    known = class_labels("labels", labels, len(t_in), classes)
    names = _names(class_names, classes)
    recipe = net.told_recipe if isinstance(net.told_recipe, Recipe) else Recipe()  # no price has its loss
    observed = observe(
        net.machine,
        net.parameters.weights,
        {"given": Labelled(net.architecture.receive(t_in[None], sort=False), known)},
        "given",
        [chip],
        recipe.make_loss(net.architecture.kernels, net.tau_syn),
        recipe.evaluation_batch_size,
        net.tau_syn,
    )
    return cost_of(observed.activity, chip, names, _time_unit(net), in_steps=lambda: observed.in_steps(chip))


def _time_unit(net: Network) -> str:
    """Which tau_syn is taken for the chip's, where the network has several; "" where it has one."""
    found = np.concatenate([np.ravel(layer.neuron.tau_syn) for layer in net.architecture.layers])
    if np.all(found == found[0]):
        return ""
    mean = " mean" if np.ndim(net.neuron.tau_syn) else ""
    return (
        f"the chip's tau_syn stands for the first layer's{mean}, {net.tau_syn:g}, where neurons have "
        f"{found.min():g} to {found.max():g}"
    )


def _prices_of(net: Network, given: str | Path | None) -> Prices:
    if not isinstance(given, str | Path | None):
        raise ConfigError(f"prices must be one chip's, each chip has its own call, got {given!r}")
    if given is not None:
        return read_prices(find(str(given), conf_folder() / "prices"))
    of_run = net.provenance.get(PRICES)
    own = str((of_run if net.chip is None else net.chip.prices) or USUAL_PRICES)
    kept = net.provenance.get(KEPT_PRICES) if own == of_run else None
    try:
        prices, note = own_prices.of_run(own, kept if isinstance(kept, dict) else {}, "prices=FILE")
    except ConfigError as error:
        whose = "the run that the network comes from" if net.chip is None else "the chip under the network"
        raise ConfigError(f"{error}; {whose} names them, prices=NAME takes others") from None
    if note:
        warnings.warn(note, stacklevel=3)
    return prices


def price_spikes(
    spikes: Sequence[Any] | Mapping[str, Any],
    synapses: Any = None,
    prices: str | Path = "loihi",
    *,
    labels: ArrayLike | None = None,
    decision: str = "count",
    tau_syn: float | None = None,
    duration: float | None = None,
    n_samples: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Cost:
    """What a chip would need for the spikes of any simulator, with the prices and the evidence of `price`.

    Neurons may spike more than once. A spike costs what it costs, however the network came to it; what is no
    spike, an image fed as a current for example, has no price: leave that layer out. docs/exchange.md has
    recipes for snnTorch, SpikingJelly and NIR.

    Args:
        spikes: of the inputs, each hidden layer and the outputs, in this order; or by name, where `synapses`
            is a NIR graph. Each is a (time, sample, neuron) array or tensor of numbers of spikes; or a list
            of events, {"sample", "neuron", "time"} with an array each, and "n_neurons" if you like, times in
            time steps from 0.
        synapses: between each two of them, a list of: (n_pre, n_post), every neuron with every one; a matrix
            of that shape (n_pre first, unlike a torch.nn.Linear's), whose zeros are no synapses; (n_pre,)
            numbers of targets. Or a NIR file or graph, of any neurons. None: every neuron with every one.
        prices: name of a chip's prices, or path of a YAML file.
        labels: (n_samples,) integers from 0; None: there is no accuracy.
        decision: "count", the class of the most output spikes, when the trial is over; or "first", that of
            the first one.
        tau_syn: the network's synaptic time constant in time steps, which chips without a clock scale to
            their own; None: it has none. A clocked chip takes the network's time steps for its own.
        duration, n_samples: of event lists: time steps of a trial, samples.
        class_names: of the output neurons; None: their numbers.

    Returns:
        The account; its accuracy is None without labels.

    Raises:
        ConfigError: unknown prices, or an unknown decision.
        DataError: a NIR graph that is not one row of layers.
        ShapeError, DtypeError, ValueRangeError: what was expected and what was got.
    """
    chip = read_prices(find(str(prices), conf_folder() / "prices"))
    one_of("decision", decision, ["count", "first"])
    if tau_syn is not None and not (is_number(tau_syn) and 0.0 < tau_syn < math.inf):
        raise ValueRangeError(f"tau_syn must be a positive number of time steps, got {tau_syn!r}")
    if not (duration is None or is_number(duration)):
        raise ValueRangeError(f"duration must be a number of time steps, got {duration!r}")
    if n_samples is not None:
        n_samples = whole("n_samples", n_samples, 1)
    if not isinstance(spikes, Sequence | Mapping) or isinstance(spikes, str):
        raise ConfigError(f"spikes must be a list of populations, or these by name, got {spikes!r:.80}")
    made = _recorded(spikes, synapses, duration, n_samples)
    n_classes = made.populations[-1][1]
    known = (
        None
        if labels is None
        else class_labels("labels", as_array("labels", labels), made.n_samples, n_classes)
    )
    names = _names(class_names, n_classes)
    own = for_recording(chip, made.duration, tau_syn)
    counted = activity(made, known, decision == "first", 1.0 if tau_syn is None else float(tau_syn))
    cost = cost_of(counted, own, names, steps=made.steps)
    told = dict(cost.summary)
    if told["refused"] and not own.clocked and tau_syn is None:
        told["refused"] += "; tau_syn, in time steps, would tell it"
    curve = dict(cost.anytime)
    if known is None:
        told["accuracy"] = curve["accuracy"] = None
    return replace(cost, accuracy=told["accuracy"], refused=told["refused"], summary=told, anytime=curve)


def _recorded(
    spikes: Sequence[Any] | Mapping[str, Any], synapses: Any, duration: float | None, n_samples: int | None
) -> Recording:
    if synapses is None or isinstance(synapses, (list, tuple)):
        if isinstance(spikes, Mapping):
            raise ConfigError("spikes by name need a NIR graph as synapses, got none")
        return recording(list(spikes), synapses, duration, n_samples)
    row = populations(synapses)
    if not isinstance(spikes, Mapping):
        if any(row.bias):
            raise ConfigError(
                f"spikes must be given by name where there are bias spikes, got {len(spikes)} in a row"
            )
        return recording(list(spikes), row.matrices, duration, n_samples)
    wanted = [*row.names, *(name for layer in row.bias for name in layer)]
    if set(spikes) != set(wanted):
        raise ConfigError(
            f"spikes must be those of {', '.join(map(repr, wanted))}, got {', '.join(map(repr, spikes))}"
        )
    bias = [[(name, spikes[name], matrix) for name, matrix in layer.items()] for layer in row.bias]
    given = [spikes[name] for name in row.names]
    return recording(given, row.matrices, duration, n_samples, bias, [repr(name) for name in row.names])


def _names(given: Sequence[str] | None, n_classes: int) -> list[str]:
    names = [str(k) for k in range(n_classes)] if given is None else list(names_of("class_names", given))
    if len(names) != n_classes:
        raise ValueRangeError(f"class_names must be {n_classes}, one an output neuron, got {len(names)}")
    return names
