"""`.npy` and `.npz` of plain arrays, read so that none that somebody sent can do harm.

Python objects are never read: reading them runs code. Room is made only for what is there, whatever a header claims;
and what is packed may not become very much larger than it is.
"""

from __future__ import annotations

import errno
import tokenize
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from numpy.lib import format as npy

if TYPE_CHECKING:
    from edgekd.agent.backends import Array

MAX_RATIO = 200
"""How many times larger than packed something large may be."""
_SMALL_BYTES = 256 << 20  # so little does no harm, however well it is packed
_CHUNK = 16 << 20
_SUFFIX = ".npy"
_NO_ARRAY = (
    ValueError, EOFError, LookupError, TypeError, OverflowError, MemoryError, RuntimeError, SyntaxError,
    tokenize.TokenError,
)  # fmt: skip
_NO_ARCHIVE = (*_NO_ARRAY, zipfile.BadZipFile, zlib.error)
"""What zipfile and numpy raise on archives that are damaged, encrypted, or of a kind they do not know."""


class Header(NamedTuple):
    """What an `.npy` file says of its array."""

    shape: Tuple[int, ...]
    column_major: bool
    dtype: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        """How many bytes follow the header."""
        count = 1
        for length in self.shape:
            count *= length
        return count * self.dtype.itemsize


def header(stream: IO[bytes]) -> Header:
    """Read the beginning of an `.npy` file.

    Raises:
        ValueError: It is none, or holds Python objects.
    """
    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError("npy of version %r" % (version,))
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        found = Header(*read(stream))
    except _NO_ARRAY as error:
        raise ValueError("it has no header of an array: %s" % error) from error
    if found.dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never read because they can run code")
    if any(isinstance(length, bool) or length < 0 for length in found.shape):
        raise ValueError("its shape %r is none" % (found.shape,))
    if not found.dtype.itemsize:
        raise ValueError("its values %s have no size" % found.dtype)
    return found


def array(stream: IO[bytes], size: int) -> Array:
    """Read an `.npy` file.

    Args:
        size: How many bytes it has; only so many are made room for.

    Raises:
        ValueError: It is none, holds Python objects, or has more or fewer values than its header says.
    """
    said = header(stream)
    if said.size_bytes > size:
        raise ValueError("its header says %s %r, which is more than it holds" % (said.dtype, said.shape))
    try:
        content = bytearray(said.size_bytes)
        with memoryview(content) as room:
            done = 0
            while done < len(content):
                piece = stream.read(min(_CHUNK, len(content) - done))
                if not piece:
                    raise ValueError("it ends after %d of %d bytes" % (done, len(content)))
                room[done : done + len(piece)] = piece
                done += len(piece)
        if stream.read(1):
            raise ValueError("it holds more than its header says")
        return np.frombuffer(content, said.dtype).reshape(said.shape, order="F" if said.column_major else "C")
    except _NO_ARRAY as error:
        raise ValueError(str(error) or "there is not so much memory") from error


def mapped(path: Path) -> np.memmap[Any, Any]:
    """Return the array of an `.npy` file where it lies: its values are read as they are used.

    Raises:
        ValueError: It is none, holds Python objects, or is cut short.
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        said, begin = header(stream), stream.tell()
    there = path.stat().st_size - begin
    if there < said.size_bytes:
        raise ValueError("its header says %d bytes, %d are there" % (said.size_bytes, there))
    try:
        return np.memmap(str(path), said.dtype, "r", begin, said.shape, "F" if said.column_major else "C")
    except _NO_ARRAY as error:
        raise ValueError(str(error)) from error


def names(path: Path) -> List[str]:
    """Return the names of the arrays in an `.npz` file; nothing else of it is read.

    Raises:
        ValueError: It is none.
        OSError: It cannot be read.
    """
    with _opened(path) as archive:
        return [_name(member) for member in archive.infolist()]


def arrays(path: Path, chosen: Optional[Sequence[str]] = None, largest: Optional[int] = None) -> Dict[str, Array]:
    """Read arrays of an `.npz` file: numbers, truth values or text.

    Args:
        chosen: Which ones; None: all.
        largest: How many bytes they may be together, unpacked; None: as many as the packed ones allow.

    Raises:
        ValueError: It is no `.npz` of plain arrays, or unpacks to too much.
        OSError: It cannot be read.
    """
    with _opened(path) as archive:
        members = [one for one in archive.infolist() if chosen is None or _name(one) in chosen]
        size, packed = sum(one.file_size for one in members), path.stat().st_size
        most = min(most_unpacked(packed), size if largest is None else largest)
        if size > most:
            raise ValueError("it unpacks to %.1f GB; at most %.1f GB are read" % (size / 1e9, most / 1e9))
        found = {}
        for member in members:
            with archive.open(member) as file:
                found[_name(member)] = _named(member, file)
        return found


def most_unpacked(packed: int) -> int:
    """Return how many bytes something packed may become; what becomes more was meant to."""
    return max(_SMALL_BYTES, MAX_RATIO * packed)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive; whatever is wrong with it, also while it is read, is a ValueError."""
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            yield archive
    except _NO_ARCHIVE as error:
        raise ValueError(str(error) or "it ends too early") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # raised where a damaged archive names a place before its beginning
            raise
        raise ValueError("it is damaged") from error


def _named(member: zipfile.ZipInfo, file: IO[bytes]) -> Array:
    try:
        return array(file, member.file_size)
    except ValueError as error:
        raise ValueError("%s: %s" % (_name(member), error)) from error


def _name(member: zipfile.ZipInfo) -> str:
    name = member.filename
    return name[: -len(_SUFFIX)] if name.endswith(_SUFFIX) else name
