"""A chip as a user holds it: a kind, a seed, and once it is under a network, a piece of silicon."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gpuspike.accountant import find, read_prices
from gpuspike.config.composition import typed
from gpuspike.config.files import conf_folder
from gpuspike.config.fitting import preset_values
from gpuspike.config.hints import priced_as, texts
from gpuspike.config.schema import NewChip, SubstrateConfig, read_substrate, substrate_config
from gpuspike.errors import ConfigError, DataError, ShapeError
from gpuspike.kernels import Kernels
from gpuspike.kinds import plain, whole
from gpuspike.network.layers import Layer
from gpuspike.registry import one_of
from gpuspike.runs.values import substrate_of
from gpuspike.store import checkpoint
from gpuspike.strangers import no_interpolation
from gpuspike.substrate import EmulatedChip, Substrate
from gpuspike.substrate.spec import NoRoom
from gpuspike.substrate.unit import other_unit

if TYPE_CHECKING:
    from gpuspike.api.network import Network

Array = NDArray[Any]

GRADIENTS = ("nominal", "exact", "ideal")
MOST_SEED = 2**32 - 1


class Chip:
    """One emulated chip for each replica of a network, to be put under it with `net.on(chip)`.

    Args:
        kind: name of a preset, such as "bss2" (docs/substrates.md has them all), or path of a YAML file.
        seed: of the first replica's chip; that of replica r is seed + r.
        values: of `gpuspike.substrate.Substrate`, in place of the preset's, of which the others stay:
            weight_bits=4 needs weight_lsb=0 beside it where the preset has a step. Times in tau_syn.

    Attributes:
        name: of the kind.
        prices: what `gs.price` takes for it unless told otherwise, a name or a file.
        values: all values of the kind.
        drawn: arrays of the piece of silicon, once it is under a network.

    Raises:
        ConfigError: an unknown kind or value, or prices that are not there.
        ValueRangeError: a value that means nothing, or two that contradict each other.
    """

    def __init__(self, kind: str | Path = "ideal", *, seed: int = 0, **values: Any) -> None:
        folder = conf_folder() / "substrate"
        if not isinstance(kind, (str, Path)):
            raise ConfigError(
                f"a chip is made of a name, or a YAML file, and values: gs.Chip('ideal', gain_std=0.1), got "
                f"{type(kind).__name__}"
            )
        path = Path(kind)
        if path.suffix not in (".yaml", ".yml"):
            names = sorted(f.stem for f in folder.glob("*.yaml"))
            if str(kind) not in names and (near := priced_as(str(kind))):
                raise ConfigError(
                    f"there is no chip {str(kind)!r}; did you mean {near!r}, which is priced so?"
                )
            path = folder / f"{one_of('chip', str(kind), names)}.yaml"
        known = _keys()
        for name in values:
            one_of("value of a chip", name, known)
        values = {name: plain(value) for name, value in values.items()}
        if wrong := "; ".join(texts(values, type(substrate_config()))):
            raise ConfigError(wrong)
        config = _plain(read_substrate(path))
        if config["new_chip"] != NewChip.run.value:
            raise ConfigError(f"{path}: a Chip is one piece of silicon, got new_chip={config['new_chip']}")
        self._set(_plain(typed(config | values, type(substrate_config()))), seed, {})
        read_prices(find(self.prices, conf_folder() / "prices"))  # refuses what cannot be

    def _set(self, values: Mapping[str, Any], seed: int, drawn: Mapping[str, Array]) -> None:
        self.seed = whole("seed of a chip", seed, 0)
        if seed > MOST_SEED:
            raise ConfigError(f"seed of a chip must be at most {MOST_SEED}, got {seed}")
        self.values, self.drawn = dict(values), dict(drawn)
        self.name, self.prices = str(values["name"]), str(values["prices"])
        self.substrate(1.0)  # refuses what means nothing

    @classmethod
    def of(cls, values: Mapping[str, Any], seed: int, drawn: Mapping[str, Array]) -> Chip:
        """A chip of all its values, with the arrays of a piece of silicon, if it is one already.

        Raises:
            DataError: values that refer to others.
        """
        no_interpolation(values)
        chip = cls.__new__(cls)
        chip._set(_plain(typed(dict(values), type(substrate_config()))), seed, drawn)
        return chip

    def substrate(self, tau_syn: float) -> Substrate:
        """What it does to a network with this time constant."""
        return substrate_of(typed(dict(self.values), type(substrate_config())), tau_syn)

    def emulated(
        self, layers: Sequence[Layer], kernels: Kernels, n_replica: int, tau_syn: float
    ) -> EmulatedChip:
        """Its emulator under a network: the piece of silicon that it is, or one drawn from its seed.

        Raises:
            ConfigError: a network that has no room on it.
            ShapeError: a piece of silicon that was drawn for another network.
        """
        substrate = self.substrate(tau_syn)
        try:
            substrate.check_fit(layers)
        except NoRoom as error:
            wider = Chip.of(self.values | dict.fromkeys(error.limits, 0), self.seed, {})
            zeros = ", ".join(f"{name}=0" for name in error.limits)
            raise error.by(f"gs.{wider!r}" if wider.changed() else f"gs.Chip(FILE, {zeros})") from None
        seeds = [(self.seed + r) % (MOST_SEED + 1) for r in range(n_replica)]
        chip = EmulatedChip(substrate, layers, kernels, seeds)
        if self.drawn:
            try:
                chip.take(self.drawn)
            except DataError as error:
                raise ShapeError(f"this piece of silicon was drawn for another network: {error}") from None
        return chip

    def save(self, path: str | Path) -> None:
        """Writes the piece of silicon to an .npz file.

        Raises:
            ConfigError: it has not been drawn yet.
            OutputError: the file cannot be written, or something else than a chip would be lost.
        """
        if not self.drawn:
            raise ConfigError(
                "a chip is drawn when it comes under a network: save net.on(chip).chip, got one not drawn yet"
            )
        header = {"kind": "chip", "seed": self.seed, "values": self.values}
        checkpoint.save(Path(path), self.drawn, header, keep_previous=False)

    @classmethod
    def load(cls, path: str | Path) -> Chip:
        """Reads a piece of silicon that `save` has written.

        Raises:
            DataError: no such file, or another content.
        """
        if not Path(path).exists():
            raise DataError(f"path must be a chip's file, got {path}, which does not exist")
        arrays, header = checkpoint.load(Path(path))
        if header.get("kind") != "chip":
            raise DataError(f"{path} must hold a chip, got a {header.get('kind', 'checkpoint of a run')}")
        return cls.of(header["values"], header["seed"], arrays)

    def __repr__(self) -> str:
        own = "".join(f", {name}={value!r}" for name, value in self.changed().items())
        return f"Chip({self.name!r}, seed={self.seed}{own}{', drawn' if self.drawn else ''})"

    def changed(self) -> dict[str, Any]:
        """Values that are not those of the preset of its name; none where that is a file of a user's own."""
        path = conf_folder() / "substrate" / f"{self.name}.yaml"
        if not path.is_file():
            return {}
        usual = _plain(read_substrate(path))
        both = [name for name in _keys() if name in self.values]  # not those of a distortion registered since
        return {name: self.values[name] for name in both if self.values[name] != usual[name]}


