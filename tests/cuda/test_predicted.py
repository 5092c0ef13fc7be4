"""Predicted times: of given loops, and of counted ones where NVIDIA's wheels are installed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import benchmark_gpu
import benchmark_gpu_training as training
import beside
import device_model as model
import device_on_cpu
import launches
import machine_code
import numpy as np
import nvrtc
import predicted
import pytest

from gpuspike.kernels.cuda import source as src

H100 = model.H100
CHIP = next(case for case in training.CASES if predicted.ON_CHIP in case.name)


def loop(instance: str) -> model.Loop:
    """About what the page says that is counted."""
    gradient = "gradient" in instance
    return model.Loop(4.7, 0.4, 108) if gradient else model.Loop(8.1, 2.0, 116)


@pytest.fixture(scope="module")
def kernels() -> Sequence[predicted.Task]:
    return [predicted._kernel_task(case) for case in benchmark_gpu.CASES]


@pytest.fixture(scope="module")
def step() -> predicted.Task:
    return predicted._training_task(next(case for case in training.CASES if "batch 80, graph" in case.name))


def test_every_case_of_the_benchmark_has_a_row(
    kernels: Sequence[predicted.Task], step: predicted.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {task.name: task for task in kernels}
    ideal = CHIP.name.replace(predicted.ON_CHIP, "")
    monkeypatch.setattr(predicted, "_kernel_task", lambda case: known[case.name])
    monkeypatch.setattr(  # each would take its seconds
        predicted,
        "_training_task",
        lambda case: replace(step, name=case.name, twice=ideal if case is CHIP else ""),
    )
    rows = predicted.rows(predicted.tasks(), H100, loop)
    wanted = [case.name for case in (*benchmark_gpu.CASES, *training.CASES)]
    assert [row.case for row in rows] == wanted
    assert all(row.unknown or (row.predicted and row.predicted > 0.0) for row in rows)
    assert not [row for row in rows if row.unknown and not row.bound.startswith("no model of ")]
    of = {row.case: row for row in rows}
    assert of[CHIP.name].target == 2.0 * of[ideal].predicted
    forward = next(row for row in rows if row.case.startswith("forward 784->350 x 10000 float32"))
    assert forward.target == pytest.approx(2744.0)
    page = predicted.markdown(rows).splitlines()
    assert len(page) == 2 + len(wanted)
    assert all(name in line for name, line in zip(wanted, page[2:], strict=True))
    predicted.table(rows, H100)


def test_a_step_launches_what_the_page_says(step: predicted.Task) -> None:
    assert len(step.launches) == 17
    assert step.target == 110.0
    (first, second) = [one for one in step.launches if "first_spikes" in one.name]
    assert (first.grid, first.block) == (220, 128)  # 80 samples of 11 tiles, four warps a block
    assert second.numbers[3:6] == (80, 350, 10)
    row = predicted.predict(step, H100, loop)
    assert sum(row.parts.values()) == pytest.approx(row.predicted)
    beside = [one.name for one in step.launches if one.beside]
    assert [re.sub(r".*::|<.*|gpuspike_", "", name) for name in beside] == [
        "count_silent", "judge", "rates_Adam", "weights_gradient",
    ]  # fmt: skip
    apart = replace(step, launches=tuple(replace(one, beside=False, waits=-1) for one in step.launches))
    alone = predicted.predict(apart, H100, loop)
    assert alone.parts["launches"] == pytest.approx(17 * 2.0)
    assert row.predicted is not None
    assert alone.predicted is not None
    assert 5.0 < alone.predicted - row.predicted < 25.0


def test_a_schedule_by_hand() -> None:
    made = launches.Launch("one", 1, 32, (), 4, 4)
    # 0, then 1 and 2 beside 3 and 4, then 5: the edges between branches cost a gap more.
    graph = [
        made,
        replace(made, beside=True, waits=0),
        replace(made, beside=True),
        made,
        made,
        replace(made, waits=2),
    ]
    device = replace(H100, graph=1.0)

    def found(latency: Sequence[float], issue: float = 0.0) -> tuple[tuple[int, ...], float, float]:
        bounds = [{"issue": issue, "latency": own} for own in latency]
        planned = model.schedule(graph, bounds, device)
        return planned.path, planned.gaps, planned.shared

    assert found([1, 5, 1, 1, 1, 1]) == ((0, 1, 2, 5), 6.0, 0.0)
    assert found([1, 1, 1, 5, 1, 1]) == ((0, 3, 4, 5), 5.0, 0.0)
    # Four launches of 8 that all must be issued: what two branches of 16 and their gaps hide is too much.
    assert found([8] * 6, 8.0) == ((0, 1, 2, 5), 6.0, 4 * 8.0 - (2 * 8.0 + 3.0))
    assert model.schedule([], [], device) == model.Schedule((), 0.0, 0.0)


def test_what_is_noted_is_what_is_launched(cupy: Any) -> None:
    """The stand-in, which computes, launches the same kernels one after the other."""
    del cupy
    small = replace(CHIP, overrides=("training.batch_size=12",))

    def stepped() -> None:
        made = training.prepare(small, 1, 1)
        made.trainer.step.begin(made.train, np.zeros((1, 12), np.int64), 0, 0.01)
        device_on_cpu.device.launches.clear()
        made.trainer.step.batch(0)
        made.trainer.step.lane.wait()

    stepped()
    expected = [
        "cupy" if name.startswith("cupy") else name.removesuffix("_float32")
        for name in device_on_cpu.device.launches
    ]
    task = predicted._training_task(small)
    found = [one.name for one in task.launches]
    assert task.twice in [case.name for case in training.CASES]
    assert len(found) == 29  # as the page says
    assert found == [name.removesuffix("_float64") for name in expected]


def test_a_kernel_without_a_model_is_told(step: predicted.Task) -> None:
    strange = launches.Launch("gpuspike::strange<float>", 1, 32, (), 4, 4)
    row = predicted.predict(replace(step, launches=(*step.launches, strange)), H100, loop)
    assert (row.predicted, row.met) == (None, None)
    assert row.bound == "no model of gpuspike::strange<float>"


def of_batch(n_batch: int, kind: str = "forward") -> float:
    case = replace(benchmark_gpu.CASES[0], kind=kind, n_batch=n_batch, **benchmark_gpu.LATE)
    return predicted.predict(predicted._kernel_task(case), H100, loop).predicted or 0.0


@pytest.mark.parametrize("kind", ["forward", "weights gradient", "step"])
def test_more_samples_take_longer(kind: str) -> None:
    times = [of_batch(n_batch, kind) for n_batch in (20, 80, 1280, 10240, 40960)]
    assert times == sorted(times)
    assert times[-1] > 2.0 * times[-2]  # a full device


def test_no_limit_of_the_device_is_passed(kernels: Sequence[predicted.Task]) -> None:
    for task in kernels:
        spent, busy = predicted.predict(task, H100, loop).predicted, 0.0
        assert spent is not None
        how = partial(predicted.spiking, task.activity, task.ratio)
        for launch in task.launches:
            bounds = predicted.of_launch(launch, task, H100, loop)
            assert bounds is not None
            work = model.work_of(launch, loop, how, H100)
            assert work is not None
            warps = work.blocks * work.warps
            issued = work.instructions * warps / (H100.clock * H100.multiprocessors * H100.issued)
            assert max(bounds.values()) >= issued * (1.0 - 1e-9)
            assert max(bounds.values()) >= launch.n_bytes / H100.cache_speed
            busy += max(bounds.values())
        assert spent >= 1e6 * busy * (1.0 - 1e-9)
        assert spent >= len(task.launches) * 5.0 * (1.0 - 1e-9)  # the host launches one by one


def test_bounds_by_hand() -> None:
    work = model.Work(blocks=1000, warps=4, instructions=100.0, loads=10.0, chain=500.0, registers=128)
    # 8 blocks, 32 warps, 8 a scheduler; 4 blocks at a time.
    found = model.seconds(work, 60e6, H100)
    assert found["issue"] == pytest.approx(800.0 / H100.clock)
    assert found["loads"] == pytest.approx(320.0 / H100.clock)
    assert found["latency"] == pytest.approx(1000.0 / H100.clock)
    assert found["memory"] == pytest.approx(60e6 / H100.memory)  # more than the cache holds
    assert model.seconds(work, 40e6, H100)["memory"] == pytest.approx(40e6 / H100.cache_speed)
    assert model.H200.memory > H100.memory


def test_crossings_by_hand() -> None:
    events = np.array([[0, 3, 17, 20], [40, 40, 40, 5]])  # two warps a sample; 40: silent
    found = model.crossings(events, 40, 2, 16)
    assert found.rounds == pytest.approx(np.mean([1, 2, 3, 3]) / 3)
    assert found.asked == pytest.approx(np.mean([1, 1, 0, 1]))
    alone = model.crossings(events, 40, 2, 16, np.array([17, 40]))  # the last 23 inputs of one are folded
    assert (alone.rounds, alone.asked) == (found.rounds, found.asked)
    assert alone.folded == pytest.approx(np.mean([0, 2, 0, 0]) / 3)
    assert model.crossings(events, 40, 2, 16, np.array([2, 2])).rounds == pytest.approx(1 / 3)
    assert 0.0 < model.cold(4, 8) < model.cold(4, 16) < model.cold(1, 16) < 1.0


def test_what_is_predicted_stands_beside_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"cases": [{"case": "one", "predicted": 10.0}, {"case": "two", "predicted": None}]}

    def run(command: list[str], **_: Any) -> Any:
        assert command[command.index("--device") + 1] == "H200"
        if told:
            Path(command[-1]).write_text(json.dumps(told))
        return SimpleNamespace(stderr="a page\nnvdisasm is not installed\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert beside.predicted("a stand-in") == {}
    known = beside.predicted("NVIDIA H200 (device 0, CUDA 12.9)")
    assert known == {"one": 10.0}
    assert beside.markdown({"one": 25.0, "two": 1.0, "three": None}, known).endswith(
        "| one | 25 | 10 | 2.50 |\n"
    )
    beside.table({"one": 25.0}, known)
    told.clear()
    assert beside.predicted("NVIDIA H200") == {}
    assert capsys.readouterr().err == "not predicted: nvdisasm is not installed\n"


def test_another_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        predicted.main(["--case", "nonsense"])
    assert "--case must be a part of a case's name, got 'nonsense'" in capsys.readouterr().err


@pytest.mark.skipif(
    nvrtc.compiler_for(predicted.ARCH) is None or machine_code.disassembler() is None,
    reason="NVIDIA's compiler or disassembler is not installed",
)
def test_a_prediction_from_the_machine_code(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page, file = tmp_path / "page.md", tmp_path / "rows.json"
    chosen = ["--case", "forward 784->350 x 80", "--launches"]
    predicted.main([*chosen, "--markdown", str(page), "--json", str(file)])
    assert "PREDICTED" in capsys.readouterr().out
    row, image = json.loads(file.read_text())["cases"]
    assert 10.0 < row["predicted"] < 100.0
    assert image["predicted"] < 0.7 * row["predicted"]  # black pixels, whose weights are not met
    assert page.read_text().count("\n") == 4
    counted = predicted.counted(src.forward_instance(np.dtype(np.float32), 3, 1, False))
    assert (9.0 < counted.instructions < 9.6, counted.loads) == (True, 3.0)
