"""Several devices: each trains a share of the replicas, with the bits of one device."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from device_on_cpu import FakeDevice, FakeMemoryPool, device
from rich.console import Console

from gpuspike.backend import select, take_turns
from gpuspike.config.evaluate import EvaluateConfig
from gpuspike.config.schema import Config, jobs
from gpuspike.errors import BackendError, ConfigError
from gpuspike.runs.evaluate import evaluate
from gpuspike.runs.experiment import build
from gpuspike.runs.run import go_on, run
from gpuspike.store import checkpoint
from gpuspike.store.identity import fingerprint
from gpuspike.training.devices import shared

pytestmark = pytest.mark.usefixtures("cupy")

SMALL = [
    "training.epochs=2", "dataset.n_train=60", "dataset.n_validation=40", "dataset.n_test=40",
    "training.batch_size=16", "model.hidden=[10]", "replicas=3",
]  # fmt: skip
MESSY = [
    "substrate=bss2", "substrate.spike_jitter=0.05", "substrate.lost_spikes=0.02",
    "substrate.threshold_std=0.05", "substrate.dead_neurons=0.1",
    "substrate.weight_lsb=0", "substrate.weight_bits=5",
]  # fmt: skip

DELAYS = ["model.delays=axonal+dendritic+synaptic", "substrate.delay_std=0.1", "substrate.delay_lsb=0.1"]


def config(*overrides: str) -> Config:
    return jobs([*SMALL, *overrides], multirun=False)[0].config


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plane of 90,000 points would take the stand-in a minute."""
    monkeypatch.setattr("gpuspike.runs.run.draw", lambda *_: {})


@pytest.fixture
def two(cupy: ModuleType) -> None:
    """A machine with two devices."""
    device.count = 2


def same(one: Path, other: Path) -> None:
    """Two runs have the same bits."""
    ours, theirs = (checkpoint.load(folder / "checkpoint.npz")[0] for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name


def figures(summary: dict[str, Any]) -> Any:
    return (
        summary["accuracy"],
        summary["loss"],
        summary["silent_fraction"],
        summary["chip"]["spikes_per_sample"],
    )


@pytest.mark.parametrize(
    "given",
    [
        [],
        pytest.param(
            ["training.cuda_graph=false", "training.input_noise=0.1", "training.bump_replaces_step=false"],
            marks=pytest.mark.slow,
        ),
        [*MESSY, "chip_seed=7"],
        pytest.param([*MESSY, "substrate.gradient=exact"], marks=pytest.mark.slow),
        [*MESSY, "substrate.new_chip=step", "substrate.population=3"],
        ["training.silence=waking", "training.waking=5", "training.max_silent=[0.1,0.05]"],
        ["model.delays=axonal+dendritic+synaptic"],
        ["model.trained=[threshold,tau_mem,tau_syn]"],
        pytest.param([*MESSY, *DELAYS], marks=pytest.mark.slow),
        [*MESSY, *DELAYS, "substrate.new_chip=step", "substrate.population=3"],
    ],
    ids=[
        "ideal",
        "noise",
        "chip",
        "exact",
        "fresh",
        "waking",
        "delays",
        "constants",
        "delays on chips",
        "delays, fresh",
    ],
)
@pytest.mark.usefixtures("two")
def test_two_devices_have_the_bits_of_one(given: list[str], tmp_path: Path) -> None:
    alone = run(config(*given), "custom", tmp_path / "one", Console(quiet=True))
    device.launches.clear()
    both = run(config(*given, "devices=all"), "custom", tmp_path / "two", Console(quiet=True))
    assert both["emulator"]["device"] == "a stand-in (devices 0, 1, CUDA 12.9)"
    assert figures(both) == figures(alone)
    assert ("graph" in device.launches) == (
        not {"training.cuda_graph=false", "substrate.new_chip=step"} & set(given)
    )
    same(tmp_path / "one", tmp_path / "two")
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1]) == 2


@pytest.mark.usefixtures("two")
def test_each_device_has_a_share_of_the_replicas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[int, set[int]] = {}
    launch = device.launch

    def watched(name: str, go: Any, arrays: list[Any], *others: Any) -> None:
        for array in arrays:
            seen.setdefault(array.device_id, set()).add(array.shape[0] if array.ndim == 3 else 0)
        launch(name, go, arrays, *others)

    monkeypatch.setattr(device, "launch", watched)
    run(config("devices=[1,0]"), "custom", tmp_path / "run", Console(quiet=True))
    assert 2 in seen[1]  # the first one listed has the larger share
    assert 3 in seen[1]  # and answers for all in the end
    assert 3 not in seen[0]
    assert device.current == 1


@pytest.mark.usefixtures("two")
def test_a_run_on_two_devices_goes_on_on_one_and_the_other_way_round(tmp_path: Path) -> None:
    run(config("training.epochs=4"), "custom", tmp_path / "whole", Console(quiet=True))
    for name, first, then in (("a", "devices=all", "devices=null"), ("b", "devices=null", "devices=[0,1]")):
        folder = tmp_path / name
        run(config("training.epochs=2", first), "custom", folder, Console(quiet=True))
        asked = config("training.epochs=4", then)
        go_on(folder, Console(quiet=True), asked, ["training.epochs=4", then])
        same(tmp_path / "whole", folder)


