"""Nonsense wherever a user or a disk can put it: a line of ours or a result, and nothing touched."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from gpuspike.accountant import read_prices
from gpuspike.cli import tune as cli_tune
from gpuspike.config.files import conf_folder
from gpuspike.config.schema import Config, jobs
from gpuspike.datasets import download, load_arrays
from gpuspike.datasets.files import IdxFile
from gpuspike.errors import GpuspikeError
from gpuspike.runs import run as runs
from gpuspike.runs.experiment import build
from gpuspike.runs.tune import check, corners
from gpuspike.store import checkpoint, resume
from gpuspike.store.identity import flat, to_values

SMALL = ["backend=cpu", "dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100"]
SECONDS = 20
"""For one case, far above what any takes: what runs into it hangs."""


def cases(number: int) -> settings:
    """How many cases, always the same ones; what fails is shown as found."""
    return settings(
        max_examples=number,
        deadline=1000 * SECONDS,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


def refused(action: Callable[[], Any]) -> bool:
    """Whether an action ends with an error of ours, which must be one line; any other fails the test."""
    try:
        action()
    except GpuspikeError as error:
        message = str(error)
        assert message
        assert len(message.splitlines()) == 1, message
        return True
    return False


# ---- values on a command line


KEYS = sorted(
    {name for name, _ in flat(to_values(jobs([], multirun=False)[0].config))}
    | {
        "dataset",
        "model",
        "optimizer",
        "training",
        "substrate",
        "tracking",
        "experiment",
        "nothing",
        "a.b.c",
        "",
    }
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-3, 400),
    st.floats(),
    st.sampled_from([0, -1, 1e308, 2**31, 2**63]),
)
WORDS = st.one_of(
    st.sampled_from(
        [
            "null", "true", "inf", "-inf", "nan", "''", "???", "[]", "{}", "[[]]", "[1,2]", "[[0.9],[]]",
            "{a:1}", "${seed}", "${nothing}", "${now:%Y}", "${oc.env:HOME}", "adam", "sgd", "cosine",
            "mnist", "a b", "a,b", "range(3)", "glob(*)", "choice(1,2)", "interval(0,1)", "1_000", "0x10",
            "1e-400", "'", '"', "\\", "[", "${",
        ]
    ),
    st.text(max_size=12),
)  # fmt: skip
VALUES = st.one_of(NUMBERS.map(str), WORDS, st.lists(NUMBERS, max_size=4).map(str))
OVERRIDES = st.lists(
    st.builds(
        lambda prefix, key, value: f"{prefix}{key}={value}",
        st.sampled_from(["", "", "", "", "+", "++", "~"]),
        st.sampled_from(KEYS),
        VALUES,
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture
def nowhere(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty place without data sets and without a network."""

    def unplugged(*_: object) -> bytes:
        raise OSError(101, "Network is unreachable")

    for variable in ("GPUSPIKE_DATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path_factory.mktemp("empty")))
    monkeypatch.setattr(download, "_get", unplugged)
    monkeypatch.setattr(download, "say", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build_all(overrides: list[str], multirun: bool) -> None:
    """What the command does with a command line before it begins to work."""
    for job in jobs(overrides, multirun)[:3]:
        if isinstance(job.config, Config) and job.config.dataset.n_train <= 20_000:  # more takes its time
            build(job.config)


def look_at_command_lines(place: Path, number: int) -> None:
    """Composes and builds that many random command lines."""

    @cases(number)
    @given(overrides=OVERRIDES, multirun=st.booleans())
    def look(overrides: list[str], multirun: bool) -> None:
        small = ["dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100", *overrides]
        refused(lambda: build_all(small, multirun))
        assert list(place.iterdir()) == []

    look()


def test_values_on_a_command_line(nowhere: Path) -> None:
    look_at_command_lines(nowhere, 12)


@pytest.mark.slow
def test_many_values_on_a_command_line(nowhere: Path) -> None:
    look_at_command_lines(nowhere, 1500)


# ---- damaged files


def damage(data: st.DataObject, content: bytes) -> bytes:
    """A file that a disk, an editor or a transfer has spoilt."""
    kind = data.draw(st.sampled_from(["cut", "flip", "insert", "drop", "fill", "swap", "other"]))
    if kind == "other":
        return data.draw(st.binary(max_size=300))
    if kind == "cut":
        return content[: data.draw(st.integers(0, len(content)))]
    start = data.draw(st.integers(0, max(len(content) - 1, 0)))
    length = data.draw(st.integers(1, 64))
    part = content[start : start + length]
    new = {
        "flip": lambda: bytes(byte ^ data.draw(st.integers(1, 255)) for byte in part[:4]) + part[4:],
        "insert": lambda: data.draw(st.binary(min_size=1, max_size=64)) + part,
        "drop": lambda: b"",
        "fill": lambda: bytes([data.draw(st.integers(0, 255))]) * len(part),
        "swap": lambda: part[::-1],
    }[kind]()
    return content[:start] + new + content[start + length :]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    (job,) = jobs([*SMALL, "training.epochs=3", "model.hidden=[5]"], multirun=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "draw", lambda *_: {})
        runs.run(job.config, "test", folder, Console(file=io.StringIO()))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def look_at_run_folders(finished: Path, place: Path, number: int) -> None:
    """Reads that many runs with damaged files."""
    whole = contents(finished)
    good = resume.read(finished)
    before = checkpoint.load(finished / "checkpoint.previous.npz")[0]
    names = ["checkpoint.npz", "checkpoint.previous.npz", "config.yaml", "metrics.jsonl"]
    for name, content in whole.items():
        (place / name).write_bytes(content)

    @cases(number)
    @given(data=st.data())
    def look(data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
        for name in chosen:
            (place / name).write_bytes(damage(data, whole[name]))
        now = contents(place)
        found: list[resume.Stopped] = []
        try:
            refused(lambda: found.append(resume.read(place)))
            assert contents(place) == now
        finally:
            for name in chosen:
                (place / name).write_bytes(whole[name])
        for state in found:
            assert good.arrays is not None
            assert state.arrays is not None
            expected = good.arrays if state.epoch == 3 else before
            assert state.epoch in (2, 3)
            for name, array in state.arrays.items():
                assert array.tobytes() == expected[name].tobytes(), "what is read is what was written"

    look()


def test_run_folders_with_damaged_files(finished: Path, tmp_path: Path) -> None:
    look_at_run_folders(finished, tmp_path, 60)


@pytest.mark.slow
def test_many_run_folders_with_damaged_files(finished: Path, tmp_path: Path) -> None:
    look_at_run_folders(finished, tmp_path, 1500)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def look_at_headers(finished: Path, place: Path, number: int) -> None:
    """Reads that many checkpoints, whole ones, whose headers say something else."""
    arrays, header = checkpoint.load(finished / "checkpoint.npz")
    shutil.copy(finished / "metrics.jsonl", place)
    path = place / "checkpoint.npz"

    @cases(number)
    @given(
        changes=st.dictionaries(st.sampled_from(sorted(header)), JSON, min_size=1, max_size=3),
        inside=st.booleans(),
    )
    def look(changes: dict[str, Any], inside: bool) -> None:
        changed = header | changes
        if inside:  # one level further down
            changed = header | {"config": header["config"] | {"model": changes, "training": changes}}
        text = json.dumps({"arrays": sorted(arrays), **changed})
        np.savez(path, header=np.array(text), **arrays)  # type: ignore[arg-type]
        refused(lambda: resume.read(place))

    look()


def test_headers_that_say_something_else(finished: Path, tmp_path: Path) -> None:
    look_at_headers(finished, tmp_path, 60)


@pytest.mark.slow
def test_many_headers_that_say_something_else(finished: Path, tmp_path: Path) -> None:
    look_at_headers(finished, tmp_path, 1000)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_damaged_data_files(packed: bool) -> None:
    file = IdxFile("images", (6, 4, 4))
    values = np.arange(96, dtype=np.uint8)
    raw = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in file.shape) + values.tobytes()
    content = gzip.compress(raw, mtime=0) if packed else raw

    @cases(1000)
    @given(data=st.data())
    def look(data: st.DataObject) -> None:
        found: list[Any] = []
        spoilt = damage(data, content)
        refused(lambda: found.append(file.decode(spoilt)))
        for images in found:
            assert (images.shape, images.dtype) == (file.shape, np.uint8)
            if packed:  # gzip has a checksum
                np.testing.assert_array_equal(images.ravel(), values)

    look()


# ---- searches


def look_at_searches(place: Path, number: int) -> None:
    """Reads that many files of gpuspike-tune."""
    path = place / "search.yaml"
    whole = (
        b"name: mice\ntrials: 3\noverrides: [seed=1]\nparameters:\n  seed: {low: 1, high: 9, integer: true}\n"
    )

    def read() -> None:
        search, others = cli_tune.read([f"tune={path}"])
        assert others == []
        check(search)
        for corner in corners(search)[:4]:
            jobs([*search.overrides, *corner], multirun=False)

    @cases(number)
    @given(data=st.data())
    def look(data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            content = damage(data, whole)
        else:
            item = data.draw(
                st.dictionaries(st.sampled_from(["low", "high", "log", "integer", "choices"]), JSON)
            )
            content = json.dumps(
                {"name": "x", "parameters": {data.draw(st.sampled_from(KEYS)): item}}
            ).encode()
        path.write_bytes(content)
        refused(read)

    look()


def test_files_of_searches(tmp_path: Path) -> None:
    look_at_searches(tmp_path, 60)


@pytest.mark.slow
def test_many_files_of_searches(tmp_path: Path) -> None:
    look_at_searches(tmp_path, 1000)


# ---- files of prices and of one's own data

PRICES = sorted((conf_folder() / "prices").glob("*.yaml"))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just([]), st.just({}),
    st.lists(st.floats(), max_size=3), st.sampled_from(["pJ", "W", "us", "measured", "all_in", "per_term"]),
)  # fmt: skip


def changed(node: Any, draw: Callable[..., Any]) -> Any:
    """A copy of some YAML in which one thing, somewhere, is another, or missing."""
    if isinstance(node, dict) and node and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(node, key=str)))
        if not draw(st.integers(0, 4)):
            return {k: v for k, v in node.items() if k != key}
        return node | {key: changed(node[key], draw)}
    if isinstance(node, list) and node and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(node) - 1))
        return [*node[:place], changed(node[place], draw), *node[place + 1 :]]
    return draw(LEAVES)


