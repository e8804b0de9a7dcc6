"""What an ONNX file takes as inputs, read without any library.

A runtime could say it too, but TensorRT builds an engine for minutes first, and needs the shapes for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Set

from edgekd.agent.backends import Tensor
from edgekd.agent.protobuf import fields, message, read, text

# Field numbers of onnx.proto, by message.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT = 5, 11
_TENSOR_NAME = 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2
_SHAPE_DIM, _DIM_VALUE = 1, 1

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
    return read(path, _inputs)


def _inputs(data: memoryview) -> List[Tensor]:
    graphs = [value for number, value in fields(data) if number == _MODEL_GRAPH]
    if not graphs:
        raise ValueError("it has no graph")
    constants: Set[str] = set()
    tensors = []
    for number, value in fields(message(graphs[-1])):
        if number == _GRAPH_INITIALIZER:
            constants.update(text(name) for key, name in fields(message(value)) if key == _TENSOR_NAME)
        elif number == _GRAPH_INPUT:
            tensors.append(_tensor(message(value)))
    # Old files list their weights among the inputs.
    return [tensor for tensor in tensors if tensor.name not in constants]


def _tensor(value: memoryview) -> Tensor:
    name, element, shape = "", 0, []
    for number, field in fields(value):
        if number == _VALUE_NAME:
            name = text(field)
        elif number == _VALUE_TYPE:
            kinds = [message(kind) for key, kind in fields(message(field)) if key == _TYPE_TENSOR]
            if not kinds:
                raise ValueError("input %r is no tensor" % name)
            for key, part in fields(kinds[0]):
                if key == _TENSOR_ELEMENT and isinstance(part, int):
                    element = part
                elif key == _TENSOR_SHAPE:
                    shape = [message(dim) for what, dim in fields(message(part)) if what == _SHAPE_DIM]
    sizes = [dict(fields(dim)).get(_DIM_VALUE) for dim in shape]
    if element not in _TYPES:
        raise ValueError("input %r has the element type %d, which is unknown here" % (name, element))
    return Tensor(
        name, tuple(size if isinstance(size, int) and size < 1 << 63 else None for size in sizes), _TYPES[element]
    )
