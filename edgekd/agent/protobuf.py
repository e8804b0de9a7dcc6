"""The format of ONNX files, Protocol Buffers, read without any library: fields of (number, wire type).

Messages are bytes with a length, so what is not looked at is skipped.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Callable, Iterator, Tuple, TypeVar, Union

from edgekd.agent.errors import AgentError

T = TypeVar("T")
Value = Union[int, memoryview]

NOTHING = memoryview(b"")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read(path: Path, look: Callable[[memoryview], T]) -> T:
    """Return what `look` finds in the content of an ONNX file.

    Raises:
        AgentError: The file is missing or no ONNX file.
    """
    try:
        with path.open("rb") as stream:
            # Not read as a whole, and closed when nobody looks at a part of it any more.
            return look(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))
    except FileNotFoundError:
        raise AgentError("there is no file %s" % path) from None
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise AgentError("%s is no ONNX file: %s" % (path, error)) from error


def fields(data: memoryview) -> Iterator[Tuple[int, Value]]:
    """Yield (field number, number or bytes) of a message.

    Raises:
        ValueError, IndexError: Its bytes are no Protocol Buffers.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("its bytes are no Protocol Buffers")
        if at + size > len(data):
            raise ValueError("it is cut short")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> Tuple[int, int]:
    """Return (number, position after it); seven bits to a byte, the lowest first."""
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("its bytes are no Protocol Buffers")


def message(value: Value) -> memoryview:
    """Return a field's bytes.

    Raises:
        ValueError: It is a number.
    """
    if isinstance(value, int):
        raise ValueError("its bytes are no ONNX")
    return value


def text(value: Value) -> str:
    """Return a field's text.

    Raises:
        ValueError: It is none.
    """
    return bytes(message(value)).decode("utf-8")