def price_files(number: int, folder: Path) -> None:
    """So many files of prices that somebody has spoilt."""
    path = folder / "prices.yaml"

    @cases(number)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        text = data.draw(st.sampled_from(PRICES)).read_text(encoding="utf-8")
        if data.draw(st.booleans()):
            text = yaml.safe_dump(changed(yaml.safe_load(text), data.draw), allow_unicode=True)
        else:
            place = data.draw(st.integers(0, len(text)))
            text = (
                text[:place] + data.draw(st.text(max_size=4)) + text[place + data.draw(st.integers(0, 9)) :]
            )
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        refused(lambda: read_prices(path))

    one()


def test_files_of_prices(tmp_path: Path) -> None:
    price_files(100, tmp_path)


@pytest.mark.slow
def test_many_files_of_prices(tmp_path: Path) -> None:
    price_files(1500, tmp_path)


def own_data(number: int, folder: Path) -> None:
    """So many .npz files whose bytes are damaged."""
    whole = folder / "whole.npz"
    arrays = {f"{split}_values": np.ones((4, 3)) for split in ("train", "validation", "test")}
    labels = {f"{split}_labels": np.zeros(4, np.int64) for split in ("train", "validation", "test")}
    np.savez(whole, **arrays, **labels)  # pyright: ignore[reportArgumentType]
    packed, path = whole.read_bytes(), folder / "damaged.npz"

    @cases(number)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        damaged = bytearray(packed)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
        refused(lambda: load_arrays(path, 4, 4, 4))

    one()


def test_own_data_that_is_damaged(tmp_path: Path) -> None:
    own_data(200, tmp_path)


@pytest.mark.slow
def test_much_own_data_that_is_damaged(tmp_path: Path) -> None:
    own_data(1500, tmp_path)
