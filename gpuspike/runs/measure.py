"""What run and evaluation report of a network: counted, timed, and accounted for on a chip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.accountant import Activity, Prices, account, anytime
from gpuspike.accountant.price import observe
from gpuspike.config.fitting import chip_label
from gpuspike.network.network import Machine
from gpuspike.runs.experiment import Experiment
from gpuspike.runs.gpu_energy import GpuEnergy
from gpuspike.substrate import EmulatedChip, OnChip, gradient_angles
from gpuspike.training.evaluation import Evaluation, Labelled, evaluate
from gpuspike.training.step import StepKind

Array = NDArray[Any]

ANGLE_SAMPLES = 1000
"""Training samples that the angle between gradients is taken on."""


@dataclass(frozen=True)
class Measured:
    """A network on some splits.

    Attributes:
        results: by split.
        activity: counted on one of them;  in_steps: in a clocked chip's time steps.
        speed: what the emulation took, for summary.json's "emulator".
    """

    results: dict[str, Evaluation]
    activity: Activity
    in_steps: Callable[[Prices], Activity | None]
    speed: dict[str, Any]


def measure(
    parts: Experiment,
    network: Machine,
    weights: Sequence[Array],
    data: Mapping[str, Labelled],
    counted: str,
    prices: Sequence[Prices],
) -> Measured:
    """Evaluates all splits.

    Args:
        network: what answers.
        data: by split;  counted: the split whose spikes are counted.
        prices: of the chips that are to be accounted for.
    """
    size, unit = parts.rule.evaluation_batch_size, parts.config.model.tau_syn
    with GpuEnergy(parts.backend.name) as gpu:
        observed = observe(network, weights, data, counted, prices, parts.loss, size, unit)
    results = observed.results
    seconds = sum(result.seconds for result in results.values())
    samples = sum(result.t_out.shape[0] * result.t_out.shape[1] for result in results.values())
    speed = {
        "inference_samples_per_s": samples / seconds,
        "inference_J_per_sample": None if gpu.joules is None else gpu.joules / samples,
    }
    return Measured(results, observed.activity, observed.in_steps, speed)


def on_chip(parts: Experiment, measured: Measured, prices: Prices) -> dict[str, Any]:
    """What a chip would have needed, and how the emulation compares.

    Returns:
        The parts "chip" and "anytime" of summary.json. In "chip", "emulator_time_ratio" and
        "emulator_energy_ratio" say how many times the chip's time and energy a sample took here.
    """
    names = parts.dataset.class_names
    chip = account(measured.activity, prices, names, lambda: measured.in_steps(prices))
    chip["substrate"] = chip_label(parts.config.substrate)
    joules = measured.speed["inference_J_per_sample"]
    chip["emulator_time_ratio"] = _ratio(
        1.0 / measured.speed["inference_samples_per_s"], chip["seconds_per_sample"]
    )
    chip["emulator_energy_ratio"] = _ratio(joules, chip["energy_per_classification_J"])
    return {"chip": chip, "anytime": anytime(measured.activity, prices)}


def _ratio(ours: float | None, chip: float | list[float] | None) -> float | list[float] | None:
    """Ours by the chip's; a band [low, high] where the chip's is one, None where either is not known."""
    if ours is None or chip is None:
        return None
    return [ours / end for end in reversed(chip)] if isinstance(chip, list) else ours / chip


def statistics(values: Array) -> dict[str, Any]:
    """Mean, deviation and every value of something that each replica has one of."""
    # The deviation over seeds is that of a sample, as papers report it; one seed has none.
    std = values.std(ddof=1) if len(values) > 1 else None
    return {"mean": values.mean(), "std": std, "per_replica": values}


def examine(
    parts: Experiment, machine: Machine, weights: Sequence[Array], data: Mapping[str, Labelled]
) -> dict[str, Any]:
    """What an emulated chip does to a network: the part "substrate" of summary.json.

    Returns:
        The seeds of the chips, the draws that left the physics, the test accuracy of the same weights without
        a chip, and the angle between the nominal and the exact gradient on the first training samples.
    """
    config = parts.config.substrate
    told: dict[str, Any] = {"name": chip_label(config), "gradient": config.gradient.value}
    if not isinstance(machine, OnChip) or not isinstance(machine.chip, EmulatedChip):
        return told
    size = parts.rule.evaluation_batch_size
    without = evaluate(parts.network, weights, data["test"], parts.loss, size)
    received, labels = data["train"].received.part(0, ANGLE_SAMPLES), data["train"].labels[:ANGLE_SAMPLES]
    labels = labels[None]

    def error(t_out: Array, part: slice) -> Array:
        return parts.loss(t_out, parts.network.kernels.place(labels[:, part]))[1]

    # A device has room for a step's samples, and perhaps for no more.
    together = parts.rule.presented if parts.backend.name == "cuda" else None
    angles = gradient_angles(machine, weights, received, error, together)
    return told | {
        "new_chip": config.new_chip.value,
        "chip_seeds": list(machine.chip.seeds),
        **machine.chip.counts,
        "test_accuracy_without_chip": statistics(without.accuracy),
        "gradient_angle_degrees": statistics(angles),
    }


def chip_arrays(machine: Machine) -> dict[str, Array]:
    """The chip that a machine has, as a checkpoint keeps it."""
    if not isinstance(machine, OnChip) or not isinstance(machine.chip, EmulatedChip):
        return {}
    return {f"chip_{name}": array for name, array in machine.chip.arrays().items()}


def summarize(
    parts: Experiment,
    experiment: str,
    kind: StepKind,
    records: Sequence[Mapping[str, Any]],
    measured: Measured,
    interrupted: bool,
) -> dict[str, Any]:
    """What a training has come to: the parts of summary.json that no chip has to do with.

    Args:
        kind: of the training step.
        records: lines of metrics.jsonl.
    """
    config, results = parts.config, measured.results
    speeds = [record["train_samples_per_s"] for record in records]
    return {
        "accuracy": {name: statistics(result.accuracy) for name, result in results.items()},
        "loss": {name: statistics(result.loss) for name, result in results.items()},
        "silent_fraction": {name: result.silent_fraction for name, result in results.items()},
        "emulator": {
            "backend": parts.backend.name,
            "device": parts.backend.device,
            "step": kind.name,
            **({} if kind.reason is None else {"step_reason": kind.reason}),
            "train_samples_per_s": float(np.median(speeds)),
            **measured.speed,
            "wall_s": None,
        },
        "run": {
            "experiment": experiment,
            "name": config.name,
            "network": parts.network.sizes,
            "dataset": _samples(parts),
            "epochs": config.training.epochs,
            "epochs_done": records[-1]["epoch"],
            "interrupted": interrupted,
            "dtype": config.dtype.value,
        },
    }  # fmt: skip


def _samples(parts: Experiment) -> str:
    """The data set, its pixels if it has any, and the sizes of its splits, in words."""
    sizes = ", ".join(f"{len(split.labels):,} {name}" for name, split in parts.dataset.splits.items())
    pixels = "" if (shape := parts.dataset.image_shape) is None else f" in {shape[0]}x{shape[1]} pixels"
    return f"{parts.dataset.name}{pixels}: {sizes}"
