"""zsl_tagger/system/pickles.py: other people's pickles, read as data."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zsl_tagger.system.pickles import StandIn, array_of, kind_of, load_data

ALLOWED_CLASSES = [b"numpy\nndarray", b"numpy\ndtype", b"collections\nOrderedDict", b"builtins\ndict",
                   b"numpy._core.numeric\n_frombuffer", b"copyreg\n_reconstructor"]  # fmt: skip


def read(tmp_path: Path, content: bytes, encoding: str = "latin1") -> Any:
    (tmp_path / "a").write_bytes(content)
    return load_data(tmp_path / "a", encoding)


@pytest.mark.parametrize("named", ALLOWED_CLASSES)
def test_a_pickle_cannot_set_attributes_of_what_it_names(named: bytes, tmp_path: Path) -> None:
    sets = pickle.dumps((None, {"planted": 1}), 2)[2:-1]
    with pytest.raises(pickle.UnpicklingError, match="it changes a class, which is not data: not opened"):
        read(tmp_path, b"\x80\x02c" + named + b"\n" + sets + b"b.")


@pytest.mark.parametrize("named", ALLOWED_CLASSES)
def test_what_a_pickle_names_is_made_for_that_load_alone(named: bytes, tmp_path: Path) -> None:
    content = b"\x80\x02c" + named + b"\n."
    first, second = read(tmp_path, content), read(tmp_path, content)
    assert issubclass(first, StandIn)
    assert first is not second


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", [
    np.arange(6, dtype=np.uint8).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(6, dtype=">i4"), np.zeros((0, 3), np.float16), np.array(True),
])  # fmt: skip
def test_arrays_of_numbers_read_back(array: np.ndarray, protocol: int, tmp_path: Path) -> None:
    found = array_of(read(tmp_path, pickle.dumps(array, protocol)))
    assert (found == array).all()
    assert (found.shape, found.dtype) == (array.shape, array.dtype)


def test_python_2_wrote_arrays_as_text(tmp_path: Path) -> None:
    content = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'i2'\nI0\nI1\ntR"
        b"(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x01\\x02\\xff\\x00'\ntb."
    )
    for encoding in ("latin1", "bytes"):
        assert array_of(read(tmp_path, content, encoding)).tolist() == [0x201, 0xFF]


@pytest.mark.parametrize(
    "array", [np.array(["a", None]), np.array(["text"]), np.zeros(2, "f4,i4"), np.zeros(2, "M8[s]")],
    ids=["objects", "text", "records", "dates"],
)  # fmt: skip
def test_other_arrays_are_refused(array: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(pickle.UnpicklingError, match="expected an array of numbers, got one of"):
        array_of(read(tmp_path, pickle.dumps(array)))


def test_raw_bytes_are_not_taken_for_objects(tmp_path: Path) -> None:
    """With the flags of its type cleared, numpy would take these bytes for pointers."""
    content = pickle.dumps(np.zeros(1, np.int64), 2)
    hostile = content.replace(b"i8", b"O8")
    assert hostile != content
    with pytest.raises(pickle.UnpicklingError, match="expected an array of numbers, got one of 'O8'"):
        array_of(read(tmp_path, hostile))


def test_containers_that_nobody_needs_are_not_filled(tmp_path: Path) -> None:
    found = read(tmp_path, pickle.dumps({"a": collections.OrderedDict(b=1), "c": {1, 2}, "d": np.float32(0.5)}, 2))
    assert kind_of(found["a"]) == "OrderedDict"
    assert kind_of(found["c"]) == "set"
    assert found["d"] == 0.5


def test_no_memory_is_taken_by_a_few_bytes(tmp_path: Path) -> None:
    """list(range(10**12)) and bytearray(10**12), as calls."""
    for call in (
        b"cbuiltins\nlist\n(cbuiltins\nrange\n(I1000000000000\ntRtR.",
        b"cbuiltins\nbytearray\n(I1000000000000\ntR.",
    ):
        assert isinstance(read(tmp_path, call), StandIn)
