"""The IDX format of the MNIST family: two zero bytes, type, number of axes; big-endian sizes (uint32); values."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np

from edgekd.agent.npy import most_unpacked
from edgekd.data.loading.arrays import Array
from edgekd.errors import UsageError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_AXES = 8
_GZIP = b"\x1f\x8b"


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read(path: Path) -> Array:
    """Return the array of an IDX file, gzipped or not (its content tells, not its name).

    Raises:
        UsageError: It cannot be read, is no IDX file, or has more or fewer bytes than its header says.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == _GZIP
        with gzip.open(path) if zipped else path.open("rb") as file:
            return _parse(file, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{path}: the gzip file is damaged or truncated ({error}); fetch it again") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error


def header(array: Array) -> bytes:
    """Return the IDX header of an array of bytes."""
    return struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape)


def _parse(file: _Readable, path: Path) -> Array:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or magic[3] == 0:
        raise UsageError(
            f"{path}: is no IDX file: it begins with {magic.hex() or 'nothing'}, not with 0000, type, axes"
        )
    if magic[3] > _MOST_AXES:
        raise UsageError(f"{path}: is no IDX file that numpy can hold: it has {magic[3]} axes")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise UsageError(f"{path}: is truncated: expected a header of {4 + 4 * magic[3]} bytes, found {4 + len(sizes)}")
    shape, dtype = struct.unpack(f">{magic[3]}I", sizes), np.dtype(_TYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    most = most_unpacked(path.stat().st_size)
    if expected > most:
        raise UsageError(
            f"{path}: its header says {dtype.name} {shape}, {expected / 1e9:.1f} GB; of a file of its size at most "
            f"{most / 1e9:.1f} GB are read"
        )
    content = file.read(expected)
    rest = len(file.read(1)) if len(content) == expected else 0
    if rest or len(content) != expected:
        found = f"more than {expected}" if rest else str(len(content))
        raise UsageError(
            f"{path}: is {'oversized' if rest else 'truncated'}: its header says {dtype.name} {shape}, "
            f"expected {expected} bytes of values, found {found}"
        )
    if not expected:
        raise UsageError(f"{path}: is empty: its header says {dtype.name} {shape}")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
