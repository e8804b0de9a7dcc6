from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_json, read_npz, replacing, sha256, write_json, write_npz


def test_sha256_is_that_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000  # longer than one piece
    (tmp_path / "f").write_bytes(content)
    assert sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_npz_gives_back_every_array(tmp_path: Path) -> None:
    arrays = {
        "logits": np.array([[np.nan, -np.inf], [1.5, 2]], np.float32),
        "file": np.arange(3, dtype=np.int64),  # the name of a parameter of numpy's own writer
        "a/b": np.zeros((0, 2), np.uint8),
        "flag": np.array(True),
    }
    for compress in (False, True):
        write_npz(tmp_path / "x.npz", arrays, compress=compress)
        back = read_npz(tmp_path / "x.npz")
        assert sorted(back) == sorted(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(back[name], array)
            assert back[name].dtype == array.dtype


def test_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        write_npz(tmp_path / "x.npz", {"x": np.array([object()])})
    assert list(tmp_path.iterdir()) == []
    np.savez(tmp_path / "y.npz", x=np.array([{}], dtype=object))
    with pytest.raises(AgentError, match="plain arrays"):
        read_npz(tmp_path / "y.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing more", b"not a zip"])
def test_a_damaged_npz_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(AgentError, match=r"x\.npz"):
        read_npz(tmp_path / "x.npz")


def test_a_truncated_member_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY")
    with pytest.raises(AgentError, match=r"x\.npz"):
        read_npz(tmp_path / "x.npz")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), replacing(path) as stream:
        stream.write(b"%d" % (1 // 0))
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_json_is_strict(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})


@given(st.text(max_size=20))
def test_what_is_not_json_is_named(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_bytes(b"{{" + text.encode("utf-8", "surrogatepass"))
    with pytest.raises(AgentError, match=r"x\.json"):
        read_json(path)