def _keys() -> list[str]:
    """What a chip is made of: all of a configuration's but what is asked of a run."""
    of_a_run = {field.name for field in fields(SubstrateConfig)} - {f.name for f in fields(Substrate)}
    return [f.name for f in fields(substrate_config()) if f.name not in of_a_run]


def _plain(config: SubstrateConfig) -> dict[str, Any]:
    return {name: v.value if isinstance(v, enum.Enum) else v for name, v in asdict(config).items()}


def refuse_other(chip: Any, gradient: str) -> None:
    """Refuses what is neither a chip nor None, and an unknown gradient; raises ConfigError."""
    if chip is not None and not isinstance(chip, Chip):
        meant = f"; did you mean gs.Chip({chip!r})?" if isinstance(chip, (str, Path)) else ""
        raise ConfigError(f"chip must be a gs.Chip, or None for none, got {type(chip).__name__}{meant}")
    if gradient not in GRADIENTS:
        raise ConfigError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")


def unsuited(net: Network, chip: Chip | None, gradient: str) -> list[str]:
    """What may not be meant of a network that has come onto a chip."""
    substrate = None if chip is None else chip.substrate(net.tau_syn)
    if chip is None or substrate is None or substrate.ideal:
        without = "no chip" if chip is None else f"{chip!r}, which distorts nothing"
        return [f"gradient={gradient!r} is of a chip, got {without}"] if gradient == "exact" else []
    note = other_unit(
        substrate, net.architecture.layers, net.parameters.weights, preset_values(), chip.changed()
    )
    return [note] if note else []
