"""A foreign ONNX file becomes one that stands beside ours: same names of input and output, self-contained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto

from edgekd.errors import StageError
from edgekd.graph.lint import find_opset, read


def adopt(
    source: Path, target: Path, *, input_name: str, output_name: str, metadata: Mapping[str, str], max_opset: int
) -> int:
    """Write a copy of an ONNX file of one input and one output under other names, and return its opset.

    Raises:
        UsageError: the source is no valid ONNX file.
        StageError: it needs a newer opset than the devices read.
    """
    proto = read(source)
    opset = find_opset(proto)
    if opset > max_opset:
        raise StageError(
            f"{source.name} is of opset {opset}; the chosen devices read up to {max_opset} (max_opset of their "
            "profiles): export it again with an older one"
        )
    given = {value.name for value in proto.graph.input} - {tensor.name for tensor in proto.graph.initializer}
    wanted = dict(zip([*given, proto.graph.output[0].name], [input_name, output_name], strict=True))
    taken = {new: f"{new}.inner" for old, new in wanted.items() if old != new and new not in wanted}
    _rename(proto.graph, {**taken, **wanted})
    known = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, {**known, **metadata})
    onnx.save(proto, str(target))
    return opset


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give values of a graph, and of the graphs inside its nodes, other names."""
    named: list[Any] = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for value in named:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                _rename(inner, names)
