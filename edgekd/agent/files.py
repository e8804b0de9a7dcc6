"""Files that are whole or absent: written beside their place, then renamed into it; and their SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Dict, Iterator, Mapping

import numpy as np

from edgekd.agent import npy, sealing
from edgekd.agent.errors import AgentError

if TYPE_CHECKING:
    from edgekd.agent.backends import Array

LARGEST_JSON = 64 << 20
"""Bytes of a JSON file that are read."""
_CHUNK = 1 << 20


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, reading it in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at `path` only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(".%s.%d.partial" % (path.name, os.getpid()))
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(path)
    finally:
        if partial.exists():
            partial.unlink()


def write_json(path: Path, document: Any) -> None:
    """Write strict JSON (no NaN, which other readers refuse) in one step."""
    text = json.dumps(document, indent=1, allow_nan=False)
    with replacing(path) as stream:
        stream.write(text.encode("utf-8") + b"\n")


def write_sealed(path: Path, document: Mapping[str, Any]) -> Dict[str, Any]:
    """Write JSON with its checksum; returns what the file holds."""
    content = sealing.sealed(json.loads(json.dumps(document, allow_nan=False)))
    write_json(path, content)
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        AgentError: There is no such file, it is not JSON, or very large.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise ValueError("%d MB, at most %d MB are read" % (size / 1e6, LARGEST_JSON / 1e6))
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AgentError("there is no file %s" % path) from None
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError and JSONDecodeError
        raise AgentError("%s is not JSON: %s" % (path, error)) from error


def write_npz(path: Path, arrays: Mapping[str, Array], compress: bool = False) -> None:
    """Write named arrays as one .npz in one step."""
    with replacing(path) as stream:
        # numpy's writers take the names of the arrays as keyword arguments beside their own, so it is done by hand.
        kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        with zipfile.ZipFile(stream, "w", kind) as archive:
            for name, array in arrays.items():
                with archive.open(name + ".npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read_npz(path: Path) -> Dict[str, Array]:
    """Read all arrays of an .npz file; pickled objects in it are refused.

    Raises:
        AgentError: There is no such file, or it is not an .npz of plain arrays.
    """
    try:
        return npy.arrays(path)
    except FileNotFoundError:
        raise AgentError("there is no file %s" % path) from None
    except (ValueError, OSError) as error:
        raise AgentError("%s is not an .npz of plain arrays: %s" % (path, error)) from error
