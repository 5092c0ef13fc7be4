"""What a run draws: computes what the figures of `gpuspike.report.figures.run` show."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.datasets import Plane
from gpuspike.forks import second_process
from gpuspike.kernels import LayerState
from gpuspike.network.layers import Layer, Moment
from gpuspike.network.membranes import membranes, of_each_position, of_position
from gpuspike.network.network import answer
from gpuspike.report.figures import chips as chip_plots
from gpuspike.report.figures import histograms
from gpuspike.report.figures import images as image_plots
from gpuspike.report.figures import run as plots
from gpuspike.report.figures import samples as raster_plots
from gpuspike.report.figures import silence as silence_plots
from gpuspike.report.figures.library import lazy_matplotlib
from gpuspike.report.figures.names import fonts
from gpuspike.runs.experiment import Experiment
from gpuspike.runs.memory import uncollected
from gpuspike.substrate import EmulatedChip, OnChip
from gpuspike.training.evaluation import Evaluation, Labelled, evaluate
from gpuspike.training.losses import decide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

SILENCE_SAMPLES = 1000
"""Test samples that tell who is silent."""


def draw(
    parts: Experiment,
    weights: Sequence[Array],
    test: Labelled,
    result: Evaluation,
    records: Sequence[Mapping[str, Any]],
    folder: Path,
    summary: Mapping[str, Any],
) -> dict[str, str]:
    """Figures of the run; where there are replicas, those of single samples show the first.

    On a chip, spike times, decisions and membranes are those of the chip. A run that goes on has figures
    already: new ones take their places together, once all are made.

    Returns:
        By the name of each figure that could not be made, the reason: none is worth a trained network.
    """
    names = parts.dataset.class_names
    t_out = result.t_out[0].astype(np.float64) / parts.config.model.tau_syn
    first, one = [w[:1] for w in weights], parts.of_replica(0)
    plane, shape, features = parts.dataset.plane, parts.dataset.image_shape, parts.dataset.test.features
    figures: dict[str, Callable[[], Figure]] = {
        "learning_curves": lambda: plots.learning_curves(records),
        "spike_time_histograms": lambda: histograms.spike_time_histograms(t_out, test.labels, names),
        "membrane_traces": lambda: _membranes(one, first, test, t_out),
        "spike_raster": lambda: _raster(one, first, test),
        "confusion_matrix": lambda: image_plots.confusion_matrix(test.labels, decide(t_out), names),
        "silence": lambda: _silence(one, first, test, records),
        "anytime": lambda: chip_plots.anytime(summary["anytime"], summary["chip"]["name"]),
    }
    if (maps := one.network.layers[0].convolution) is not None:
        size = maps.kernel, maps.kernel, maps.shape[2], maps.n_maps
        opposites = parts.config.dataset.opposites
        figures["filters"] = lambda: image_plots.filters(
            first[0][0, : maps.fan_in].reshape(size), opposites=opposites
        )
    if plane is not None:
        figures["plane"] = lambda: _plane(one, plane, first, test, result)
    if shape is not None:
        figures["misclassified"] = lambda: image_plots.misclassified(
            features.reshape(-1, *shape), test.labels, decide(t_out), t_out, names
        )
    families, _ = fonts(names)
    place = folder.with_name(f"{folder.name}.new")
    try:
        with lazy_matplotlib().rc_context({"font.family": families}):
            missing = drawn(figures, place, alone=parts.backend.name == "cuda")
        for name in figures:
            if (reason := _moved(place, folder, name)) is not None:
                missing.setdefault(name, reason)
        return missing
    finally:
        shutil.rmtree(place, ignore_errors=True)


def drawn(figures: Mapping[str, Callable[[], Figure]], folder: Path, *, alone: bool = True) -> dict[str, str]:
    """Makes and saves figures; returns why, by name, where one could not be.

    Args:
        alone: without a second process, as those that use a device must be.
    """
    names, told = list(figures), dict[str, str | None]()
    queue, rest = os.pipe()  # whoever is ready takes the next number
    os.write(rest, bytes(range(len(names))))
    os.close(rest)

    def some() -> dict[str, str | None]:
        return {
            names[k]: _drawn(figures[names[k]], folder, names[k])
            for (k,) in iter(lambda: os.read(queue, 1), b"")
        }

    with uncollected(), ExitStack() as ends:
        ends.callback(os.close, queue)
        second = None if alone else second_process(lambda first: first.say(json.dumps(some()).encode()))
        if second is not None:
            ends.callback(second.close)
        told |= some()
        if second is not None:
            with suppress(ValueError):
                told |= json.loads(second.heard())
            second.close()
        for name in names:
            if name not in told:  # the second process has come to an end
                told[name] = _drawn(figures[name], folder, name)
    return {name: reason for name in names if (reason := told[name]) is not None}


def _drawn(make: Callable[[], Figure], folder: Path, name: str) -> str | None:
    """Why a figure could not be made and saved; None if it could."""
    try:
        plots.save(make(), folder, name)
    except Exception as error:  # whatever a library, its fonts or a disk come up with
        return _in_words(error)
    return None


def _moved(place: Path, folder: Path, name: str) -> str | None:
    """Why a figure could not take the place of the one before, which goes in any case; None if it could."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for ending in plots.ENDINGS:
            new, old = (where / f"{name}{ending}" for where in (place, folder))
            if new.exists():
                new.replace(old)
            else:
                old.unlink(missing_ok=True)
    except OSError as error:
        return _in_words(error)
    return None


