"""Files from somebody else: one line each, before anything is unpacked, resolved or written through."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import gpuspike as gs
from gpuspike.accountant import read_prices
from gpuspike.config.files import conf_folder
from gpuspike.config.schema import jobs, read_config, read_substrate, to_yaml
from gpuspike.datasets import images, load_arrays
from gpuspike.datasets.files import IdxFile
from gpuspike.errors import ConfigError, DataError, DtypeError, GpuspikeError, OutputError, ValueRangeError
from gpuspike.runs import sweep
from gpuspike.store import checkpoint
from gpuspike.store.run_folder import refuse_links, replace_text
from gpuspike.store.sweep_folder import read_sweep
from gpuspike.strangers import MOST_NODES, names_of, unpack, yaml_text

Times = dict[str, Any]


def data(**changes: Any) -> dict[str, Any]:
    """A data set of spike times, with some arrays changed."""
    arrays: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        arrays |= {f"{split}_times": np.ones((4, 3)), f"{split}_labels": np.zeros(4, np.int64)}
    return arrays | changes


def one_line(error: BaseException) -> str:
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 1000
    return str(error)


# ---- data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": np.array([0, 0, 1, 4294967295], np.uint32)}, "below 100000.* 4294967295"),
        ({"train_labels": np.array([0, 0, 1, 2**64 - 1], np.uint64)}, "got 18446744073709551615"),
        ({"test_times": np.full((4, 3), -0.5)}, "test_times .* must be 0 or later, .*, got -0.5"),
        ({"test_times": np.full((4, 3), 1e308)}, "test_times in .* must be at most 1e"),
        ({"test_times": np.full((4, 3), 1e40)}, "test_times in .* must be at most 1e"),
        ({"class_names": np.array(["a", "\ud800"])}, r"class_names in .* must be texts that UTF-8 can hold"),
        ({"class_names": np.array([b"a", b"\xff"])}, r"class_names in .* must be texts that UTF-8 can hold"),
    ],
)  # fmt: skip
def test_wild_data_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "own.npz", **data(**changes))
    with pytest.raises(DataError, match=message) as error:
        load_arrays(tmp_path / "own.npz")
    one_line(error.value)


def test_names_may_be_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **data(class_names=np.array([b"cat", b"hun d"])))
    assert load_arrays(tmp_path / "own.npz").class_names == ("cat", "hun d")
    assert names_of("names", ["a", b"b", 3]) == ("a", "b", "3")
    with pytest.raises(DtypeError, match="names must be texts"):
        names_of("names", ["\ud800"])


def test_times_before_the_trial_have_no_price() -> None:
    net = gs.Network([2, 2], seed=0)
    with pytest.raises(ValueRangeError, match=r"t_in must be 0 or later, when a trial begins, got -1"):
        gs.price(net, np.array([[1.0, -1.0]]), [0])
    with pytest.raises(ValueRangeError, match=r"bias_times must be 0 or later, .* got -2"):
        gs.price(gs.Network([2, 2], [[-2.0]], seed=0), np.ones((1, 2)), [0])


def bomb(path: Path, shape: tuple[int, ...], n_bytes: int) -> Path:
    """An archive of one array of zeros, with so many bytes and a header that tells of a shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("train_times.npy", "w", force_zip64=True) as stream,
    ):
        stream.write(header.getvalue())
        for _ in range(n_bytes // (1 << 20)):
            stream.write(bytes(1 << 20))
    return path


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.npz", (1 << 28,), 1 << 31)
    with pytest.raises(DataError, match=r"would unpack to 2\d+ MB from \d+") as error:
        load_arrays(path)
    one_line(error.value)
    with pytest.raises(DataError, match="would unpack"):
        checkpoint.load(path)


def test_a_header_that_lies_is_not_believed(tmp_path: Path) -> None:
    path = bomb(tmp_path / "lie.npz", (1 << 50,), 1 << 20)
    with pytest.raises(DataError, match=r"train_times\.npy must hold 9007199254740992 bytes"):
        load_arrays(path)
    with open(path, "rb") as file, pytest.raises(DataError):
        unpack(file)


# ---- prices


def spoilt(place: str, value: Any) -> str:
    content = yaml.safe_load((conf_folder() / "prices" / "brainscales2.yaml").read_text("utf-8"))
    inner = content
    for key in place.split(".")[:-1]:
        inner = inner[key]
    inner[place.rsplit(".", maxsplit=1)[-1]] = value
    return yaml.safe_dump(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (spoilt("all_in.value", 10**400), "all_in: the value must be a number of 0 or more"),
        (spoilt("all_in.value", 1e-320), "all_in: a value must be 0 or from 1e-30 to 1e"),
        (spoilt("time.trial.value", 1e-320), "time.trial: a value must be 0 or from 1e-30"),
        (spoilt("time.trial.value", 1e-20), "time.trial: must be from 1e-06 to 10000 tau_syn"),
        (spoilt("time.trial.value", 1e25), "time.trial: must be from 1e-06 to 10000 tau_syn"),
        (spoilt("name", "\ud800"), "name and setting must be texts|cannot read the prices"),
        ("[" * 100_000, "at most 50 levels deep|nesting depth"),
        ("{a: " * 100_000, "at most 50 levels deep|nesting depth"),
        ("- " * 100_000, "at most 50 levels deep|nesting depth"),
        ("a: " + "9" * 5000, "cannot read the prices"),
        ("a: " + "x" * (1 << 20), "1048576 bytes at most"),
        ("a: 2020-99-99", "cannot read the prices"),
        ("name: a\nterms:\n  spikes: {a: 1}\n  spikes: {a: 2}", "line 4: found duplicate key spikes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_wild_prices_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ConfigError, match=message) as error:
        read_prices(tmp_path / "own.yaml")
    one_line(error.value)


# ---- run folders

LAUGHS = "a0: &a0 [0,0,0,0,0,0,0,0,0,0]\n" + "".join(
    f"a{k}: &a{k} [{','.join(['*a' + str(k - 1)] * 10)}]\n" for k in range(1, 10)
)


@pytest.mark.parametrize("wild", [LAUGHS, "a: " + "[" * 100_000], ids=["anchors", "brackets"])
def test_configurations_do_not_unfold(tmp_path: Path, wild: str) -> None:
    (tmp_path / "config.yaml").write_text(wild)
    for read in (read_config, read_substrate):
        with pytest.raises(ConfigError, match=r"unfolds to|levels deep|nesting depth") as error:
            read(tmp_path / "config.yaml")
        one_line(error.value)
    with pytest.raises((DataError, yaml.YAMLError)):
        yaml_text(tmp_path / "config.yaml")
    job = tmp_path / "sweep" / "0"
    job.mkdir(parents=True)
    (job / "config.yaml").write_text(wild)
    (found,) = read_sweep(tmp_path / "sweep")
    assert "config.yaml cannot be read" in found.note


def test_anchors_that_unfold_to_little_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a [1, 2]\nb: *a\n")
    assert yaml.safe_load(yaml_text(tmp_path / "a.yaml")) == {"a": [1, 2], "b": [1, 2]}
    assert MOST_NODES > 1000


def test_what_others_wrote_is_not_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    (job,) = jobs([], multirun=False)
    text = to_yaml(job.config)
    for value in ("${oc.env:SECRET}", "${seed}", "x${oc.env:SECRET}"):
        (tmp_path / "config.yaml").write_text(text.replace("name: yin_yang", f"name: '{value}'", 1))
        with pytest.raises(ConfigError, match=r"not refer to others, got dataset.name='") as error:
            read_config(tmp_path / "config.yaml")
        assert "hunter2" not in one_line(error.value)
    (tmp_path / "chip.yaml").write_text("name: ${oc.env:SECRET}\n")
    with pytest.raises(ConfigError, match="not refer to others"):
        read_substrate(tmp_path / "chip.yaml")


def test_checkpoints_and_chips_are_not_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    net = gs.Network([2, 2], seed=0).on(gs.Chip("bss2", seed=1))
    net.save(tmp_path / "net.npz")
    arrays, header = checkpoint.load(tmp_path / "net.npz")
    header["chip"]["values"]["name"] = "${oc.env:SECRET}"
    checkpoint.save(tmp_path / "net.npz", arrays, header, keep_previous=False)
    with pytest.raises(GpuspikeError, match="not refer to others") as error:
        gs.load(tmp_path / "net.npz")
    assert "hunter2" not in one_line(error.value)


def test_nothing_is_written_through_a_planted_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    for name in ("checkpoint.npz", "config.yaml"):
        (run / f"{name}.partial").symlink_to(precious)
    checkpoint.save(run / "checkpoint.npz", {"a": np.ones(2)}, {})
    replace_text(run / "config.yaml", "text")
    assert precious.read_text() == "mine"
    assert (run / "config.yaml").read_text() == "text"
    assert not (run / "checkpoint.npz").is_symlink()


@pytest.mark.parametrize("name", ["metrics.jsonl", "log.txt", "figures", "evaluations"])
def test_a_run_does_not_go_on_where_its_files_are_links(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path.parent)
    with pytest.raises(
        OutputError, match=rf"{name} must lie in the run's folder itself, got a link"
    ) as error:
        refuse_links(tmp_path)
    one_line(error.value)


@pytest.mark.parametrize("size", [28, 16])
def test_planted_images_are_made_again(tmp_path: Path, size: int) -> None:
    """Pixels under a name that fits them, but not those of the data set, whose digests are known."""
    pixels = np.arange(2 * size * size, dtype=np.uint8).reshape(2, -1)
    digest = hashlib.sha256(pixels).hexdigest()
    path = tmp_path / f"mnist_0_{size}_{digest[:32]}.npy"
    np.save(path, pixels)
    known = IdxFile("x", (2, 28, 28), content="0" * 64, shrunk="0" * 64)
    assert images._mapped(path, pixels.shape, known, size) is None
    found = images._mapped(path, pixels.shape, IdxFile("x", (2, 28, 28)), size)
    assert found is not None
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert images._mapped(path, pixels.shape, IdxFile("x", (2, 28, 28)), size) is None


@pytest.mark.parametrize("name", ["../outside", "/etc", "a/../../outside", "", "link"])
def test_jobs_lie_within_their_sweep(tmp_path: Path, name: str) -> None:
    place = tmp_path / "sweep"
    (place / "jobs").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (place / "link").symlink_to(tmp_path / "outside")
    mark = place / "jobs" / "0123.json"
    mark.write_text(json.dumps({"folder": name, "finished": True}))
    with pytest.raises(DataError, match="must name a folder within its sweep's, got"):
        sweep._read(mark)
    mark.write_text(json.dumps({"folder": "0/seed=1", "finished": False}))
    assert sweep._read(mark) == {"folder": "0/seed=1", "finished": False}
