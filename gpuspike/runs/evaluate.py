"""What `gpuspike-evaluate` does: a finished run's network on a split, and on chips. Glue."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from gpuspike.accountant import Prices, answer_keys, neurobench
from gpuspike.config.composition import conf_folder, read_yaml
from gpuspike.config.evaluate import EvaluateConfig
from gpuspike.config.fitting import chip_label, preset_values
from gpuspike.config.schema import GradientName, NewChip, read_config, read_substrate
from gpuspike.errors import ConfigError, OutputError
from gpuspike.network.decision import decisions
from gpuspike.network.network import Machine
from gpuspike.network.parameters import Parameters
from gpuspike.reading import text_of
from gpuspike.report.comparison import comparison, published
from gpuspike.report.evaluation_page import (
    counted_on,
    headline,
    population_lines,
    seen_chips,
    write_evaluation_page,
)
from gpuspike.report.figures import chips as chip_plots
from gpuspike.runs.drawing import drawn
from gpuspike.runs.experiment import Experiment, build
from gpuspike.runs.measure import measure, on_chip
from gpuspike.runs.population import accuracies, band, yields
from gpuspike.runs.progress import plain
from gpuspike.runs.rehearsal import prepare_kernels, rehearse_steps
from gpuspike.runs.values import checked_substrate
from gpuspike.screen import LINE, discreet, warn
from gpuspike.store import checkpoint, own_data, own_prices
from gpuspike.store.provenance import provenance_of
from gpuspike.store.run_folder import refuse_links
from gpuspike.strangers import write_new
from gpuspike.substrate import EmulatedChip, OnChip
from gpuspike.substrate.spec import NoRoom
from gpuspike.substrate.unit import other_unit
from gpuspike.training.evaluation import Labelled

Array = NDArray[Any]


@dataclass(frozen=True)
class Prepared:
    """What an evaluation needs, read and checked.

    Attributes:
        folder: of the run.
        machine: what answers: the network, or its chips.
        epoch: after which the weights were kept.
        shown: names of these prices, as they are given.
        question: what is asked of the run, as JSON knows it.
        answer: where the result goes.
        notes: what has become of the run's data and prices since it began.
    """

    folder: Path
    parts: Experiment
    machine: Machine
    weights: list[Array]
    epoch: int
    prices: list[Prices]
    shown: list[str]
    question: dict[str, Any]
    answer: Path
    notes: list[str]


def prepare(config: EvaluateConfig) -> Prepared:
    """Reads a run and the prices; writes nothing.

    Raises:
        GpuspikeError: no such run or prices, a damaged checkpoint, or a folder that cannot be written to.
    """
    folder = Path(config.run)
    first = read_config(folder / "config.yaml")
    trained = own_data.at(first, vars(config.dataset), folder)
    own_data.require(trained, folder)
    trained.backend, trained.devices = config.backend, None
    same_chip = not config.substrate and config.chip_seed is None
    if config.substrate:
        preset = conf_folder() / "substrate" / f"{config.substrate}.yaml"
        trained.substrate = read_substrate(preset if preset.is_file() else Path(config.substrate))
    if config.chip_seed is not None:
        trained.chip_seed = config.chip_seed
    arrays, header = checkpoint.load(folder / "checkpoint.npz")
    named = first.substrate.prices
    kept = own_prices.kept(header, folder, named)
    shown = _shown(config, trained.substrate.prices, kept)
    asked = [own_prices.given(name, named, kept) for name in shown]
    # Those of another chip are read where they are shown alone.
    own = asked[0][0] if config.substrate else own_prices.of_run(named, kept, "prices=FILE")[0]
    try:
        parts = build(trained, to_train=False, prices=own)
    except NoRoom as error:  # a chip is changed in its file here
        zeros = ", ".join(f"{name}: 0" for name in error.limits)
        raise error.by(f"substrate=FILE.yaml with {zeros} in the chip's file") from None
    machine = parts.on_chip(parts.chip_seeds)
    if same_chip and isinstance(machine, OnChip) and isinstance(machine.chip, EmulatedChip):
        machine.chip.take({name[5:]: array for name, array in arrays.items() if name.startswith("chip_")})
    if config.chips and machine is parts.network:
        raise ConfigError("chips needs a substrate that is not ideal, substrate=bss2 for example")
    if config.chip_seed is not None and machine is parts.network:
        raise ConfigError(
            f"chip_seed={config.chip_seed} needs a substrate that is not ideal, substrate=bss2 for example"
        )
    first_layer, image = parts.network.layers[0], parts.dataset.image_shape
    own_data.refuse_other_inputs(trained, first_layer, image, (arrays, header), folder)
    place = f"{folder / 'checkpoint.npz'} does not belong to config.yaml beside it"
    layers, dtype = parts.network.layers, trained.dtype.value
    learnt = Parameters.from_arrays(arrays, layers, trained.replicas, dtype, place, parts.trained)
    parts, machine = parts.having(learnt, machine)
    note = own_data.change(trained, own_data.kept(header), first)
    notes = [text for text in (note, *(text for _, text in asked)) if text]
    question = _question(config, shown)
    if note:  # what is asked of other data is another question
        question["data"] = own_data.entries(trained)
    refuse_links(folder)
    answer = _place(config, question)
    _check_writable(answer)
    epoch = int(header.get("epoch", 0))
    prices = [each for each, _ in asked]
    return Prepared(folder, parts, machine, learnt.weights, epoch, prices, shown, question, answer, notes)


def _shown(config: EvaluateConfig, own: str, kept: Mapping[str, Any]) -> list[str]:
    """Prices to account for: without a choice, a file that the chip has comes before the shipped ones.

    Args:
        own: of the chip that answers;  kept: what the run has kept of its own.
    """
    names = list(dict.fromkeys(config.prices))
    there = Path(own).is_file() or bool(kept and not config.substrate)
    return [own, *names] if _all_shipped(config) and own_prices.is_file(own) and there else names


def _all_shipped(config: EvaluateConfig) -> bool:
    """Whether prices are as they are without a choice."""
    return config.prices == list(read_yaml(conf_folder() / "evaluate" / "evaluate.yaml").prices)


def _question(config: EvaluateConfig, shown: Sequence[str]) -> dict[str, Any]:
    """What an evaluation asks. A file that has been edited since asks something else."""

    def asked(name: str) -> str:
        path = Path(name)
        own = path.suffix in (".yaml", ".yml") and path.is_file()
        return f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}" if own else name

    return {
        "split": config.split.value,
        "substrate": asked(config.substrate),
        "chip_seed": config.chip_seed,
        "chips": config.chips,
        "prices": [asked(name) for name in shown],
    }


def _place(config: EvaluateConfig, question: dict[str, Any]) -> Path:
    """The file of an answer: by the name that is given, else one that no other question has."""
    folder = Path(config.run) / "evaluations"
    if config.name:
        return folder / f"{config.name}.json"
    parts = [config.split.value]
    parts += [Path(config.substrate).stem] if config.substrate else []
    parts += [] if config.chip_seed is None else [f"chip{config.chip_seed}"]
    parts += [f"{config.chips}chips"] if config.chips else []
    if not _all_shipped(config):
        few = len(config.prices) <= 3
        named = "+".join(dict.fromkeys(Path(name).stem for name in config.prices))
        parts.append(named if few else f"{len(config.prices)}prices")
    parts += ["other_data"] if "data" in question else []  # the plain name is for the run's own
    path = folder / f"{'_'.join(parts)}.json"
    with suppress(OSError, ValueError, AttributeError, RecursionError):  # not an answer: replaced
        there = json.loads(text_of(path)).get("question", question)
        if there != question:
            digest = hashlib.sha256(json.dumps(question).encode()).hexdigest()[:8]
            return path.with_stem(f"{path.stem}_{digest}")
    return path


def evaluate(config: EvaluateConfig, console: Console, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluates, prints the comparison, and writes it with a page to the run's folder evaluations/.

    Args:
        overrides: the command line, for the answer; none where there was none.

    Returns:
        What the file holds. Of many chips, "accuracy" is the mean over networks and chips, "population" has
        all of them, and "counted" says on which chips, one a replica, spikes were counted.

    Raises:
        GpuspikeError: bad input, before anything is written.
    """
    prepared, split, began = prepare(config), config.split.value, time.strftime("%Y-%m-%d %H:%M")
    parts = prepared.parts
    notes = list(prepared.notes)
    if config.substrate:  # the run's own has been trained on
        where = " in a file of a chip, substrate=FILE.yaml,"
        notes.append(
            other_unit(parts.substrate, parts.network.layers, prepared.weights, preset_values(), where=where)
        )
    notes = [note for note in notes if note]
    for note in notes:
        warn(note, console)

    def rehearse() -> None:
        if prepared.machine is not parts.network:
            return
        layers, dtype = parts.network.layers, parts.config.dtype.value
        weights = [np.ones((1, layer.n_pre, layer.n_post), dtype) for layer in layers]
        decisions(parts.of_replica(0).network, weights, np.zeros((1, layers[0].n_in), dtype))
        rehearse_steps(parts, prepared.prices)

    prepare_kernels(parts, console, rehearse, training=False)
    samples = parts.dataset.splits[split]
    data = {split: Labelled(parts.receive(samples.features, again=True), samples.labels)}
    measured = measure(parts, prepared.machine, prepared.weights, data, split, prepared.prices)
    result = measured.results[split]
    keys = answer_keys(prepared.prices, prepared.shown)
    each = [on_chip(parts, measured, prices) for prices in prepared.prices]
    accounts = dict(zip(keys, each, strict=True))
    answer = plain(
        {
            "run": str(prepared.folder),
            "epoch": prepared.epoch,
            "question": prepared.question,
            "date": began,
            "command": discreet(shlex.join(["gpuspike-evaluate", *overrides])) if overrides else None,
            "notes": notes,
            "split": split,
            "samples": len(data[split]),
            "substrate": {
                "name": chip_label(parts.config.substrate),
                "chip_seeds": [] if prepared.machine is parts.network else parts.chip_seeds,
            },
            "accuracy": {"mean": result.accuracy.mean(), "per_replica": result.accuracy},
            "loss": {"mean": result.loss.mean(), "per_replica": result.loss},
            "chips": {key: account["chip"] for key, account in accounts.items()},
            "anytime": {key: account["anytime"] for key, account in accounts.items()},
            "neurobench": neurobench(measured.activity),
            "emulator": {
                "backend": parts.backend.name,
                "device": parts.backend.device,
                **measured.speed,
            },
            "decisions": _decisions(prepared, samples.features, result.silent_fraction),
            "provenance": provenance_of(parts.config),
        }
    )
    if config.chips:
        reached = accuracies(parts, prepared.weights, data[split], parts.chip_seeds[0], config.chips)
        answer |= {
            "population": plain(
                yields(reached) | {"first_seed": parts.chip_seeds[0], "trained_on": _trained_on(prepared)}
            ),
            "counted": {"chip_seeds": parts.chip_seeds, "accuracy": answer["accuracy"]},
            "accuracy": {"mean": float(reached.mean()), "per_replica": reached.mean(axis=1).tolist()},
        }
        for chip in answer["chips"].values():
            chip |= {"accuracy": answer["accuracy"]["mean"], "undecided_are_wrong": False}
        around = None if seen_chips(answer["population"]) else band(config.chips)
        figure = {f"{prepared.answer.stem}_yield": lambda: chip_plots.yields(reached, around)}
        for name, reason in drawn(figure, prepared.answer.parent).items():
            warn(f"no figure {name}, the rest of the answer is there: {reason}", console)
    _write(prepared.answer, answer)
    try:
        page = write_evaluation_page(prepared.answer, answer, parts.network.sizes)
    except OSError as error:
        raise OutputError(f"cannot write the page of {prepared.answer}: {error.strerror or error}") from None
    _show(prepared, answer, page, console)
    return answer


