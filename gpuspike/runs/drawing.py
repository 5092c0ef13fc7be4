"""What a run draws: computes what the figures of `gpuspike.report.figures.run` show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.datasets import Plane
from gpuspike.kernels import LayerState
from gpuspike.network.layers import Layer, Moment
from gpuspike.network.membranes import membranes, of_each_position
from gpuspike.network.network import answer
from gpuspike.report.figures import histograms
from gpuspike.report.figures import images as image_plots
from gpuspike.report.figures import run as plots
from gpuspike.report.figures import samples as raster_plots
from gpuspike.runs.experiment import Experiment
from gpuspike.substrate import EmulatedChip, OnChip
from gpuspike.training.evaluation import Evaluation, Labelled, evaluate
from gpuspike.training.losses import decide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]


def draw(
    parts: Experiment,
    weights: Sequence[Array],
    test: Labelled,
    result: Evaluation,
    records: Sequence[Mapping[str, Any]],
    folder: Path,
) -> None:
    """Figures of the run; where there are replicas, those of single samples show the first.

    On a chip, spike times, decisions and membranes are those of the chip.
    """
    names = parts.dataset.class_names
    plots.save(plots.learning_curves(records), folder, "learning_curves")
    t_out = result.t_out[0].astype(np.float64) / parts.config.model.tau_syn
    plots.save(histograms.spike_time_histograms(t_out, test.labels, names), folder, "spike_time_histograms")
    first, parts = [w[:1] for w in weights], parts.of_replica(0)
    plots.save(_membranes(parts, first, test, t_out), folder, "membrane_traces")
    plots.save(_raster(parts, first, test), folder, "spike_raster")
    if (maps := parts.network.layers[0].convolution) is not None:
        filters = first[0][0, : maps.fan_in].reshape(maps.kernel, maps.kernel, maps.shape[2], maps.n_maps)
        plots.save(image_plots.filters(filters), folder, "filters")
    plots.save(image_plots.confusion_matrix(test.labels, decide(t_out), names), folder, "confusion_matrix")
    if parts.dataset.plane is not None:
        plots.save(_plane(parts, parts.dataset.plane, first, test, result), folder, "plane")
    if parts.dataset.image_shape is not None:
        images = parts.dataset.test.features.reshape(-1, *parts.dataset.image_shape)
        sheet = image_plots.misclassified(images, test.labels, decide(t_out), t_out, names)
        plots.save(sheet, folder, "misclassified")


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


def _at_one_position(layer: Layer, state: LayerState) -> tuple[Array, Array]:
    """What neurons receive and answer; of a convolution those at the position that is heard first."""
    t_in, t_out = state.t_in[0, 0].astype(np.float64), state.t_out[0, 0].astype(np.float64)
    if layer.convolution is None:
        return t_in, t_out
    spikes = state.t_cross[0, 0].astype(np.float64).reshape(-1, layer.convolution.n_maps)
    position = int(spikes.min(axis=1).argmin())
    return of_each_position(layer, t_in[None])[0, position], spikes[position]


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
    inputs, spikes = zip(*shown, strict=True)
    came = states[0].t_in[0, 0].astype(np.float64)
    events = np.concatenate([came, *inputs, *spikes])
    model = parts.config.model
    later = max((float(np.max(own.between(0))) for own in delays if own is not None), default=0.0)
    end = events[np.isfinite(events)].max(initial=0.0) + model.tau_syn + later
    times = np.linspace(min(0.0, events.min()), end, 1500)
    traces = []
    for neuron, own, t_in, w in zip(neurons, delays, inputs, come, strict=True):
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
