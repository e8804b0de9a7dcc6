"""Files that came from somewhere else, read within bounds: JSON objects, and npz archives of plain numbers.

They may be cut short or made to harm. Whatever is wrong with one is an EdgekdError that names it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgekd.errors import EdgekdError

Arrays = dict[str, NDArray[Any]]

LARGEST_JSON = 64 * 2**20  # bytes
LARGEST_NPZ = 2 * 2**30  # bytes, unpacked: a small archive may hold a very large one
_DEEPEST = 50  # levels of JSON
_BROKEN = (OSError, ValueError, EOFError, KeyError, TypeError, OverflowError, MemoryError, RuntimeError, SyntaxError)
"""What zipfile and numpy raise on archives that are damaged, encrypted, or of a kind they do not know."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise EdgekdError(f"{path} is {size / 1e6:.0f} MB large; at most {LARGEST_JSON / 1e6:.0f} MB are read.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EdgekdError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise EdgekdError(f"{path} must hold a JSON object, it holds a {type(content).__name__}.")
    _check_plain(path, content)
    return content


def _check_plain(path: Path, content: Any) -> None:
    """Refuse nesting that no program of ours writes, and text that cannot be written again."""
    level = [content]
    for _ in range(_DEEPEST):
        texts = (text for item in level for text in (item if isinstance(item, dict) else [item]))
        if not all(_is_text(text) for text in texts if isinstance(text, str)):
            raise EdgekdError(f"{path} cannot be read as JSON: it holds text that is not Unicode.")
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [item for items in inner for item in items]
        if not level:
            return
    raise EdgekdError(f"{path} cannot be read as JSON: it is nested too deeply.")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_arrays(path: Path) -> Arrays:
    """Read an npz of plain arrays: numbers, truth values or text, no objects, at most 2 GiB of them."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > LARGEST_NPZ:
                raise EdgekdError(
                    f"{path} unpacks to {size / 1e9:.1f} GB; at most {LARGEST_NPZ / 1e9:.1f} GB are read."
                )
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
    except (*_BROKEN, zipfile.BadZipFile, zlib.error) as error:
        raise EdgekdError(f"{path} cannot be read as an npz of arrays: {error}") from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Read a member whose header says no more than is there: numpy would make room for whatever it says."""
    with archive.open(member) as file:
        shape, column_major, dtype = _header(file)
        content = file.read()
    count = 1
    for length in shape:
        count *= length
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds objects")
    if min(shape, default=0) < 0 or count * dtype.itemsize != len(content):
        raise ValueError(f"{member.filename} holds {len(content)} bytes, not {dtype} of shape {shape}")
    array: NDArray[Any] = np.frombuffer(bytearray(content), dtype)
    return array.reshape(shape, order="F" if column_major else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    if version == (2, 0):
        return npy.read_array_header_2_0(file)
    raise ValueError(f"npy of version {version}")


def inside(folder: Path, name: str) -> Path:
    """The path of a file that a document in the folder names; it must not lead out of it."""
    path = folder / name
    try:
        leads_out = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError) as error:
        raise EdgekdError(f"{name!r} in {folder} is no name of a file: {error}") from error
    if leads_out:
        raise EdgekdError(f"{name!r} leads out of {folder}: the measurement is not to be trusted.")
    return path


def verify(path: Path, expected: str) -> None:
    """Check that a file is there and has its sha256."""
    if not path.is_file():
        raise EdgekdError(f"{path} is missing: the measurement is incomplete. Measure again.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise EdgekdError(
            f"{path} was altered after it was measured: its sha256 is {found[:12]}..., recorded was "
            f"{expected[:12]}.... Measure again."
        )