def _trained_on(prepared: Prepared) -> list[int]:
    """Seeds of the chips that the run was trained on, where they are of the kind that is asked."""
    run = read_config(prepared.folder / "config.yaml")
    elsewhere = run.substrate.gradient is GradientName.ideal or run.substrate.new_chip is NewChip.step
    if elsewhere or checked_substrate(run) != prepared.parts.substrate:
        return []
    first = run.seed if run.chip_seed is None else run.chip_seed
    return list(range(first, first + run.replicas))


def _decisions(prepared: Prepared, features: Array, silent_fraction: Array) -> dict[str, Any] | None:
    """How fast answers alone are found, and what share of the work of a full pass they take.

    None on a chip: it is presented whole samples, and has been asked already.
    """
    if prepared.machine is not prepared.parts.network:
        return None
    parts, layers = prepared.parts, prepared.machine.layers
    t_in = parts.encode(features)[0]
    start = time.perf_counter()
    size = parts.rule.evaluation_batch_size
    found = decisions(prepared.machine, prepared.weights, t_in, size)
    seconds = time.perf_counter() - start
    n_replica, n_samples = found.times.shape
    of_pass, spikes = 0.0, n_replica * np.count_nonzero(np.isfinite(t_in)) / n_samples
    for layer, silent in zip(layers, silent_fraction, strict=True):
        of_pass += (spikes + n_replica * len(layer.bias_times)) * layer.fan_out.mean()
        spikes = ((1.0 - silent) * layer.n_out).sum()
    return {
        "presented": found.presented,
        "pair_events": found.pair_events / max(of_pass * n_samples, 1),
        "samples_per_s": n_replica * n_samples / seconds,
    }


