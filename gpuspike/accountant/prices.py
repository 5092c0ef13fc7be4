"""What a chip's events, time and power cost: a YAML file a chip, checked when it is read.

Each number carries its unit, its source and its grade of evidence; a price also says what it includes. Prices
are all-in (everything the chip draws, by time or by event) or per term, never both. docs/accounting.md
explains the files.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gpuspike.accountant.units import UNITS, Band, Dimension, band
from gpuspike.errors import ConfigError, DataError, DtypeError
from gpuspike.strangers import names_of, yaml_text

GRADES = ("measured", "stated", "simulated", "derived", "projected", "assumption", "reported, unchecked")
"""Evidence for a number, the best first; "stated" is a design value or a setting."""

ALL_IN, PER_TERM = "all_in", "per_term"

PER: dict[str, Dimension] = {
    "synaptic_event": "energy",  # one spike that arrives at one synapse with a weight other than 0
    "spike": "energy",  # any spike: inputs, bias spikes, neurons
    "neuron_spike": "energy",  # a spike of a neuron on the chip
    "message": "energy",  # a spike on its way to one of the cores that it has targets on
    "hop": "energy",  # a message's way from one tile to the next
    "neuron_update": "energy",  # one neuron in one time step
    "chip": "power",  # drawn as long as a sample takes, by every chip
    "neuron": "power",  # drawn as long as a sample takes, by every neuron
}
"""What a price may be paid for, and its dimension."""

_TIMES: dict[str, Dimension] = {
    "tau_syn": "time",
    "step": "time",
    "steps_per_tau_syn": "count",
    "trial": "model time",  # or time, on a chip with a tau_syn
    "reset": "time",
    "transfer": "time",
}
_CAPACITIES = ("neurons", "fan_in", "rows_per_weight", "core_neurons", "cores_per_tile")


@dataclass(frozen=True)
class Number:
    """One number of a price file.

    Attributes:
        band: in SI (J, W, s), tau_syn or 1; None where no figure is known.
        value, unit: as the file writes them.
        source: who says so;  grade: one of GRADES.
        includes: what the number covers, and what it leaves out.
    """

    band: Band | None
    value: Any
    unit: str
    source: str
    grade: str
    includes: str = ""

    def told(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            name: getattr(self, name)
            for name in ("value", "unit", "grade", "source", "includes")
            if getattr(self, name) != ""
        }


@dataclass(frozen=True)
class Price:
    """What one thing costs; `per` is a key of PER."""

    name: str
    per: str
    number: Number


SHORTEST, LONGEST = 1e-6, 1e4
"""Of a trial, in tau_syn: what is counted over time has twenty steps in each."""


@dataclass(frozen=True)
class Prices:
    """A chip as the accountant sees it.

    Attributes:
        key: name of the file.
        name: of the chip;  setting: what the numbers hold for.
        scope: ALL_IN or PER_TERM.
        items: the all-in price alone, or all terms.
        times: tau_syn, or step and steps_per_tau_syn of a clocked chip; trial; reset and transfer if they are
            given.
        capacity: neurons and fan_in of a chip and so on, as far as they are known.
        merges: neuron circuits can be joined, so that a neuron gets more inputs than one circuit has.
    """

    key: str
    name: str
    setting: str
    scope: str
    items: tuple[Price, ...]
    times: Mapping[str, Number]
    capacity: Mapping[str, Number]
    merges: bool

    @property
    def clocked(self) -> bool:
        """Whether the chip computes in time steps."""
        return "steps_per_tau_syn" in self.times

    @property
    def trial(self) -> float:
        """How long a sample is presented [tau_syn], in whole time steps of a clocked chip."""
        number = self.times["trial"]
        if self.clocked:
            return math.ceil(_point(number) * self.steps_per_tau * (1.0 - 1e-6)) / self.steps_per_tau
        return _point(number) / (1.0 if number.unit in UNITS["model time"] else _point(self.times["tau_syn"]))

    @property
    def steps_per_tau(self) -> float:
        """Time steps of a clocked chip in one tau_syn."""
        return _point(self.times["steps_per_tau_syn"])

    def number_of(self, name: str) -> int | None:
        """A capacity, None where it is not known."""
        entry = self.capacity.get(name)
        return None if entry is None or entry.band is None else round(_point(entry))

    @property
    def evidence(self) -> str:
        """The weakest grade among the prices, and among the times where something is paid for by time."""
        timed = any(PER[item.per] == "power" or item.per == "neuron_update" for item in self.items)
        return weakest([*(item.number for item in self.items), *(self.times.values() if timed else ())])

    @property
    def time_evidence(self) -> str:
        """The weakest grade among the times."""
        return weakest(self.times.values())

    def told(self) -> dict[str, dict[str, Any]]:
        """All numbers with their sources, for summary.json."""
        numbers = {f"time.{name}": number.told() for name, number in self.times.items()}
        numbers |= {f"capacity.{name}": number.told() for name, number in self.capacity.items()}
        for item in self.items:
            name = ALL_IN if self.scope == ALL_IN else f"terms.{item.name}"
            numbers[name] = {"per": item.per, "scope": self.scope, **item.number.told()}
        return numbers

    def kept(self) -> dict[str, Any]:
        """All of it as JSON knows it, for a run to keep: `of_kept` makes prices of it again."""
        words = {"name": self.name, "setting": self.setting, "prices": self.key, "scope": self.scope}
        return {**words, "merges": self.merges, "numbers": self.told()}


def _point(number: Number) -> float:
    assert number.band is not None
    return float(number.band[0])


def weakest(numbers: Iterable[Number]) -> str:
    """The weakest of some numbers' grades."""
    return max((number.grade for number in numbers), key=GRADES.index)


