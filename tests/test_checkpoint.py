"""Checkpoints: what was saved comes back, a damaged file is refused, and a failed write harms nothing."""

from __future__ import annotations

import gc
import io
import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuspike.errors import DataError, OutputError
from gpuspike.store.checkpoint import FORMAT, load, previous, recover, save, set_aside

HEADER = {"epoch": 3, "config": {"seed": 0, "lists": [[0.9], []], "name": "Göltz \n é"}, "seeds": [0, 1]}


def make_arrays() -> dict[str, NDArray[Any]]:
    """Arrays of every dtype and shape that a run has, and values that are easily lost."""
    return {
        "weights_0": np.random.default_rng(0).standard_normal((2, 5, 3)),
        "weights_1": np.array([[0.1, -0.0, math.inf, math.nan, 5e-324]], np.float32),
        "bump_layer": np.array([-1, 0]),
        "empty": np.zeros((2, 0, 3)),
        "scalar": np.array(7),
        "transposed": np.arange(6.0).reshape(2, 3).T,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint in a folder of its own."""
    file = tmp_path / "checkpoint.npz"
    save(file, make_arrays(), HEADER)
    return file


def assert_whole(file: Path) -> None:
    """The file holds what the fixture saved."""
    arrays, header = load(file)
    assert header == {"format": FORMAT, **HEADER}
    expected = make_arrays()
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name], strict=True)
        assert array.tobytes() == expected[name].tobytes(), "signed zeros and NaN too"


def refusal(file: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(DataError) as caught:
        load(file)
    message = str(caught.value)
    assert "\n" not in message
    assert str(file) in message
    return message


def test_arrays_and_header_come_back_bit_for_bit(path: Path) -> None:
    assert_whole(path)


def test_nothing_but_the_file_is_left_in_the_folder(path: Path) -> None:
    assert list(path.parent.iterdir()) == [path]


def test_a_second_save_replaces_the_first_and_keeps_it(path: Path) -> None:
    save(path, {"other": np.ones(2)}, {"epoch": 4})
    arrays, header = load(path)
    assert list(arrays) == ["other"]
    assert header == {"format": FORMAT, "epoch": 4}
    assert_whole(previous(path))
    assert sorted(path.parent.iterdir()) == sorted([path, previous(path)])


def test_only_one_checkpoint_before_is_kept(path: Path) -> None:
    for epoch in (4, 5):
        save(path, {"other": np.ones(2)}, {"epoch": epoch})
    assert load(previous(path))[1]["epoch"] == 4
    assert len(list(path.parent.iterdir())) == 2


def test_the_one_before_is_read_where_the_newest_is_damaged_or_missing(path: Path) -> None:
    save(path, {"other": np.ones(2)}, {"epoch": 4})
    assert recover(path)[1:] == ({"format": FORMAT, "epoch": 4}, None)
    path.write_bytes(path.read_bytes()[:100])
    for _ in range(2):
        arrays, header, why = recover(path)
        assert (header["epoch"], arrays.keys()) == (3, make_arrays().keys())
        assert why is not None
        assert str(path) in why
        assert "\n" not in why
        path.unlink(missing_ok=True)


def test_an_unreadable_one_is_set_aside_for_the_one_before(path: Path) -> None:
    save(path, {"other": np.ones(2)}, {"epoch": 4})
    path.write_bytes(b"damaged")
    set_aside(path)
    assert_whole(path)
    assert (path.parent / "checkpoint.unreadable.npz").read_bytes() == b"damaged"
    assert not previous(path).exists()


def test_nothing_is_recovered_from_two_damaged_ones_nor_past_an_unknown_format(path: Path) -> None:
    save(path, {"other": np.ones(2)}, {"epoch": 4})
    newest = path.read_bytes()
    path.write_bytes(npz(header=np.array(json.dumps({"format": FORMAT + 1}))))
    with pytest.raises(DataError, match="format"):
        recover(path)
    path.write_bytes(newest[:-50])
    previous(path).write_bytes(b"")
    with pytest.raises(DataError, match="not a readable checkpoint") as caught:
        recover(path)
    assert str(path) in str(caught.value), "the newest is the one to tell of"


def test_loaded_arrays_can_be_changed(path: Path) -> None:
    arrays, _ = load(path)
    arrays["weights_0"] += 1.0


def test_the_file_is_plain_npz_without_pickle_and_holds_nothing_else(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert {Path(name).stem for name in archive.namelist()} == {"header", *make_arrays()}
    with np.load(path, allow_pickle=False) as file:
        assert json.loads(str(file["header"]))["format"] == FORMAT
        assert all(not file[name].dtype.hasobject for name in file.files)


def test_objects_that_would_need_pickle_are_not_saved(path: Path) -> None:
    with pytest.raises((ValueError, TypeError)):
        save(path, {"bad": np.array([{"a": 1}], dtype=object)}, {})
    assert_whole(path)


def test_a_header_that_is_not_json_is_not_saved(path: Path) -> None:
    with pytest.raises(TypeError):
        save(path, make_arrays(), {"bad": object()})
    assert_whole(path)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_midway_leaves_the_old_file_and_nothing_that_would_be_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = path.read_bytes()

    def fail_midway(file: io.BufferedIOBase, *_: Any, **__: Any) -> None:
        file.write(before[: len(before) // 2])
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fail_midway)
        with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
            save(path, {"other": np.ones(2)}, {})
    if isinstance(error, OSError):
        assert str(path) in str(caught.value)
        assert "No space left on device" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert list(path.parent.glob("*.npz")) == [path]
    assert_whole(path)
    save(path, {"other": np.ones(2)}, {})
    assert list(load(path)[0]) == ["other"]
    assert sorted(path.parent.iterdir()) == sorted([path, previous(path)])


@pytest.mark.parametrize("which", [1, 2])
def test_a_rename_that_fails_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    replace, calls = os.replace, []

    def refuse(*names: Any) -> None:
        calls.append(names)
        if len(calls) == which:
            raise OSError(5, "Input/output error")
        replace(*names)

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OutputError, match="Input/output error"):
        save(path, {"other": np.ones(2)}, {})
    assert_whole(path)


def below_a_file(folder: Path) -> Path:
    """A path that needs a regular file to be a folder."""
    (folder / "file").write_text("not a folder")
    return folder / "file" / "checkpoint.npz"


def in_no_folder(folder: Path) -> Path:
    """A path in a folder that does not exist."""
    return folder / "missing" / "checkpoint.npz"


def a_folder(folder: Path) -> Path:
    """A path that is a folder already."""
    (folder / "checkpoint.npz").mkdir()
    return folder / "checkpoint.npz"


@pytest.mark.parametrize("place", [below_a_file, in_no_folder, a_folder], ids=lambda f: f.__name__)
def test_a_place_that_cannot_be_written_is_an_output_error_in_one_line(
    tmp_path: Path, place: Callable[[Path], Path]
) -> None:
    file = place(tmp_path)
    with pytest.raises(OutputError, match="cannot write the checkpoint") as caught:
        save(file, make_arrays(), HEADER)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_as_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere.npz").startswith("no checkpoint at")


def npz(**arrays: Any) -> bytes:
    """The bytes of an .npz file, pickled objects included."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array: Any) -> bytes:
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archive_of(**members: bytes) -> bytes:
    """The bytes of a zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


FOREIGN = {
    "empty": b"",
    "text": b"not a checkpoint\n",
    "zeros": bytes(1000),
    "pickle": pickle.dumps({"weights_0": [1.0]}),
    "npy": npy(np.ones(3)),
    "npz of somebody else": npz(weights_0=np.ones(3)),
    "zip of somebody else": archive_of(readme=b"hello"),
    "zip with a header that is no array": archive_of(header=b"hello"),
    "header that is no JSON": npz(header=np.array("hello")),
    "header that is a number": npz(header=np.array(1)),
    "header that is a list": npz(header=np.array("[1]")),
    "header without a format": npz(header=np.array('{"epoch": 1}')),
    "header of pickled objects": npz(header=np.array([{"format": FORMAT}], dtype=object)),
    "pickled objects beside a header": npz(
        header=np.array(json.dumps({"format": FORMAT})), bad=np.array([{}], dtype=object)
    ),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "checkpoint.npz"
    file.write_bytes(content)
    refusal(file)


@pytest.mark.parametrize("number", [0, FORMAT + 1, None, "1"])
def test_an_unknown_format_is_refused_by_its_number_with_the_known_one(tmp_path: Path, number: Any) -> None:
    file = tmp_path / "checkpoint.npz"
    file.write_bytes(npz(header=np.array(json.dumps({"format": number}))))
    message = refusal(file)
    assert repr(number) in message
    assert f"expected {FORMAT}" in message


def test_a_folder_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path)


def test_a_truncated_file_is_refused_wherever_it_ends(path: Path) -> None:
    content = path.read_bytes()
    for length in [*range(0, len(content), 29), *range(len(content) - 30, len(content))]:
        path.write_bytes(content[:length])
        refusal(path)
    gc.collect()  # a file left open is a ResourceWarning, and so an error, here and not in a later test


def test_a_damaged_byte_is_refused_or_harmless_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    arrays = {"weights_0": np.arange(4.0), "steps": np.array([1, 2])}
    save(path, arrays, {"epoch": 3})
    content = path.read_bytes()
    refusals: set[str] = set()
    for position in range(len(content)):
        for mask in (0x01, 0x08, 0xFF):
            damaged = bytearray(content)
            damaged[position] ^= mask
            path.write_bytes(damaged)
            try:
                found, header = load(path)
            except DataError as error:
                refusals.add(str(error))
                continue
            # What is read in spite of the damage must be what was written.
            assert header == {"format": FORMAT, "epoch": 3}
            for name, array in found.items():
                np.testing.assert_array_equal(array, arrays[name])
    assert not any("\n" in message for message in refusals)
    gc.collect()  # as above


def test_another_npz_is_told_to_be_none_of_ours(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", train_times=np.zeros(3))
    with pytest.raises(DataError, match="is not a readable checkpoint: it lacks a header, as files that"):
        load(tmp_path / "digits.npz")
