"""What emulating a chip costs: a training step on it beside one of the ideal network, in one run.

    python scripts/benchmark_chip.py [--rounds 5]

Prints, for each case, the median time of an epoch on the chip and without it, and the median ratio of
neighbouring epochs; the two take turns, so that both meet the same machine.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator

from gpuspike.config.schema import jobs
from gpuspike.runs.experiment import build, new_trainer
from gpuspike.runs.memory import keep_freed_memory
from gpuspike.training.evaluation import Labelled
from gpuspike.training.trainer import EpochRecord

CASES = (
    ("20-120-3, batch 100, 1 replica", ["experiment=yin_yang_bss2"]),
    ("20-120-3, batch 100, 5 replicas", ["experiment=yin_yang_bss2", "replicas=5"]),
    ("256-246-10, batch 50, 1 replica", ["experiment=mnist16_bss2", "dataset.n_train=2500"]),
    ("256-246-10, batch 50, 5 replicas", ["experiment=mnist16_bss2", "dataset.n_train=2500", "replicas=5"]),
)
"""Name and overrides of each case."""

AGAINST = {
    "exact gradient": ["substrate.gradient=exact"],
    "nominal gradient": ["substrate.gradient=nominal"],
    "own time constants": ["substrate.tau_mem_std=0.05", "substrate.gradient=exact"],
}
"""What stands beside the ideal network."""


def epochs(overrides: list[str]) -> Iterator[EpochRecord]:
    """Trains epoch after epoch."""
    (job,) = jobs([*overrides, "dataset.n_validation=1", "training.epochs=1000"], multirun=False)
    parts = build(job.config)
    data = [
        Labelled(
            parts.network.receive(parts.encode(split.features), sort=parts.rule.keeps_inputs), split.labels
        )
        for split in (parts.dataset.train, parts.dataset.validation)
    ]
    return new_trainer(parts).train(*data, n_epochs=1000)


def main() -> None:
    """Runs all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each, after one that is not timed")
    parser.add_argument("--case", default="", help="run the cases whose names hold this")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {arguments.rounds}")
    keep_freed_memory()
    print(f"{'case':34} {'on the chip':20} {'ideal':>10} {'chip':>10} {'ratio':>6}")
    for name, overrides in CASES:
        if arguments.case not in name:
            continue
        for mode, changes in AGAINST.items():
            ideal, chip = epochs([*overrides, "substrate=ideal"]), epochs([*overrides, *changes])
            seconds: tuple[list[float], list[float]] = ([], [])
            for number in range(arguments.rounds + 1):
                for run, times in zip((ideal, chip), seconds, strict=True):
                    record = next(run)
                    if number:
                        times.append(record.train_seconds)
            ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
            a, b = (f"{statistics.median(times):8.3f} s" for times in seconds)
            print(f"{name:34} {mode:20} {a:>10} {b:>10} {ratio:6.2f}", flush=True)


if __name__ == "__main__":
    main()
