"""Images from IDX files: found, verified, downloaded, prepared; what is wrong is said in one line.

All of it on small files made here; tests/test_mnist.py has the published ones.
"""

from __future__ import annotations

import dataclasses
import errno
import gzip
import hashlib
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.datasets import FASHION_MNIST, MNIST, Dataset, download, load_images
from gpuspike.datasets import files as idx
from gpuspike.datasets.files import IdxFile, Source
from gpuspike.datasets.images import shrink
from gpuspike.errors import DataError, ValueRangeError

N_TRAIN, N_VALIDATION, N_TEST = 30, 10, 15
FILES = ("train_images", "train_labels", "test_images", "test_labels")


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    """An IDX file."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def images(n: int, seed: int) -> NDArray[np.uint8]:
    """Images with a black border, as the data sets' are."""
    values = np.zeros((n, 28, 28), np.uint8)
    values[:, 4:24, 4:24] = np.random.default_rng(seed).integers(0, 256, (n, 20, 20))
    return values


VALUES = {
    "train_images": images(N_TRAIN + N_VALIDATION, 1),
    "train_labels": np.random.default_rng(2).integers(0, 10, N_TRAIN + N_VALIDATION, np.uint8),
    "test_images": images(N_TEST, 3),
    "test_labels": np.random.default_rng(4).integers(0, 10, N_TEST, np.uint8),
}
CONTENT = {name: idx_bytes(values) for name, values in VALUES.items()}
ARCHIVE = {name: gzip.compress(content, mtime=0) for name, content in CONTENT.items()}


def tiny(mirrors: tuple[str, ...] = (), known: bool = True) -> Source:
    """A data set in MNIST's format and under its file names, known by its contents or not at all."""
    parts = {
        name: IdxFile(
            getattr(MNIST, name).name,
            VALUES[name].shape,
            hashlib.sha256(CONTENT[name]).hexdigest() if known else None,
        )
        for name in FILES
    }
    return Source("tiny", MNIST.class_names, **parts, mirrors=mirrors, n_validation=N_VALIDATION)


def load(source: Source, cache: Path, size: int = 28, **sizes: int) -> Dataset:
    """The data set in its full size, unless told otherwise."""
    full = {"n_train": N_TRAIN, "n_validation": N_VALIDATION, "n_test": N_TEST}
    return load_images(source, size, **(full | sizes), cache=cache)