def _in_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _plane(
    parts: Experiment, plane: Plane, weights: Sequence[Array], test: Labelled, result: Evaluation
) -> Figure:
    axis = (np.arange(300) + 0.5) / 300
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    points = grid.reshape(-1, 2)
    received = parts.receive(plane.features(points))
    nobody = np.zeros(len(points), np.int64)  # what a point's class is does not matter to its answer
    answers = evaluate(
        parts.on_chip(parts.chip_seeds[:1]),
        weights,
        Labelled(received, nobody),
        parts.loss,
        parts.rule.evaluation_batch_size,
    )
    return plots.plane(
        grid,
        decide(answers.t_out[0]).reshape(grid.shape[:2]),
        parts.dataset.test.features[:, :2],
        test.labels,
        decide(result.t_out[0]),
        float(result.accuracy[0]),
        parts.dataset.class_names,
        plane.borders,
        disc=plane.disc,
    )


def _silence(
    parts: Experiment, weights: Sequence[Array], test: Labelled, records: Sequence[Mapping[str, Any]]
) -> Figure:
    """Who is silent on which class, of the hidden layers and the first test samples."""
    machine, n = parts.on_chip(parts.chip_seeds[:1]), min(len(test), SILENCE_SAMPLES)
    labels, n_class = test.labels[:n], len(parts.dataset.class_names)
    states = answer(machine, weights, test.received.part(0, n), Moment())
    shares = []
    for layer, state in zip(parts.network.layers[:-1], states, strict=False):
        silent = np.isinf(state.t_out[0]).reshape(n, -1, layer.n_post).mean(axis=1)
        shares.append(
            np.stack(
                [
                    silent[labels == k].mean(axis=0) if (labels == k).any() else np.full(layer.n_post, np.nan)
                    for k in range(n_class)
                ]
            )
        )
    return silence_plots.silence(shares, parts.dataset.class_names, silence_plots.silent_since(records))


def _raster(parts: Experiment, weights: Sequence[Array], test: Labelled) -> Figure:
    """Spikes of the first test samples of each class, on the chip if there is one."""
    names, unit = parts.dataset.class_names, parts.config.model.tau_syn
    machine = parts.on_chip(parts.chip_seeds[:1])
    classes = [np.flatnonzero(test.labels == label) for label in range(len(names))]
    rounds = range(max(1, 6 // len(names)))  # the first of each class, then the second
    shown = [int(own[k]) for k in rounds for own in classes if k < len(own)][: raster_plots.PANELS]
    spikes = []
    for sample in shown:
        # At its own number, a chip's trial is the one that it was evaluated in.
        states = answer(machine, weights, test.received.part(sample, sample + 1), Moment(first=sample))
        n_in = parts.network.layers[0].n_in
        # Inputs when they are sent, as all others: not behind their delays.
        times = [test.received.t_in[0, sample, :n_in], *(state.t_out[0, 0] for state in states)]
        spikes.append([t.astype(np.float64) / unit for t in times])
    return raster_plots.spike_raster(spikes, [int(test.labels[k]) for k in shown], names)


def _at_one_position(layer: Layer, state: LayerState) -> tuple[int, Array, Array]:
    """A position, and what neurons receive and answer; of a convolution where it is heard first."""
    t_in, t_out = state.t_in[0, 0].astype(np.float64), state.t_out[0, 0].astype(np.float64)
    if layer.convolution is None:
        return 0, t_in, t_out
    spikes = state.seen[0, 0].astype(np.float64).reshape(-1, layer.convolution.n_maps)
    position = int(spikes.min(axis=1).argmin())
    return position, of_each_position(layer, t_in[None])[0, position], spikes[position]


def _membranes(parts: Experiment, weights: Sequence[Array], test: Labelled, t_out: Array) -> Figure:
    """Traces of the first test sample that is classified correctly (else of the first)."""
    right = np.flatnonzero(decide(t_out) == test.labels)
    sample = int(right[0]) if right.size else 0
    machine, come = parts.on_chip(parts.chip_seeds[:1]), list(weights)
    layers = parts.network.layers
    neurons, delays = [layer.neuron for layer in layers], [layer.delays for layer in layers]
    if isinstance(machine, OnChip) and isinstance(chip := machine.chip, EmulatedChip):
        come, neurons, delays = chip.effective(weights), chip.neurons, chip.delays
    # At its own number, a chip's trial is the one that it was evaluated in.
    states = answer(machine, weights, test.received.part(sample, sample + 1), Moment(first=sample))
    shown = [_at_one_position(layer, state) for layer, state in zip(layers, states, strict=True)]
    places, inputs, spikes = zip(*shown, strict=True)
    there = [of_position(*given) for given in zip(layers, places, come, neurons, strict=True)]
    came = states[0].t_in[0, 0].astype(np.float64)
    events = np.concatenate([came, *inputs, *spikes])
    model = parts.config.model
    later = max((float(np.max(own.between(0))) for own in delays if own is not None), default=0.0)
    end = events[np.isfinite(events)].max(initial=0.0) + model.tau_syn + later
    times = np.linspace(min(0.0, events.min()), end, 1500)
    traces = []
    for (w, neuron), own, t_in in zip(there, delays, inputs, strict=True):
        # A neuron with a threshold of its own is drawn with its way there as long as the model's.
        share = (model.threshold - model.leak) / np.asarray(neuron.span)
        way = membranes(times, t_in, w[0], neuron, delays=own) - model.leak
        traces.append(model.leak + share * way)
    unit = model.tau_syn  # what the figure's axis counts in
    return plots.membrane_traces(
        times / unit,
        traces,
        [t / unit for t in spikes],
        came / unit,
        model.threshold,
        parts.dataset.class_names,
        int(test.labels[sample]),
    )
