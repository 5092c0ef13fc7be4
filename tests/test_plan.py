"""What a run will need: bytes that are those of the arrays, a time that adds up, nothing written."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from gpuspike.cli import plan as cli_plan
from gpuspike.config.schema import jobs
from gpuspike.runs.experiment import Experiment, build, new_trainer
from gpuspike.runs.planning import memory_of, time_of
from gpuspike.runs.progress import duration

SMALL = ["backend=cpu", "dataset.n_train=600", "dataset.n_validation=100", "dataset.n_test=200"]


def parts_of(*overrides: str) -> Experiment:
    """A small run."""
    (job,) = jobs([*SMALL, *overrides], multirun=False)
    return build(job.config)


@pytest.mark.parametrize("given", [[], ["dtype=float32"], ["optimizer=sgd", "optimizer.momentum=0"]])
def test_the_bytes_are_those_of_the_run_s_own_arrays(given: list[str]) -> None:
    parts = parts_of("replicas=3", *given)
    needed = memory_of(parts)
    trainer = new_trainer(parts)
    train, *others = (
        parts.network.receive(parts.encode(split.features), sort=name == "train")
        for name, split in parts.dataset.splits.items()
    )
    assert train.order is not None
    data = train.t_in.nbytes + train.order.nbytes + sum(other.t_in.nbytes for other in others)
    assert needed.parts["data: spike times of all splits, the order of the training ones"] == data
    assert needed.parts["weights"] == sum(w.nbytes for w in trainer.weights)
    state = sum(a.nbytes for a in trainer.descent.state().values() if a.ndim == 3)
    assert needed.parts.get("optimiser", 0) == state
    item = trainer.weights[0].itemsize
    drawn = "an epoch: which sample comes when, and what becomes of it"
    assert needed.parts[drawn] == 3 * len(train.t_in[0]) * (8 + item + 1 + 4 * 2)
    assert needed.parts["output spike times of all splits"] == 3 * 900 * 3 * item
    assert data < needed.peak < sum(needed.parts.values())


def test_a_chip_s_own_arrays_are_counted() -> None:
    assert "emulated chip" not in memory_of(parts_of()).parts
    parts = parts_of("substrate=dynapse", "substrate.max_fan_in=0", "replicas=2")
    drawn = sum(a.nbytes for a in parts.chip(parts.chip_seeds).arrays().values())
    assert memory_of(parts).parts["emulated chip"] == drawn > 0


def test_more_of_anything_takes_more_memory() -> None:
    plain = memory_of(parts_of()).peak
    for more in (
        "replicas=2",
        "training.batch_size=300",
        "model.hidden=[500]",
        "training.trials=2",
        "dataset.n_test=2000",
    ):
        assert memory_of(parts_of(more)).peak > plain, more


def test_the_time_adds_up_and_every_step_is_a_whole_one() -> None:
    parts = parts_of("training.max_silent=[0.0,0.0]", "training.epochs=40")  # skips most steps
    timing = time_of(parts, Console(file=io.StringIO()), seconds=0.2)
    assert parts.rule.bump_replaces_step
    assert (timing.n_steps, timing.epochs) == (4, 40)
    assert timing.n_timed % timing.n_steps == 0
    assert timing.epoch == pytest.approx(4 * timing.step + timing.validation)
    assert timing.total == pytest.approx(40 * timing.epoch + timing.rest)
    assert 1e-5 < timing.step < 1.0


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *given: str) -> int:
    """The command in a folder; its exit code."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["gpuspike-plan", *given])
    try:
        cli_plan.plan()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_tells_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path, *SMALL, "experiment=yin_yang_bss2", "training.epochs=2") == 0
    said = capsys.readouterr().out
    for text in (
        "yin_yang_bss2  20-120-3, 1 replica",
        "step     compiled",
        "weights",
        "optimiser",
        "emulated chip",
        "2 epochs",
    ):
        assert text in said
    assert list(tmp_path.iterdir()) == []


PIECES = "piecewise, since substrate.{} is not in the compiled step"
GRID = ["experiment=yin_yang_bss2", "substrate.time_grid=0.05"]
STEPS = {
    "as it comes": ([], "compiled"),
    "sgd and squares": (["optimizer=sgd", "training.loss=time_mse"], "compiled"),
    "a chip": (["experiment=yin_yang_bss2"], "compiled"),
    "a time grid": (GRID, PIECES.format("time_grid")),
    "an ideal gradient": ([*GRID, "substrate.gradient=ideal"], "compiled"),
    "lost spikes": (["substrate.lost_spikes=0.01"], PIECES.format("lost_spikes")),
    "lost inputs": (["substrate.lost_inputs=0.01"], PIECES.format("lost_inputs")),
    "jittered inputs": (["substrate.input_jitter=0.01"], PIECES.format("input_jitter")),
    "spreads": (
        ["substrate.tau_mem_std=0.01"],
        "piecewise, since neurons with time constants of their own are not in the compiled step",
    ),
    "new chips": (
        ["experiment=yin_yang_bss2", "substrate.new_chip=step"],
        "piecewise, since each step meets a new chip (substrate.new_chip=step)",
    ),
    "small batches": (
        ["training.batch_size=1", "replicas=2"],
        "piecewise, since a step has fewer samples, 2, than there are threads, 3",
    ),
    "the oracle": (["backend=reference"], "piecewise, since only backend=cpu has a compiled step"),
}


@pytest.mark.parametrize(("given", "said"), STEPS.values(), ids=STEPS.keys())
def test_the_step_is_known_before_there_is_one(
    given: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    parts = parts_of(*given)
    assert str(parts.step_kind()) == said
    assert new_trainer(parts).step.kind == parts.step_kind()


def test_the_command_says_why_a_run_would_be_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path, *SMALL, *GRID, "training.epochs=1") == 0
    said = capsys.readouterr().out
    assert f"\nstep     {PIECES.format('time_grid')}\n" in said
    assert said.index("step  ") < said.index("memory")


def test_a_sweep_has_a_row_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path, *SMALL, "-m", "model.tau_mem=1,2", "training.epochs=2") == 0
    said = capsys.readouterr().out
    assert "one after the other: about" in said
    assert said.count("MiB") + said.count("KiB") == 2
    assert said.count("compiled") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["training.epochs=0"], "training.epochs must be at least 1, got 0"),
        (["trainig.epochs=1"], "trainig"),
        (["--cfg"], "takes KEY=VALUE and -m, got --cfg"),
        (["resume=somewhere"], "got resume"),
        (["backend=gpu"], "gpu"),
        (["-m", "replicas=1,0"], "replicas must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    said: str,
) -> None:
    assert run(monkeypatch, tmp_path, *given) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("gpuspike-plan: error: ")
    assert told.err.count("\n") == 1
    assert said in told.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00123, "1.23 ms"), (0.99, "990 ms"), (0.9997, "1 s"), (27.34, "27.3 s"), (99.4, "99.4 s"),
     (150, "2 min"), (5000, "83 min"), (7500, "2 h 5 min"), (400_000, "111 h")],
)  # fmt: skip
def test_durations_are_for_a_reader(seconds: float, text: str) -> None:
    assert duration(seconds) == text
