"""A network as files hold it: arrays and a header, which become a network again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from gpuspike.api.chip import Chip
from gpuspike.api.history import History
from gpuspike.api.network import Network
from gpuspike.api.neurons import of_told
from gpuspike.errors import DataError
from gpuspike.network.delays import DelayRule
from gpuspike.network.parameters import Parameters
from gpuspike.plugins import NotGivenError

Array = NDArray[Any]

ALONE = "commands_alone"
"""Of a network's provenance: values of its run that `gs.fit` has nothing for."""
PRICES = "prices"
"""Of a network's provenance: what its run was priced with."""
KEPT_PRICES = "kept_prices"
"""Of a network's provenance: the values of these prices, as the run has kept them."""


def revived(arrays: Mapping[str, Array], header: Mapping[str, Any], place: str) -> Network:
    """A network out of what `Network.save` writes.

    Warns:
        UserWarning: a training whose loss or optimiser nobody has registered; the network answers without it.

    Raises:
        DataError: another content.
    """
    net = Network.__new__(Network)
    try:
        net._build(
            header["sizes"],
            header["bias_times"],
            header["seed"],
            header["replicas"],
            of_told(header["neuron"]),
            header["dtype"],
            header["backend"],
            trained := header.get("trained", ()),
            DelayRule(**header.get("delay_rule", {})),
        )
        layers = net._architecture.layers
        net.parameters = Parameters.from_arrays(arrays, layers, net.replicas, net.dtype, place, trained)
        told: Any = {name: arrays[f"history_{name}"] for name in History.names()}
        told |= {"step": header["step"], "step_reason": header.get("step_reason")}
        net.epoch, net.history = int(header["epoch"]), History(**told)
        net.told_recipe = header["recipe"]
        try:
            _ = net.recipe
        except NotGivenError as error:
            then = (
                "until then the network answers, net.recipe is refused, and gs.fit does not go on with them"
            )
            warnings.warn(f"{place}: {error}; {then}", stacklevel=3)
        net.provenance = dict(header["provenance"])
        chip = header["chip"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{place} holds no network of this version: {error!r}") from None
    net.state = {n: a for n, a in arrays.items() if n.startswith(("optimizer_", "bump_"))}
    if chip is None:
        return net
    drawn = {n.removeprefix("chip_"): a for n, a in arrays.items() if n.startswith("chip_")}
    return net.placed(Chip.of(chip["values"], chip["seed"], drawn), header["gradient"])
