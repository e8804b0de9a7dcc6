from __future__ import annotations

import io
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekd.agent import npy

HOSTILE = {
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}": "pickled Python objects, which are never read",
    "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}": "pickled Python objects",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (10**15,)}": "no header of an array",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,)}": "more than it holds",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (9000000000000000000000,)}": "more than it holds",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 9000000000000000000000)}": "imension",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}": "shape (-1,) is none",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (True,)}": "shape (True,) is none",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (10,)}": "have no size",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (((((((": "no header of an array",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1L,": "no header of an array",
    "(" * 5000: "no header of an array",
    "__import__('os').abort()": "no header of an array",
}


def raw(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + content


@pytest.mark.parametrize("header", HOSTILE)
def test_a_hostile_header_is_refused_before_room_is_made(header: str) -> None:
    content = raw(header)
    with pytest.raises(ValueError, match=re.escape(HOSTILE[header])):
        npy.array(io.BytesIO(content), len(content))


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.array(3), np.zeros((0, 4), np.int8), np.asfortranarray(np.eye(3)),
              np.array(["a", "bc"]), np.array([True, False])],
)  # fmt: skip
def test_what_numpy_writes_is_read_as_numpy_reads_it(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    content = (tmp_path / "a.npy").read_bytes()
    for found in (npy.array(io.BytesIO(content), len(content)), npy.mapped(tmp_path / "a.npy")):
        np.testing.assert_array_equal(found, array)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize(("content", "message"), [(b"123", "ends after 3 of 4"), (b"12345", "more than its header")])
def test_more_or_less_than_is_said(content: bytes, message: str) -> None:
    whole = raw("{'descr': '|u1', 'fortran_order': False, 'shape': (4,)}", content)
    with pytest.raises(ValueError, match=message):
        npy.array(io.BytesIO(whole), len(whole))


def test_a_file_that_is_cut_short_is_not_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(10))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match="80 bytes, 79 are there"):
        npy.mapped(tmp_path / "a.npy")


def test_only_what_is_chosen_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.array([None]))
    assert npy.names(tmp_path / "a.npz") == ["a", "b"]
    assert npy.arrays(tmp_path / "a.npz", ["a", "absent"]).keys() == {"a"}
    with pytest.raises(ValueError, match="b: it holds pickled"):
        npy.arrays(tmp_path / "a.npz")


def test_a_small_file_of_very_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1 << 20, np.uint8))
    assert npy.arrays(tmp_path / "a.npz")["a"].size == 1 << 20
    with pytest.raises(ValueError, match="at most"):
        npy.arrays(tmp_path / "a.npz", largest=1 << 20)  # less than the array with its header
    monkeypatch.setattr(npy, "_SMALL_BYTES", 1 << 10)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match=r"unpacks to .* at most"):
        npy.arrays(tmp_path / "a.npz")


def test_a_bit_that_flips_anywhere_is_noticed_or_does_no_harm(tmp_path: Path) -> None:
    """zipfile compares checksums; of what is not covered by one (times, attributes) nothing is read."""
    expected = {"a": np.arange(5), "b": np.array([[1.5, -2.0]])}
    np.savez_compressed(tmp_path / "a.npz", **expected)
    whole, harmed, noticed = (tmp_path / "a.npz").read_bytes(), tmp_path / "harmed.npz", 0
    for position in range(len(whole)):
        flipped = whole[position] ^ (1 << position % 8)
        harmed.write_bytes(whole[:position] + bytes([flipped]) + whole[position + 1 :])
        try:
            found = npy.arrays(harmed)
        except ValueError:
            noticed += 1
            continue
        for array in found.values():  # the names of arrays have no checksum
            assert any(np.array_equal(array, one) for one in expected.values())
    assert noticed > len(whole) / 2
