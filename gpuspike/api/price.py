"""What a chip would need for a network's answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from numpy.typing import ArrayLike

from gpuspike.accountant import find, read_prices
from gpuspike.accountant.price import Cost, cost_of, observe
from gpuspike.api.checks import class_labels, spike_times
from gpuspike.api.network import Network
from gpuspike.config.composition import conf_folder
from gpuspike.errors import ValueRangeError
from gpuspike.training.evaluation import Labelled
from gpuspike.training.fit import Recipe


def price(
    net: Network,
    t_in: ArrayLike,
    labels: ArrayLike,
    prices: str | Path = "brainscales2",
    *,
    class_names: Sequence[str] | None = None,
) -> Cost:
    """Counts what a network does on some samples, and what these counts would cost on a chip.

    Args:
        net: also one that answers on an emulated chip; the prices need not be of the same chip.
        t_in: (n_samples, n_inputs) spike times, inf = no spike.
        labels: (n_samples,) integers from 0.
        prices: name of a chip's prices (docs/accounting.md has them all), or path of a YAML file.
        class_names: of the output neurons; None: their numbers.

    Raises:
        ConfigError: unknown prices.
        ShapeError, DtypeError, ValueRangeError: what was expected and what was got.
    """
    chip = read_prices(find(str(prices), conf_folder() / "prices"))
    t_in = spike_times("t_in", t_in, net.sizes[0], net.dtype)
    known = class_labels("labels", labels, len(t_in), net.sizes[-1])
    names = [str(k) for k in range(net.sizes[-1])] if class_names is None else list(class_names)
    if len(names) != net.sizes[-1]:
        raise ValueRangeError(f"class_names must be {net.sizes[-1]}, one an output neuron, got {len(names)}")
    recipe = net.recipe or Recipe()
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
    return cost_of(observed.activity, chip, names)
