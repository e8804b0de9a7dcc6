from __future__ import annotations

import contextlib
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd.errors import EdgekdError
from edgekd.report import reading
from edgekd.report.reading import inside, read_arrays, read_json


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def npy(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + content


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_is_read_as_numpy_reads_it(tmp_path: Path, save: object) -> None:
    arrays = {
        "floats": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32), "empty": np.zeros((0, 5)),
        "scalar": np.array(7, np.int64), "truth": np.array([True, False]), "text": np.array(["a", "bc"]),
        "column-major": np.asfortranarray(np.arange(6).reshape(2, 3)), "big-endian": np.arange(4, dtype=">i2"),
    }  # fmt: skip
    save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert (found[name] == array).all()
        found[name].flags.writeable = True


HOSTILE = {
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\x80\x04N."),
    "more than is there": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}", b"\0" * 8),
    "less than is there": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", b"\0" * 16),
    "negative": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}", b"\0" * 8),
    "large times nothing": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 99999999999999999999)}"),
    "no header": b"\x93NUMPY",
    "no magic": b"hello",
    "no literal": npy("__import__('os')"),
    "too deep": npy("(" * 5000 + ")" * 5000),
    "no dtype": npy("{'descr': 'x9', 'fortran_order': False, 'shape': (1,)}", b"\0"),
    "no shape": npy("{'descr': '<f8', 'fortran_order': False, 'shape': 'a'}", b"\0" * 8),
    "another version": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", b"\0" * 8, b"\x07\x00"),
    "nothing": b"",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_array_is_one_clear_error(tmp_path: Path, case: str) -> None:
    path = archive(tmp_path / "a.npz", {"a.npy": HOSTILE[case]})
    with pytest.raises(EdgekdError) as caught:
        read_arrays(path)
    assert str(path) in str(caught.value)


def test_a_small_archive_of_very_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST_NPZ", 10_000)
    path = archive(tmp_path / "bomb.npz", {f"{k}.npy": b"\0" * 6_000 for k in range(2)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1000
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(EdgekdError, match=r"unpacks to .* GB; at most"):
        read_arrays(path)


def test_an_archive_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", a=np.zeros(1000))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 200)
    path.write_bytes(content)
    with pytest.raises(EdgekdError, match="cannot be read as an npz"):
        read_arrays(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_is_more_than_an_error(tmp_path: Path, data: st.DataObject) -> None:
    whole = io.BytesIO()
    np.savez_compressed(whole, a=np.arange(20.0), b=np.arange(6).reshape(2, 3))
    content = bytearray(whole.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.npz"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    # Anything else that is raised, and any warning, is a failure of the test.
    with contextlib.suppress(EdgekdError):
        assert all(isinstance(array, np.ndarray) for array in read_arrays(path).values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ('{"a": 1', "cannot be read as JSON"),
        ("[1]", "must hold a JSON object, it holds a list"),
        ("null", "must hold a JSON object"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested too deeply"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "cannot be read as JSON"),
        ('{"a": "\\ud800"}', "not Unicode"),
        ('{"\\ud800": [{"b": 1}]}', "not Unicode"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read as JSON"),
    ],
)
def test_json_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(EdgekdError, match=message) as caught:
        read_json(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(caught.value)


def test_json_in_no_encoding_and_json_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(EdgekdError, match="cannot be read as JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(EdgekdError, match="cannot be read as JSON"):
        read_json(tmp_path / "absent.json")
    monkeypatch.setattr(reading, "LARGEST_JSON", 10)
    (tmp_path / "a.json").write_text(json.dumps({"a": "b" * 20}))
    with pytest.raises(EdgekdError, match="at most"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "a\0b"])
def test_a_name_that_leads_out_or_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(EdgekdError, match=r"leads out|no name of a file"):
        inside(tmp_path, name)
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(EdgekdError, match="leads out"):
        inside(tmp_path, "link/passwd")
