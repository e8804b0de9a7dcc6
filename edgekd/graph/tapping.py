"""Values inside a graph: read them while it runs, or replace them and see what each node makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from edgekd.agent.backends.onnxruntime import ERRORS
from edgekd.errors import StageError

Arrays = Mapping[str, NDArray[np.generic]]
_OWN = ".own"


def run_tapped(
    proto: ModelProto, folder: Path, values: Sequence[str], inputs: Arrays
) -> dict[str, NDArray[np.generic]]:
    """Run a model to the letter, operator by operator, and return values inside it.

    Args:
        proto: its larger weights may lie in other files of the folder.
        inputs: one batch by name.

    Raises:
        StageError: it does not run.
    """
    tapped = _copy(proto)
    _give(tapped, list(dict.fromkeys(values)))
    return _run(tapped, folder, inputs)


def run_cut(proto: ModelProto, folder: Path, inputs: Arrays, values: Arrays) -> dict[str, NDArray[np.generic]]:
    """Run a model cut at some values: who takes one gets what is given here, and what its own node makes is returned.

    So each piece between two cuts answers for itself; errors do not add up.

    Raises:
        StageError: it does not run.
    """
    cut = _copy(proto)
    for node in cut.graph.node:
        for place, name in enumerate(node.output):
            if name in values:
                node.output[place] = name + _OWN
    del cut.graph.value_info[:]
    cut.graph.input.extend(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in values.items()
    )
    _give(cut, [name + _OWN for name in values])
    found = _run(cut, folder, {**inputs, **values})
    return {name: found[name + _OWN] for name in values}


def shares_outside(
    proto: ModelProto, folder: Path, spans: Mapping[str, tuple[float, float]], inputs: Arrays
) -> dict[str, float]:
    """Return which share of each value lies outside of its span; counted in the graph, so that no value is kept.

    Args:
        spans: smallest and largest number by value, infinite where that side is open.

    Raises:
        StageError: it does not run.
    """
    counting = _copy(proto)
    given = []
    for index, (name, (low, high)) in enumerate(spans.items()):
        nodes, share = _counted(name, low, high, f"outside.{index}")
        counting.graph.node.extend(nodes)
        given.append(share)
    _give(counting, given)
    found = _run(counting, folder, inputs)
    return {name: float(found[share]) for name, share in zip(spans, given, strict=True)}


def _counted(name: str, low: float, high: float, prefix: str) -> tuple[list[NodeProto], str]:
    """Return the nodes that count, and the name of the share."""
    bounds = {"low": low, "high": high}
    nodes = [
        helper.make_node(
            "Constant", [], [f"{prefix}.{side}"], value=helper.make_tensor(side, TensorProto.FLOAT, [], [to])
        )
        for side, to in bounds.items()
    ]
    nodes += [
        helper.make_node("Cast", [name], [f"{prefix}.x"], to=TensorProto.FLOAT),
        helper.make_node("Less", [f"{prefix}.x", f"{prefix}.low"], [f"{prefix}.below"]),
        helper.make_node("Greater", [f"{prefix}.x", f"{prefix}.high"], [f"{prefix}.above"]),
        helper.make_node("Or", [f"{prefix}.below", f"{prefix}.above"], [f"{prefix}.either"]),
        helper.make_node("Cast", [f"{prefix}.either"], [f"{prefix}.ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", [f"{prefix}.ones"], [f"{prefix}.share"], keepdims=0),
    ]
    return nodes, f"{prefix}.share"


def _copy(proto: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(proto)
    return copy


def _give(proto: ModelProto, values: Sequence[str]) -> None:
    """Make values the outputs."""
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(value) for value in values)


def _run(proto: ModelProto, folder: Path, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except ERRORS as error:
        raise StageError(f"ONNX Runtime does not run the graph with values inside it as outputs: {error}") from error
