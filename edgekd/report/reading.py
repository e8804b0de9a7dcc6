"""Files that came from somewhere else, read within bounds: JSON objects, and npz archives of plain numbers.

They may be cut short or made to harm. Whatever is wrong with one is an EdgekdError that names it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekd.agent import npy
from edgekd.agent.files import LARGEST_JSON
from edgekd.errors import EdgekdError

Arrays = dict[str, NDArray[Any]]

LARGEST_NPZ = 2 * 2**30  # bytes, unpacked: a small archive may hold a very large one
_DEEPEST = 50  # levels of JSON


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
        return npy.arrays(path, largest=LARGEST_NPZ)
    except (ValueError, OSError) as error:
        raise EdgekdError(f"{path} cannot be read as an npz of arrays: {error}") from error


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