def _show(
    prepared: Prepared,
    answer: dict[str, Any],
    page: Path,
    console: Console,
) -> None:
    epochs = prepared.parts.config.training.epochs
    epoch = f"epoch {prepared.epoch}"
    if prepared.epoch < epochs:
        epoch += f" of {epochs}, where it was stopped" if prepared.epoch else f" of {epochs}: not trained yet"
    console.print(
        f"{prepared.folder}, {epoch}, on {answer['substrate']['name']}: {headline(answer)}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    console.print(
        f"emulated at {answer['emulator']['inference_samples_per_s']:,.0f} samples/s", highlight=False
    )
    decided = answer["decisions"]
    if decided and min(decided["presented"], decided["pair_events"]) < 0.995:  # otherwise nothing is saved
        console.print(
            f"classified at {decided['samples_per_s']:,.0f} samples/s where each sample ends with the first "
            f"output spike: {100 * decided['presented']:.0f} % of the input spikes are presented, and "
            f"{100 * decided['pair_events']:.0f} % of the pairs of a spike and a neuron computed",
            soft_wrap=True,
            highlight=False,
        )
    file = conf_folder() / "published" / f"{prepared.parts.dataset.name}.yaml"
    others = published(file)["rows"] if file.exists() else []
    chips = list(answer["chips"].values())
    if population := answer.get("population"):
        for line in population_lines(population):
            console.print(line, highlight=False)
    table, notes = comparison(prepared.parts.network.sizes, chips, others, console.width)
    console.print(table)
    for note in [counted_on(answer), *notes] if population else notes:
        console.print(note, markup=False, highlight=False)
    console.print(f"answer   {prepared.answer}", **LINE)
    console.print(f"page     {page}", **LINE)


def _check_writable(path: Path) -> None:
    place = path.parent if path.parent.exists() else path.parent.parent
    try:
        if path.is_dir():
            raise OutputError(f"the answer must be a file, got the folder {path}")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"the run's folder must be writable, got {place}: {error.strerror or error}"
        ) from None


def _write(path: Path, answer: dict[str, Any]) -> None:
    """Writes an answer: whoever reads the path finds the old one or this one, never half of one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        with write_new(partial, "w") as file:
            file.write(json.dumps(answer, indent=2) + "\n")
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
