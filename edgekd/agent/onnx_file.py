"""What an ONNX file takes as inputs and in which other files its weights lie, read without any library.

A runtime could say it too, but TensorRT builds an engine for minutes first, and needs the shapes for that. The format
is Protocol Buffers: fields of (number, wire type), of which messages are bytes with a length and can be skipped.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, Iterator, List, Set, Tuple, TypeVar, Union

from edgekd.agent.backends import Tensor
from edgekd.agent.errors import AgentError

if TYPE_CHECKING:
    Value = Union[int, memoryview]

T = TypeVar("T")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NOTHING = memoryview(b"")

# Field numbers of onnx.proto, by message.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT = 5, 11
_TENSOR_NAME = 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2
_SHAPE_DIM, _DIM_VALUE = 1, 1
_TENSOR_EXTERNAL, _ENTRY_KEY, _ENTRY_VALUE = 13, 1, 2

# The fields of each message in which a tensor may lie, and what they hold; a subgraph lies in an attribute.
_HOLDERS: Dict[str, Dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}

_TYPES: Dict[int, str] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}


def inputs(path: Path) -> List[Tensor]:
    """Return a model's inputs as its file declares them; an axis of any size is None.

    Raises:
        AgentError: The file is missing or no ONNX file.
    """
    return _read(path, _inputs)


def external(path: Path) -> List[str]:
    """Return the files in which weights of a model lie, as it names them: relative to its own folder.

    Raises:
        AgentError: The file is missing or no ONNX file.
    """
    return sorted(_read(path, _locations))


def _read(path: Path, look: Callable[[memoryview], T]) -> T:
    try:
        with path.open("rb") as stream:
            # Not read as a whole, and closed when nobody looks at a part of it any more.
            return look(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))
    except FileNotFoundError:
        raise AgentError("there is no file %s" % path) from None
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise AgentError("%s is no ONNX file: %s" % (path, error)) from error


def _inputs(data: memoryview) -> List[Tensor]:
    graphs = [value for number, value in _fields(data) if number == _MODEL_GRAPH]
    if not graphs:
        raise ValueError("it has no graph")
    constants: Set[str] = set()
    tensors = []
    for number, value in _fields(_message(graphs[-1])):
        if number == _GRAPH_INITIALIZER:
            constants.update(_text(name) for key, name in _fields(_message(value)) if key == _TENSOR_NAME)
        elif number == _GRAPH_INPUT:
            tensors.append(_tensor(_message(value)))
    # Old files list their weights among the inputs.
    return [tensor for tensor in tensors if tensor.name not in constants]


def _locations(data: memoryview) -> Set[str]:
    """Return the paths that tensors name as the place of their content, wherever in the model they are."""
    found: Set[str] = set()
    left = [("model", data)]
    while left:
        kind, message = left.pop()
        for number, value in _fields(message):
            if kind == "tensor" and number == _TENSOR_EXTERNAL:
                entry = dict(_fields(_message(value)))
                if _text(entry.get(_ENTRY_KEY, _NOTHING)) == "location":
                    found.add(_text(entry.get(_ENTRY_VALUE, _NOTHING)))
            elif number in _HOLDERS.get(kind, ()):
                left.append((_HOLDERS[kind][number], _message(value)))
    return found


def _tensor(value: memoryview) -> Tensor:
    name, element, shape = "", 0, []
    for number, field in _fields(value):
        if number == _VALUE_NAME:
            name = _text(field)
        elif number == _VALUE_TYPE:
            kinds = [_message(kind) for key, kind in _fields(_message(field)) if key == _TYPE_TENSOR]
            if not kinds:
                raise ValueError("input %r is no tensor" % name)
            for key, part in _fields(kinds[0]):
                if key == _TENSOR_ELEMENT and isinstance(part, int):
                    element = part
                elif key == _TENSOR_SHAPE:
                    shape = [_message(dim) for what, dim in _fields(_message(part)) if what == _SHAPE_DIM]
    sizes = [dict(_fields(dim)).get(_DIM_VALUE) for dim in shape]
    if element not in _TYPES:
        raise ValueError("input %r has the element type %d, which is unknown here" % (name, element))
    return Tensor(
        name, tuple(size if isinstance(size, int) and size < 1 << 63 else None for size in sizes), _TYPES[element]
    )


def _fields(data: memoryview) -> Iterator[Tuple[int, Value]]:
    """Yield (field number, number or bytes) of a message."""
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


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("its bytes are no ONNX")
    return value


def _text(value: Value) -> str:
    return bytes(_message(value)).decode("utf-8")