@pytest.mark.usefixtures("two")
def test_an_evaluation_needs_no_devices_of_the_run(tmp_path: Path) -> None:
    run(config("devices=all"), "custom", tmp_path / "run", Console(quiet=True))
    device.count = 1
    told = evaluate(EvaluateConfig(run=str(tmp_path / "run"), prices=["brainscales2"]), Console(quiet=True))
    assert len(told["accuracy"]["per_replica"]) == 3


def test_replicas_are_shared_as_evenly_as_can_be() -> None:
    assert shared([0, 1], 5) == [(0, slice(0, 3)), (1, slice(3, 5))]
    assert shared([2, 0, 1], 2) == [(2, slice(0, 1)), (0, slice(1, 2))]
    assert shared([0], 4) == [(0, slice(0, 4))]


def test_devices_change_no_run_s_name() -> None:
    assert fingerprint(config("devices=all")) == fingerprint(config()) == fingerprint(config("devices=[0,2]"))


def test_no_more_devices_than_replicas_are_taken(cupy: ModuleType) -> None:
    device.count = 4
    assert build(config("devices=all")).backend.devices == (0, 1, 2)
    assert build(config("devices=3")).backend.devices == (3,)
    assert device.current == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("devices=both", "devices must be all, or different numbers, .* got both"),
        ("devices=[]", "devices must be all, or different numbers"),
        ("devices=[0,0]", r"different numbers, \[0,1\], got \[0, 0\]"),
        ("devices=[0,x]", "devices must be all, or different numbers"),
        ("devices=1.5", "devices must be all, or different numbers"),
        ("devices=[-1]", "devices must be all, or different numbers"),
        ("devices=[[0]]", r"devices must be all, or different numbers, .* got \[\[0\]\]"),
        ("devices=[0,1,2,3]", "at most 3 of them, or more replicas"),
    ],
)
def test_devices_that_cannot_be_are_refused(given: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(given)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_devices_are_not_the_cpu_s(backend: str) -> None:
    words = f"devices=all needs backend=cuda, got {backend}; devices=null leaves them out"
    with pytest.raises(ConfigError, match=f"replicas must be at least 1, got 0.*{words}"):
        config("devices=all", f"backend={backend}", "replicas=0")
    with pytest.raises(BackendError, match=words):
        select(backend, devices="all")


def test_what_names_no_device_computes_where_the_process_began(cupy: ModuleType) -> None:
    device.count = 3
    assert build(config()).backend.device == "a stand-in (device 0, CUDA 12.9)"
    assert build(config("devices=[2,1]")).backend.device == "a stand-in (devices 2, 1, CUDA 12.9)"
    assert device.current == 2
    assert build(config()).backend.device == "a stand-in (device 0, CUDA 12.9)"
    assert device.current == 0


def test_a_device_that_the_caller_has_made_current_stays_so(cupy: ModuleType) -> None:
    device.count = 3
    with cupy.cuda.Device(2):
        assert select("auto").device == "a stand-in (device 2, CUDA 12.9)"
        assert device.current == 2
    assert select("auto").device == "a stand-in (device 0, CUDA 12.9)"


def test_each_device_must_hold_its_share_and_the_first_all_answers(
    cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.count, asked, free = 2, [], {0: 1 << 40, 1: 1 << 40}

    class Small(FakeDevice):
        @property
        def mem_info(self) -> tuple[int, int]:  # type: ignore[override]
            asked.append(self.id)
            return free[self.id], 80 << 30

    monkeypatch.setattr(cupy.cuda, "Device", Small)
    assert build(config("devices=all")).rule.evaluation_batch_size == 200
    assert asked == [0, 1, 0]
    free[1] = 1 << 10
    with pytest.raises(ConfigError, match="memory"):
        build(config("devices=all"))


def test_a_training_s_memory_is_given_back_on_every_device(tmp_path: Path) -> None:
    device.count = 2
    gc.collect()
    pools = weakref.WeakSet(each for each in gc.get_objects() if type(each) is FakeMemoryPool)
    run(config("devices=all"), "custom", tmp_path / "run", Console(quiet=True))
    gc.collect()
    left = [each for each in gc.get_objects() if type(each) is FakeMemoryPool and each not in pools]
    assert [pool.held for pool in left if pool.held] == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["devices=[0,1]"], r"among those of this machine, 0 alone, got \[0,1\]"),
        (
            ["devices=all", "model.trained=[threshold]", "substrate=bss2"],
            r"training threshold on a chip needs backend=cpu or reference, got devices=all",
        ),
    ],
)
def test_devices_that_are_not_there_are_refused(given: list[str], words: str) -> None:
    with pytest.raises(BackendError, match=words):
        build(config(*given))


def test_jobs_side_by_side_take_turns(cupy: ModuleType) -> None:
    for count, numbers in ((1, [0, 0, 0]), (2, [0, 1, 0]), (3, [0, 1, 2])):
        device.count, device.current = count, 0
        found = []
        for number in range(3):
            take_turns(number)
            told = select("auto").device
            found.append(device.current)
            assert f"(device {device.current}," in told
        assert found == numbers


def test_shares_are_the_replicas_alone() -> None:
    parts = build(config(*MESSY, "chip_seed=7", "seed=3"))
    part = parts.of_replicas(slice(1, 3))
    assert part.seeds == parts.seeds[1:3]
    assert part.chip_seeds == parts.chip_seeds[1:3]
    whole, own = (each.machines()[0].chip for each in (parts, part))  # type: ignore[attr-defined]
    for name, array in own.arrays().items():
        np.testing.assert_array_equal(array, whole.arrays()[name][1:3], err_msg=name)
