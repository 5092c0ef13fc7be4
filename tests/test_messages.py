"""Messages that once told less than they knew, or something else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuspike as gs
from gpuspike.cli import plan, report, train
from gpuspike.cli.command import too_large
from gpuspike.config.schema import jobs
from gpuspike.datasets import load_arrays
from gpuspike.datasets.encoding import latency
from gpuspike.errors import (
    ConfigError,
    DataError,
    DtypeError,
    GpuspikeError,
    OutputError,
    ValueRangeError,
    extent,
)
from gpuspike.store.run_folder import check_folder


def test_float16_is_told_by_its_own_name() -> None:
    times, weights = np.ones((1, 2), np.float16), np.ones((2, 1), np.float16)
    with pytest.raises(DtypeError, match=r"^t_in must be float32 or float64, got float16$"):
        gs.first_spikes(times, weights, gs.LIF())


def test_float16_in_jax() -> None:
    jnp = pytest.importorskip("jax.numpy")
    from gpuspike.jax import first_spikes

    times, weights = jnp.ones((1, 2), jnp.float16), jnp.ones((2, 1), jnp.float16)
    with pytest.raises(DtypeError, match=r"^t_in must be float32 or float64, got float16$"):
        first_spikes(times, weights, gs.LIF())
    with pytest.raises(DtypeError, match=r"^weights must be .* like t_in \(float32\), got float16$"):
        first_spikes(times.astype(jnp.float32), weights, gs.LIF())


def test_float16_in_torch() -> None:
    torch = pytest.importorskip("torch")
    from gpuspike.torch import first_spikes

    half = torch.ones((2, 2), dtype=torch.float16)
    with pytest.raises(DtypeError, match=r"^t_in must be torch.float32 or torch.float64, got torch.float16$"):
        first_spikes(half, half, gs.LIF())


def test_what_is_just_outside_is_shown_with_all_its_digits(tmp_path: Path) -> None:
    with pytest.raises(ValueRangeError, match=r"got 0\.5 to 1\.0000001$"):
        latency([0.5, 1.0000001], 0.0, 1.0)
    with pytest.raises(ValueRangeError, match=r"got 1\.0000001$"):
        latency([1.0000001], 0.0, 1.0)
    arrays = {}
    for split in ("train", "validation", "test"):
        arrays |= {f"{split}_values": np.ones((2, 3)), f"{split}_labels": np.zeros(2, np.int64)}
    np.savez(tmp_path / "own.npz", **arrays | {"test_values": np.full((2, 3), 1.0000001)})
    with pytest.raises(DataError, match=r"must lie in \[0, 1\], got 1\.0000001$"):
        load_arrays(tmp_path / "own.npz")
    assert extent(np.array([3, -1])) == "-1 to 3"


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_an_array_without_axes_is_a_number(kind: type) -> None:
    neuron = gs.LIF(tau_mem=np.array(2, kind), threshold=np.array(3, kind))
    assert neuron == gs.LIF(tau_mem=2.0, threshold=3.0)
    assert neuron.uniform
    with pytest.raises(ValueRangeError, match=r"tau_mem must be positive, got -1\.0"):
        gs.LIF(tau_mem=np.array(-1.0))


def test_memory_that_is_not_there_is_told_of_with_and_without_words() -> None:
    assert str(too_large("the run", MemoryError())) == "the run does not fit into memory"
    told = too_large("the run", MemoryError("Unable to allocate 7 TiB"))
    assert str(told) == "the run does not fit into memory: Unable to allocate 7 TiB"


def test_numba_that_may_not_compile_is_refused() -> None:
    code = "import numpy as np, gpuspike as gs; gs.first_spikes(np.ones((1, 1)), np.ones((1, 1)), gs.LIF())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"NUMBA_DISABLE_JIT": "1"},
        cwd=Path(__file__).parent.parent,
    )
    assert done.stderr.splitlines()[-1] == (
        "gpuspike.errors.BackendError: the kernels of the CPU are compiled code, which NUMBA_DISABLE_JIT "
        "forbids: unset it, or choose backend=reference"
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("a\nb", r"a\nb"),
        ("a\x85b", r"a\x85b"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\udcff", r"\udcff"),
        ("µ ß", "µ ß"),
    ],
)
@pytest.mark.parametrize("kind", [ConfigError, OutputError, ValueRangeError])
def test_a_message_is_one_line_of_what_can_be_printed(
    kind: type[GpuspikeError], given: str, told: str
) -> None:
    assert str(kind(f"got {given}")) == f"got {told}"


def test_line_breaks_in_a_pair_are_told_in_one_line() -> None:
    with pytest.raises(ConfigError) as error:
        jobs(["=\x850", "=\x85"], multirun=False)
    assert str(error.value).count(r"\x85") == 2
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("command", [train.train, train.evaluate, plan.plan, report.report])
def test_every_command_tells_its_version(
    command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpuspike", "--version"])
    with pytest.raises(SystemExit) as stop:
        command()
    assert stop.value.code == 0
    assert re.fullmatch(r"gpuspike-(train|evaluate|plan|report) \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_a_folder_with_hydra_s_own_configuration_holds_no_run(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("# all\ndefaults:\n  - model: mnist\n")
    check_folder(tmp_path)
    (tmp_path / "conf" / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(OutputError, match="which holds a run"):
        check_folder(tmp_path)


def test_a_run_goes_on_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpuspike-train", "resume=outputs/x", "hydra.run.dir=outputs/y"])
    with pytest.raises(SystemExit) as stop:
        train.train()
    assert stop.value.code == 2
    assert (
        "goes on in the run's own folder, got hydra.run.dir=outputs/y: leave it out"
        in capsys.readouterr().err
    )
