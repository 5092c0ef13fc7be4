"""`gpuspike-price`: what chips would need for the spikes of any simulator."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from gpuspike.accountant import answer_keys, find, read_prices
from gpuspike.cli.exchange import carry_out
from gpuspike.config.evaluate import as_lists
from gpuspike.config.exchange import PriceConfig
from gpuspike.config.files import conf_folder
from gpuspike.errors import ConfigError, DataError, OutputError
from gpuspike.reading import text_of
from gpuspike.store.run_folder import check_writable
from gpuspike.strangers import unpack

HELP = """gpuspike-price tells what chips would need for the spikes of any simulator.

    gpuspike-price SPIKES.npz [KEY=VALUE ...]

SPIKES.npz  spikes_0, spikes_1, ...: (time, sample, neuron) spikes of the inputs, each layer, the outputs; or
            sample_0, neuron_0, time_0 (and n_neurons_0), one entry a spike, times in time steps;
            weights_0, ...: (n_pre, n_post) from each to the next, zeros are no synapses; or targets_0, ...:
            how many each neuron has; neither: all with all; labels: (sample,) integers, if there are any
synapses    a NIR file in the place of weights; arrays are spikes_NODE, or sample_NODE, ..., then
prices      chips, prices=loihi,brainscales2: names or YAML files
decision    count (the most output spikes) or first (the first one)
tau_syn     the network's synaptic time constant in time steps, for chips without a clock
duration, n_samples   of lists of events
answer      a JSON file for all figures

--cfg job shows all values; -m sweeps. See docs/exchange.md."""

_NAME = re.compile(r"(?P<kind>spikes|sample|neuron|time|n_neurons|weights|targets)_(?P<of>.+)")
_OF_SPIKES = re.compile(r"(spikes|sample|neuron|time)_")


def price() -> None:
    """`gpuspike-price`: see docs/exchange.md."""
    carry_out("price", HELP, PriceConfig, _price, prepare=as_lists)


def _price(config: PriceConfig, rest: list[str], console: Console) -> None:
    from gpuspike.api.price import price_spikes
    from gpuspike.report.comparison import comparison
    from gpuspike.runs.progress import plain
    from gpuspike.store.run_folder import replace_text

    del rest
    if not config.prices:
        raise ConfigError("prices must name at least one chip, got none")
    names = list(dict.fromkeys(config.prices))
    keys = answer_keys([read_prices(find(name, conf_folder() / "prices")) for name in names], names)
    if config.answer:
        _keep(Path(config.answer), Path(config.spikes), Path(config.synapses), *map(Path, names))
    spikes, synapses, labels = read_recording(Path(config.spikes), config.synapses)
    costs = [
        price_spikes(
            spikes,
            synapses,
            name,
            labels=labels,
            decision=config.decision,
            tau_syn=config.tau_syn,
            duration=config.duration,
            n_samples=config.n_samples,
        )
        for name in names
    ]
    chips = [cost.summary for cost in costs]
    table, notes = comparison(Path(config.spikes).name, chips)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    used = chips[0]
    counted = ", ".join(f"{name} {n:.4g}" for name, n in used["spikes_per_sample"].items() if n)
    events = used["synaptic_events_per_sample"]
    console.print(f"spikes a sample: {counted or 'none'}; synaptic events {events:.4g}", highlight=False)
    if config.answer:
        told = {
            "spikes": config.spikes,
            "chips": dict(zip(keys, chips, strict=True)),
            "anytime": {key: cost.anytime for key, cost in zip(keys, costs, strict=True)},
            "neurobench": costs[0].neurobench,
        }
        try:
            replace_text(Path(config.answer), json.dumps(plain(told), indent=2) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write {config.answer}: {error.strerror or error}") from None
        console.print(f"answer   {config.answer}", soft_wrap=True)


def _keep(answer: Path, *read: Path) -> None:
    """Refuses an answer in the place of another file, or where none can be; raises OutputError."""
    if answer.is_dir():
        raise OutputError(f"answer must be a file, got the folder {answer}")
    if not answer.parent.is_dir():
        raise OutputError(f"cannot write {answer}: its folder must exist, got none at {answer.parent}")
    check_writable(answer.parent)
    if not answer.is_file():
        return
    if any(path.is_file() and answer.samefile(path) for path in read):
        raise OutputError(f"answer must be another file than what is read, got {answer}")
    try:
        text = text_of(answer)
        found = json.loads(text) if text else dict.fromkeys(_OWN)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() >= _OWN:
        raise OutputError(
            f"{answer} is there already, and no answer of gpuspike-price: it would be lost; take another name"
        )


_OWN = {"spikes", "chips", "anytime", "neurobench"}
"""What an answer has."""


def read_recording(path: Path, synapses: str) -> tuple[Any, Any, Any]:
    """Spikes, synapses and labels of an .npz file, as `gpuspike.price_spikes` takes them.

    Args:
        synapses: a NIR file, or "".

    Raises:
        DataError: no such file, a damaged one, or arrays that do not belong together.
    """
    if not path.is_file():
        why = f"{path} is a folder" if path.is_dir() else f"no file at {path}"
        asks = "; gpuspike-evaluate run=FOLDER prices a run" if (path / "config.yaml").is_file() else ""
        raise DataError(f"{why}{asks}")
    try:
        with open(path, "rb") as file:
            arrays = unpack(file)
    except Exception as error:  # a damaged archive raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is not a readable .npz file: {reason}") from None
    labels = arrays.pop("labels", None)
    found: dict[str, dict[str, Any]] = {}
    if others := [name for name in arrays if not _NAME.fullmatch(name)]:
        needed = "spikes_NODE of each node" if synapses else "spikes_0 and spikes_1, at least,"
        lacking = "" if any(map(_OF_SPIKES.match, arrays)) else f"; {needed} must be there"
        got = ", ".join(others)
        raise DataError(f"{path}: arrays are spikes_0, weights_0 and so on, and labels, got {got}{lacking}")
    for name, array in arrays.items():
        match = _NAME.fullmatch(name)
        assert match is not None
        found.setdefault(match["of"], {})[match["kind"]] = array
    links = {of: own.pop(kind) for of, own in found.items() for kind in ("weights", "targets") if kind in own}
    spikes = {of: _spikes(path, of, own) for of, own in found.items() if own}
    if synapses:
        if links:
            raise DataError(
                f"{path} must not have weights or targets beside a NIR file, got those of {min(links)}"
            )
        return spikes, synapses, labels
    in_order = [str(k) for k in range(len(spikes))]
    if set(spikes) != set(in_order):
        raise DataError(
            f"{path}: spikes must be those of populations 0, 1, 2 and so on, got {', '.join(spikes)}"
        )
    if not links:
        return [spikes[of] for of in in_order], None, labels
    if set(links) != set(in_order[:-1]):
        raise DataError(
            f"{path} must have weights or targets of all of {', '.join(in_order[:-1])}, got "
            f"{', '.join(links)}"
        )
    return [spikes[of] for of in in_order], [links[of] for of in in_order[:-1]], labels


def _spikes(path: Path, of: str, own: dict[str, Any]) -> Any:
    if "spikes" in own:
        if len(own) > 1:
            raise DataError(f"{path}: spikes_{of} must be alone, got {', '.join(own)}")
        return own["spikes"]
    if "n_neurons" in own:
        own["n_neurons"] = int(own["n_neurons"])
    return own