def find(name: str, folder: Path) -> Path:
    """The file of a shipped chip's prices, or a user's own.

    Args:
        name: of a file in `folder` without its ending, or a path to a YAML file.
        folder: where the shipped files are.

    Raises:
        ConfigError: neither.
    """
    own = name.endswith((".yaml", ".yml"))
    path = Path(name) if own else folder / f"{name}.yaml"
    if (own or "/" not in name) and path.is_file():
        return path
    if own:
        raise ConfigError(f"prices: there is no file {name}, seen from {Path.cwd()}")
    shipped = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
    emulated = folder.parent / "substrate" / f"{name}.yaml"  # the emulation of a chip has a name of its own
    if "/" not in name and emulated.is_file():
        close = [yaml.safe_load(emulated.read_text(encoding="utf-8"))["prices"]]
    else:
        close = difflib.get_close_matches(name, shipped.split(", "), 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ConfigError(f"prices must be one of {shipped}, or a path to a YAML file, got {name!r}{hint}")


def read_prices(path: Path) -> Prices:
    """Reads and checks a price file.

    Raises:
        ConfigError: what is missing, unknown, of the wrong unit or added up wrongly, and where.
    """
    try:
        content = yaml.safe_load(yaml_text(path))
    except (OSError, ValueError, yaml.YAMLError, DataError) as error:
        raise ConfigError(f"cannot read the prices {path}: {' '.join(str(error).split())}") from None
    return _checked(content, path.stem)


def of_kept(told: Mapping[str, Any]) -> Prices:
    """Prices from what `Prices.kept` tells, or from the part "chip" of a summary.json, which has it too.

    Raises:
        ConfigError: something else.
    """
    try:
        content: dict[str, Any] = {"name": told["name"], "setting": told["setting"]}
        for name, number in told["numbers"].items():
            part, _, key = name.partition(".")
            content |= {part: content.get(part, {}) | {key: number} if key else number}
        # Older runs have not kept it, and whether neurons were merged counts for their network alone.
        merges = told.get("merges", max(told.get("circuits_per_neuron") or [1]) > 1)
        content["capacity"] = content.get("capacity", {}) | {"merges": merges}
        return _checked(content, str(told["prices"]))
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"prices that were kept must have all their parts, got {error!r}") from None


def answer_keys(prices: Sequence[Prices], given: Sequence[str]) -> list[str]:
    """Keys of an answer: names of files; as they are given where two in different folders have one name."""
    names = [each.key for each in prices]
    return [name if names.count(name) == 1 else own for name, own in zip(names, given, strict=True)]


def _checked(content: Any, file: str) -> Prices:
    """Prices of what a file of that name, without its ending, holds."""
    where = f"prices {file}"
    keys = ("name", "setting", "time", "all_in", "terms", "capacity")
    parts = _mapping(where, content, keys, required=("name", "setting", "time"))
    if ("all_in" in parts) == ("terms" in parts):
        raise ConfigError(
            f"{where}: needs either all_in or terms, which are never added, got "
            f"{'both' if 'terms' in parts else 'neither'}"
        )
    for key in ("name", "setting"):
        if not isinstance(parts[key], str) or not parts[key].strip():
            raise ConfigError(f"{where}: {key} must be a text, got {parts[key]!r}")
    times = _times(f"{where}, time", parts["time"])
    if "all_in" in parts:
        items = (_price(f"{where}, all_in", ALL_IN, parts["all_in"], ALL_IN),)
    else:
        if parts["terms"] == {}:
            raise ConfigError(f"{where}, terms: must have at least one term, got none")
        terms = _mapping(f"{where}, terms", parts["terms"])
        items = tuple(_price(f"{where}, terms.{key}", key, entry, PER_TERM) for key, entry in terms.items())
    scope = ALL_IN if "all_in" in parts else PER_TERM
    clocked = "steps_per_tau_syn" in times
    for item in items:
        if item.per == "neuron_update" and not clocked:
            raise ConfigError(f"{where}, {item.name}: neuron_update needs time.steps_per_tau_syn")
    capacity = _mapping(f"{where}, capacity", parts.get("capacity", {}), (*_CAPACITIES, "merges"), empty=True)
    merges = capacity.pop("merges", False)
    if not isinstance(merges, bool):
        raise ConfigError(f"{where}, capacity.merges must be true or false, got {merges!r}")
    numbers = {key: _number(f"{where}, capacity.{key}", entry, "count") for key, entry in capacity.items()}
    for key, number in numbers.items():
        if number.band is not None and not (
            number.band[0] == number.band[1] >= 1 and number.band[0] % 1 == 0
        ):
            raise ConfigError(f"{where}, capacity.{key}: must be a whole number, got {number.value!r}")
    for item in items:
        if item.per in ("message", "hop") and not {"core_neurons", "cores_per_tile"} <= numbers.keys():
            raise ConfigError(
                f"{where}, {item.name}: {item.per} needs capacity.core_neurons and capacity.cores_per_tile"
            )
    try:
        name, setting = names_of(f"{where}: name and setting", (parts["name"], parts["setting"]))
    except DtypeError as error:
        raise ConfigError(str(error)) from None
    prices = Prices(file, name, setting, scope, items, times, numbers, merges)
    if not SHORTEST <= prices.trial <= LONGEST:
        raise ConfigError(
            f"{where}, time.trial: must be from {SHORTEST:g} to {LONGEST:g} tau_syn, got {prices.trial:g}"
        )
    return prices