def fill(folder: Path, dotted: bool = False, zipped: bool = True, **changed: bytes) -> Path:
    """Writes the four files as a user may have them; returns the folder above."""
    (folder / "tiny").mkdir(parents=True, exist_ok=True)
    for name in FILES:
        stem = getattr(MNIST, name).name
        stem = stem.replace("-idx", ".idx") if dotted else stem
        content = changed.get(name, ARCHIVE[name] if zipped else CONTENT[name])
        (folder / "tiny" / (stem + (".gz" if zipped else ""))).write_bytes(content)
    return folder


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    """All files with their contents, and all folders, below a folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refusal(source: Source, cache: Path, size: int = 28) -> str:
    """The one line with which a data set is refused."""
    with pytest.raises(DataError) as caught:
        load(source, cache, size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def _no_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPUSPIKE_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, named by GPUSPIKE_DATA, empty."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("GPUSPIKE_DATA", str(folder))
    return folder


class Mirrors:
    """A web server on this machine; `answers` by path, `asked` the paths that were requested.

    An answer is the status, the body and the length that the header claims.
    """

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes, int]] = {}
        self.asked: list[str] = []
        mirrors = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirrors.asked.append(self.path)
                status, body, length = mirrors.answers.get(self.path, (404, b"not here", 8))
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def address(self, folder: str) -> str:
        """Of a mirror that serves one folder."""
        return f"http://127.0.0.1:{self.server.server_address[1]}/{folder}/"

    def serve(self, folder: str, **changed: bytes) -> str:
        """Puts the four files under a folder; returns its address."""
        for name in FILES:
            body = changed.get(name, ARCHIVE[name])
            self.answers[f"/{folder}/{getattr(MNIST, name).name}.gz"] = (200, body, len(body))
        return self.address(folder)


@pytest.fixture
def web() -> Iterator[Mirrors]:
    mirrors = Mirrors()
    yield mirrors
    mirrors.server.shutdown()
    mirrors.server.server_close()


def is_tiny(data: Dataset) -> bool:
    """Whether a data set is the whole one that was written, in its published splits."""
    flat = VALUES["train_images"].reshape(-1, 784)
    np.testing.assert_array_equal(data.train.features, flat[:N_TRAIN])
    np.testing.assert_array_equal(data.validation.features, flat[N_TRAIN:])
    np.testing.assert_array_equal(data.test.features, VALUES["test_images"].reshape(-1, 784))
    np.testing.assert_array_equal(data.train.labels, VALUES["train_labels"][:N_TRAIN])
    np.testing.assert_array_equal(data.validation.labels, VALUES["train_labels"][N_TRAIN:])
    np.testing.assert_array_equal(data.test.labels, VALUES["test_labels"])
    return True


# ---- the user's folder


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_all_usual_names_are_found(own: Path, cache: Path, dotted: bool, zipped: bool) -> None:
    fill(own, dotted, zipped)
    data = load(tiny(), cache)
    assert is_tiny(data)
    assert data.train.features.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    assert (data.name, data.n_features, data.image_shape) == ("tiny", 784, (28, 28))


def test_a_folder_may_be_spelled_with_a_hyphen(own: Path, cache: Path) -> None:
    source = dataclasses.replace(tiny(), name="ti_ny")
    fill(own)
    (own / "tiny").rename(own / "ti-ny")
    data = load(source, cache)
    np.testing.assert_array_equal(data.test.labels, VALUES["test_labels"])


def test_a_copy_that_was_compressed_anew_is_as_good(own: Path, cache: Path) -> None:
    fill(own, train_images=gzip.compress(CONTENT["train_images"], 1, mtime=7))
    assert is_tiny(load(tiny(), cache))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[:-200], ["damaged", ".gz"]),
        (lambda raw: raw[: len(raw) // 2] + b"\0\0\0\0" + raw[len(raw) // 2 + 4 :], ["damaged", ".gz"]),
        (lambda raw: b"", ["header"]),
        (lambda raw: b"<html>not found</html>", ["IDX", "40 x 28 x 28", "got the header"]),
        (lambda raw: CONTENT["train_images"][:-1], ["expected 31376 bytes", "got 31375"]),
        (lambda raw: gzip.compress(CONTENT["train_images"] + b"x"), ["expected 31376 bytes", "got more"]),
        (lambda raw: ARCHIVE["test_images"], ["40 x 28 x 28"]),
        (lambda raw: gzip.compress(CONTENT["train_images"][:-1] + b"x"), ["sha256"]),
    ],
)
def test_a_damaged_file_of_the_user_is_named_and_left_alone(
    own: Path, cache: Path, web: Mirrors, damage: Any, words: list[str]
) -> None:
    fill(own, train_images=damage(ARCHIVE["train_images"]))
    before = snapshot(own)
    message = refusal(tiny((web.serve("good"),)), cache)
    for word in (str(own / "tiny" / "train-images-idx3-ubyte.gz"), "replace it", *words):
        assert word in message
    assert snapshot(own) == before
    assert web.asked == []


def test_labels_of_unknown_classes_are_refused(own: Path, cache: Path) -> None:
    labels = VALUES["train_labels"].copy()
    labels[3] = 10
    fill(own, train_labels=gzip.compress(idx_bytes(labels)))
    assert "expected labels below 10, got 10" in refusal(tiny(known=False), cache)


def test_a_file_that_cannot_be_read_is_named(own: Path, cache: Path) -> None:
    fill(own)
    (own / "tiny" / "train-images-idx3-ubyte.gz").unlink()
    (own / "tiny" / "train-images-idx3-ubyte.gz").mkdir()
    assert "it is a folder" in refusal(tiny(), cache)


def test_a_data_folder_that_is_not_there_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, web: Mirrors
) -> None:
    monkeypatch.setenv("GPUSPIKE_DATA", str(tmp_path / "dta"))
    message = refusal(tiny((web.serve("good"),)), cache)
    assert "GPUSPIKE_DATA must name a folder" in message
    assert str(tmp_path / "dta") in message
    assert web.asked == []


def test_what_the_user_s_folder_lacks_is_taken_from_elsewhere(own: Path, cache: Path, web: Mirrors) -> None:
    fill(own)
    (own / "tiny" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert is_tiny(load(tiny((web.serve("good"),)), cache))
    assert web.asked == ["/good/t10k-labels-idx1-ubyte.gz"]


# ---- sizes


def test_a_smaller_split_holds_the_first_samples(own: Path, cache: Path) -> None:
    fill(own)
    data = load(tiny(), cache, n_train=7, n_validation=3, n_test=2)
    flat = VALUES["train_images"].reshape(-1, 784)
    np.testing.assert_array_equal(data.train.features, flat[:7])
    np.testing.assert_array_equal(data.validation.features, flat[N_TRAIN : N_TRAIN + 3])
    np.testing.assert_array_equal(data.test.labels, VALUES["test_labels"][:2])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_train": N_TRAIN + 1}, f"n_train must be at most {N_TRAIN}, .* got {N_TRAIN + 1}"),
        ({"n_validation": 11}, "n_validation must be at most 10, .* got 11"),
        ({"n_test": 16}, "n_test must be at most 15, .* got 16"),
        ({"n_test": 0}, "n_test must be at least 1, got 0"),
        ({"size": 20}, "image_size must be one of 28, 16, got 20"),
    ],
)
def test_sizes_that_cannot_be_had_are_refused_before_any_work(
    cache: Path, web: Mirrors, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueRangeError, match=message):
        load(tiny((web.serve("good"),)), cache, **sizes)
    assert web.asked == []


# ---- 16x16


def bilinear(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Antialiased bilinear resize in fixed point: 22 fractional bits, columns first, rounded after each pass.

    Written from the description of the method, as an oracle of what Pillow does.
    """
    scale = image.shape[0] / size
    weights = np.zeros((size, image.shape[0]))
    for k in range(size):
        centre = (k + 0.5) * scale
        first, last = max(int(centre - scale + 0.5), 0), min(int(centre + scale + 0.5), image.shape[0])
        distance = np.abs(np.arange(first, last) - centre + 0.5) / scale
        weights[k, first:last] = np.maximum(1.0 - distance, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    fixed = np.floor(weights * 2**22 + 0.5).astype(np.int64)

    def along_the_last_axis(values: NDArray[Any]) -> NDArray[Any]:
        return np.clip((values.astype(np.int64) @ fixed.T + 2**21) >> 22, 0, 255)

    return along_the_last_axis(along_the_last_axis(image).T).T.astype(np.uint8)


def test_small_images_are_the_centre_resized_bit_for_bit() -> None:
    before = np.random.default_rng(0).integers(0, 256, (50, 28, 28), np.uint8)
    before[:3] = np.array([0, 255, 128], np.uint8)[:, None, None]
    after = shrink(before)
    assert (after.shape, after.dtype) == ((50, 16, 16), np.uint8)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(other, bilinear(one[2:26, 2:26], 16))
    border = np.full((1, 28, 28), 255, np.uint8)
    border[:, 2:26, 2:26] = 0
    assert not shrink(border).any(), "nothing of what was cropped shines through"


def test_a_data_set_comes_in_both_sizes(own: Path, cache: Path) -> None:
    fill(own)
    data = load(tiny(), cache, size=16)
    assert (data.n_features, data.image_shape) == (256, (16, 16))
    np.testing.assert_array_equal(data.test.features, shrink(VALUES["test_images"]).reshape(-1, 256))


# ---- prepared once


def test_images_are_prepared_once_and_mapped_after(
    own: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(own)
    for size in (28, 16):
        load(tiny(), cache, size)
    files = snapshot(cache / "prepared")
    assert len(files) == 4
    decoded = []
    decode = IdxFile.decode
    monkeypatch.setattr(
        IdxFile, "decode", lambda file, raw: (decoded.append(file.name), decode(file, raw))[1]
    )
    for size in (28, 16):
        data = load(tiny(), cache, size)
        for split in data.splits.values():
            assert isinstance(split.features, np.memmap)
            assert not split.features.flags.writeable
    assert set(decoded) == {"train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"}
    assert snapshot(cache / "prepared") == files


def test_other_contents_are_prepared_anew(own: Path, cache: Path) -> None:
    fill(own)
    load(tiny(known=False), cache)
    fill(own, test_images=gzip.compress(idx_bytes(255 - VALUES["test_images"])))
    data = load(tiny(known=False), cache)
    np.testing.assert_array_equal(data.test.features, 255 - VALUES["test_images"].reshape(-1, 784))


@pytest.mark.parametrize("damage", [b"", b"PK\3\4", b"\x93NUMPY\1\0", b"nothing of the kind"])
def test_a_damaged_prepared_file_is_made_again(own: Path, cache: Path, damage: bytes) -> None:
    fill(own)
    load(tiny(), cache)
    prepared = sorted((cache / "prepared").iterdir())
    whole = [path.read_bytes() for path in prepared]
    prepared[0].write_bytes(damage)
    prepared[1].write_bytes(whole[1][:-1])
    assert is_tiny(load(tiny(), cache))
    assert [path.read_bytes() for path in prepared] == whole


def test_without_a_cache_images_stay_in_memory(own: Path, tmp_path: Path) -> None:
    fill(own)
    (tmp_path / "file").write_text("where the cache should be")
    data = load(tiny(), tmp_path / "file")
    assert is_tiny(data)
    assert not isinstance(data.train.features, np.memmap)


def test_a_full_disk_leaves_nothing_and_images_in_memory(
    own: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fill(own)
    monkeypatch.setattr(os, "fsync", full)
    assert is_tiny(load(tiny(), cache))
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_processes_that_start_together_do_not_break_each_other(own: Path, cache: Path, web: Mirrors) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_images as t;"
        "print(t.is_tiny(t.load(t.tiny((sys.argv[2],)), Path(sys.argv[3]))))"
    )
    arguments = [str(Path(__file__).parent), web.serve("good"), str(cache)]
    several = [
        subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE) for _ in range(3)
    ]
    assert [process.communicate()[0].strip() for process in several] == [b"True"] * 3
    names = sorted(path.name for path in cache.rglob("*") if path.is_file())
    assert len(names) == 6, names
    assert not any("partial" in name for name in names)


# ---- the download, from a server on this machine


def test_a_download_is_kept_and_then_needs_no_network(
    cache: Path, web: Mirrors, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny((web.serve("good"),))
    assert is_tiny(load(source, cache))
    assert sorted(web.asked) == sorted(f"/good/{getattr(MNIST, name).name}.gz" for name in FILES)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("downloading http://127.0.0.1") == 4
    for name in FILES:
        assert (cache / "tiny" / f"{getattr(MNIST, name).name}.gz").read_bytes() == ARCHIVE[name]
    offline = dataclasses.replace(source, mirrors=())
    assert is_tiny(load(offline, cache))
    assert load(offline, cache, size=16).n_features == 256
    assert len(web.asked) == 4
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((503, b"busy", 4), "Service Unavailable"),
        ((200, ARCHIVE["train_images"][:-100], len(ARCHIVE["train_images"])), "connection ended after"),
        ((200, ARCHIVE["test_images"], len(ARCHIVE["test_images"])), "expected an IDX file of 40 x 28 x 28"),
        ((200, gzip.compress(CONTENT["train_images"][:-1] + b"x"), -1), "sha256"),
        ((200, ARCHIVE["train_images"][:-100], -1), "damaged .gz"),
    ],
    ids=["busy", "cut", "other file", "wrong checksum", "truncated"],
)
def test_a_mirror_that_fails_is_passed_over(
    cache: Path, web: Mirrors, answer: tuple[int, bytes, int], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "train-images-idx3-ubyte.gz"
    bad, good = web.serve("bad"), web.serve("good")
    status, body, length = answer
    web.answers[f"/bad/{name}"] = (status, body, length if length >= 0 else len(body))
    assert is_tiny(load(tiny((bad, good)), cache))
    assert web.asked[:2] == [f"/bad/{name}", f"/good/{name}"]
    said = capsys.readouterr().err
    assert reason in said
    assert "trying the next mirror" in said
    assert not list(cache.rglob("*.partial"))


def test_where_no_mirror_helps_the_error_says_why_and_what_to_do(cache: Path, web: Mirrors) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_address[1]
    wrong = web.serve("wrong", train_images=ARCHIVE["train_images"][:-9])
    source = tiny((f"http://127.0.0.1:{port}/", "http://nowhere.invalid/", web.address("gone"), wrong))
    message = refusal(source, cache)
    for word in (
        "cannot download train-images-idx3-ubyte.gz of tiny",
        f"127.0.0.1:{port}: ", "refused", "nowhere.invalid: ", "Not Found", "damaged .gz",
        str(cache / "tiny"), "GPUSPIKE_DATA", "tiny/",
    ):  # fmt: skip
        assert word in message, message
    assert not cache.exists() or not [path for path in cache.rglob("*") if path.is_file()]


def test_an_endless_answer_is_not_taken_in(
    cache: Path, web: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MOST_BYTES", 1000)
    assert "longer than 1000 bytes" in refusal(tiny((web.serve("good"),)), cache)


def test_a_damaged_file_in_the_cache_is_said_and_downloaded_again(
    cache: Path, web: Mirrors, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny((web.serve("good"),))
    load(source, cache)
    path = cache / "tiny" / "train-images-idx3-ubyte.gz"
    path.write_bytes(ARCHIVE["train_images"][:-50])
    capsys.readouterr()
    assert is_tiny(load(source, cache))
    said = capsys.readouterr().err
    assert str(path) in said
    assert "downloading it again" in said
    assert path.read_bytes() == ARCHIVE["train_images"]


def test_a_file_of_another_origin_is_not_trusted_in_the_cache(cache: Path, web: Mirrors) -> None:
    fill(cache, test_images=gzip.compress(idx_bytes(255 - VALUES["test_images"])))
    assert is_tiny(load(tiny((web.serve("good"),)), cache))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, web: Mirrors) -> None:
    (tmp_path / "file").write_text("where the cache should be")
    message = refusal(tiny((web.serve("good"),)), tmp_path / "file")
    for word in (
        str(tmp_path / "file" / "tiny" / "train-images"),
        "Not a directory",
        "writable",
        "GPUSPIKE_DATA",
    ):
        assert word in message


def test_a_full_disk_is_said_and_leaves_nothing(
    cache: Path, web: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(idx.os, "fsync", full)
    message = refusal(tiny((web.serve("good"),)), cache)
    for word in (
        str(cache / "tiny" / "train-images-idx3-ubyte.gz"),
        "No space left",
        "free ",
        "GPUSPIKE_DATA",
    ):
        assert word in message
    assert [path for path in cache.rglob("*") if path.is_file()] == []


# ---- what is published


@pytest.mark.parametrize("source", [MNIST, FASHION_MNIST], ids=lambda source: source.name)
def test_every_published_file_has_a_checksum_and_more_than_one_mirror(source: Source) -> None:
    for name in FILES:
        file = getattr(source, name)
        assert len(bytes.fromhex(file.content)) == 32
        assert file.shape[0] == (60_000 if name.startswith("train") else 10_000)
    assert len(source.mirrors) >= 2
    assert all(mirror.endswith("/") for mirror in source.mirrors)
    assert len(source.class_names) == 10
