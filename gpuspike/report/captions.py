"""What is said below the figures of a run."""

from __future__ import annotations

from collections.abc import Sequence

CAPTIONS = {
    "learning_curves": "Error, loss, silent neurons of each layer and steps with raised weights,"
    " epoch by epoch: mean over the replicas, and the band from the lowest to the highest."
    " Triangles at the bottom are epochs without an error.",
    "plane": "Answers of the network over the plane. Dots are test samples in the colour of their class;"
    " rings mark the misclassified.",
    "confusion_matrix": "Test samples by class and answer of the network, shaded by their share of the"
    " class; answers without an output spike are under none.",
    "misclassified": "Misclassified test images, each under its class, with the times of the two"
    " earliest output spikes.",
    "filters": "Weights of the first layer's maps: red lifts a neuron towards its threshold, blue holds it"
    " down.",
    "spike_time_histograms": "Spike times of the output neurons, one panel for the samples of"
    " each class. The neuron of the class itself is filled: it should be before the others.",
    "spike_raster": "The first test samples of each class on their way through the network, a panel each:"
    " spikes of the inputs, the hidden neurons and, in their class's colour, the output neurons. The dashed"
    " line is the first output spike, the answer. Where that is wrong, the title names class and answer.",
    "silence": "Share of the test samples of each class for which each hidden neuron of the first replica is"
    " silent; how many spike for no validation sample, and since when.",
    "anytime": "If one stops listening early: the share of test samples that have an answer by then, and the"
    " right one; the energy if every sample ran until then, and if each stopped at its decision.",
    "membrane_traces": "One sample on its way through the network: input spikes, membranes of"
    " the hidden neurons (grey: silent) with their spikes above, membranes of the output. On an emulated"
    " chip they are the chip's, whose noise moves spikes off the crossing.",
}
"""Of each figure; what depends on the data is added by `captions`."""


def captions(class_names: Sequence[str], *, borders: bool, ties: float = 0.0) -> dict[str, str]:
    """`CAPTIONS` of a run.

    Args:
        class_names: in whose words titles are explained.
        borders: the figure of the plane has the true boundaries.
        ties: share of the test samples, of all replicas, that several output neurons decide at one time.
    """
    told = dict(CAPTIONS)
    if borders:
        told["plane"] = told["plane"].replace("plane.", "plane, with the true boundaries.", 1)
    if ties > 0.0:
        told["confusion_matrix"] += (
            f" Ties of output neurons, {100 * ties:.3g} % of the samples, are answered by the lowest class."
        )
    if len(class_names) > 1:
        one, other = class_names[:2]
        told["spike_raster"] += f" “{one}, not {other}” is a sample of {one} that was taken for {other}."
    return told