def _mapping(
    where: str,
    content: Any,
    keys: Iterable[str] | None = None,
    required: Iterable[str] = (),
    *,
    empty: bool = False,
) -> dict[str, Any]:
    """A copy of a mapping with no other keys than these and all that are required."""
    if not isinstance(content, dict) or not (content or empty):
        raise ConfigError(f"{where}: must be a mapping, got {content!r:.60}")
    known = None if keys is None else tuple(keys)
    for key in content:
        if known is not None and key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; valid keys: {', '.join(known)}")
    for key in required:
        if key not in content:
            raise ConfigError(f"{where}: {key} is missing")
    return {str(key): value for key, value in content.items()}


def _number(where: str, content: Any, dimension: Dimension, extra: tuple[str, ...] = ()) -> Number:
    keys = ("value", "unit", "source", "grade", "includes", *extra)
    entry = _mapping(where, content, keys, required=("value", "unit", "source", "grade"))
    if entry["grade"] not in GRADES:
        raise ConfigError(f"{where}: the grade must be one of {'; '.join(GRADES)}, got {entry['grade']!r}")
    for key in ("source", "includes"):
        text = entry.get(key, "-")
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{where}: {key} must be a text, got {text!r}")
    value = entry["value"]
    value = [_read(end) for end in value] if isinstance(value, list) else _read(value)
    unit: Any = entry["unit"]
    unit = "1" if type(unit) is int and unit == 1 else unit
    checked = band(where, 0 if value is None else value, unit, dimension)
    known = None if value is None else checked
    return Number(known, value, unit, entry["source"], entry["grade"], entry.get("includes", ""))


_SHORT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def _read(value: Any) -> Any:
    """A number like 1e-3 as one, which the YAML of old takes for a text."""
    return float(value) if isinstance(value, str) and _SHORT.fullmatch(value) else value


def _price(where: str, name: str, content: Any, scope: str) -> Price:
    entry = _mapping(where, content)
    per = entry.get("per")
    if not isinstance(per, str) or per not in PER:
        raise ConfigError(f"{where}: per must be one of {', '.join(PER)}, got {per!r}")
    if entry.get("scope") != scope:
        raise ConfigError(f"{where}: the scope must be {scope} here, got {entry.get('scope')!r}")
    if "includes" not in entry:
        raise ConfigError(f"{where}: includes is missing: what the price covers")
    return Price(name, per, _number(where, content, PER[per], ("per", "scope")))


def _times(where: str, content: Any) -> dict[str, Number]:
    times = _mapping(where, content, _TIMES, required=("trial",))
    clocked = "step" in times or "steps_per_tau_syn" in times
    if clocked == ("tau_syn" in times) or clocked != {"step", "steps_per_tau_syn"}.issubset(times):
        raise ConfigError(
            f"{where}: needs either tau_syn, or step and steps_per_tau_syn, got {', '.join(times)}"
        )
    kinds = dict(_TIMES)
    trial = times["trial"]
    in_seconds = (
        isinstance(trial, dict) and isinstance(trial.get("unit"), str) and trial["unit"] in UNITS["time"]
    )
    if in_seconds and not clocked:
        kinds["trial"] = "time"
    numbers = {key: _number(f"{where}.{key}", entry, kinds[key]) for key, entry in times.items()}
    for key in ("trial", "steps_per_tau_syn", "tau_syn" if kinds["trial"] == "time" else "trial"):
        if key in numbers:
            known = numbers[key].band
            if known is None or known[0] != known[1] or not known[0] > 0.0:
                raise ConfigError(f"{where}.{key}: must be one positive number, got {numbers[key].value!r}")
    for key, number in numbers.items():
        if number.band is not None and key in ("tau_syn", "step") and not number.band[0] > 0.0:
            raise ConfigError(f"{where}.{key}: must be positive, got {number.value!r}")
    return numbers
