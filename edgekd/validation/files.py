"""Is the file whole, is it ONNX, and does it hold together? Weights stay where they are: they may exceed the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from edgekd.graph import external
from edgekd.graph.lint import LAYER_OPERATORS, Port, find_opset, ports, quantization_problems
from edgekd.report import units
from edgekd.validation.checks import Check, judged

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_SHOWN = 3
_AGAIN = "export the model again, and check that it was copied whole"


@dataclass(frozen=True)
class Opened:
    """An ONNX file that was read.

    Args:
        proto: without the larger weights where those lie in other files.
        inputs: what it has to be fed.
        size_bytes: of the file and those that hold its weights.
        layers: convolutions and matrix products; `integer_layers` of them compute on integers.
    """

    path: Path
    proto: ModelProto
    opset: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    size_bytes: int
    layers: int
    integer_layers: int

    @property
    def folder(self) -> Path:
        """Where the file and its weights are."""
        return self.path.resolve().parent


def open_model(path: Path) -> tuple[Opened | None, list[Check]]:
    """Read an ONNX file, and return it with what was checked; None where it cannot be used any further."""
    proto, problem = _parse(path)
    found = [judged("file", not problem, problem or f"{units.size(path.stat().st_size)}, read", remedy=_AGAIN)]
    if problem:
        return None, found
    outside = list(external.problems(path, proto))
    told = _few(outside) if outside else f"{len(external.files(path, proto))} other files"
    remedy = "ship the model together with the files that its exporter wrote beside it, in one folder"
    found.append(judged("external-data", not outside, told, remedy=remedy))
    if outside:
        return None, found
    found += _conforms(path)
    if found[-1].status == "failed" and found[-1].id == "checker":
        return None, found
    wrong = list(external.misfits(proto))
    if wrong:
        found.append(judged("weights", False, _few(wrong), value=float(len(wrong)), limit=0.0, remedy=_AGAIN))
        return None, found
    external.take_small(proto, path.resolve().parent)
    bad = list(_nonfinite(path, proto))
    found.append(judged("weights", not bad, f"NaN or infinity in {_few(bad)}" if bad else "all are finite",
                        value=float(len(bad)), limit=0.0,
                        remedy="the network was broken before its export: look at its training, or at float16 weights "
                        "beyond 65504"))  # fmt: skip
    return _opened(path, proto), found


def _opened(path: Path, proto: ModelProto) -> Opened:
    inputs, outputs = ports(proto)
    return Opened(
        path=path,
        proto=proto,
        opset=find_opset(proto),
        inputs=inputs,
        outputs=outputs,
        size_bytes=path.stat().st_size + sum(file.stat().st_size for file in external.files(path, proto)),
        layers=sum(node.op_type in LAYER_OPERATORS for node in proto.graph.node),
        integer_layers=quantization_problems(proto)[0],
    )


def _parse(path: Path) -> tuple[ModelProto, str]:
    """Return what a file holds, without weights in other files, and what is wrong with it."""
    empty = ModelProto()
    if not path.stat().st_size:
        return empty, "the file is empty"
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        return empty, f"not an ONNX file, or one that was cut short ({first_line(error)})"
    if not proto.ir_version or not proto.graph.node:
        return empty, "not an ONNX file: it holds no graph"
    return proto, ""


def _conforms(path: Path) -> Iterator[Check]:
    """Yield what ONNX's own checker says, by the path: a model of more than 2 GB has no other form."""
    remedy = "export again with a newer exporter; what the checker names is against the ONNX specification"
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        yield judged("checker", False, first_line(error), remedy=remedy)
        return
    yield judged("checker", True, f"by onnx {onnx.__version__}")
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        yield judged("shape-inference", False, first_line(error),
                     remedy="the shapes or types that the file declares contradict its operators: correct the node "
                     "that is named, or what edited the graph")  # fmt: skip
    else:
        yield judged("shape-inference", True, "types and shapes fit together")


def _nonfinite(path: Path, proto: ModelProto) -> Iterator[str]:
    """Yield the floating-point tensors that hold NaN or infinity; one at a time is in memory."""
    used_as_masks = _mask_constants(proto)
    for tensor in proto.graph.initializer:
        if tensor.data_type in _FLOATS and tensor.name not in used_as_masks and len(tensor.dims):
            values = external.array(tensor, path.resolve().parent)
            if not np.isfinite(values.astype(np.float32) if values.dtype.itemsize < 4 else values).all():
                yield tensor.name


def _mask_constants(proto: ModelProto) -> frozenset[str]:
    """Return constants that may hold infinity on purpose: what is chosen by Where or added before a softmax."""
    return frozenset(name for node in proto.graph.node if node.op_type in ("Where", "Add", "Max", "Min", "Clip")
                     for name in node.input)  # fmt: skip


def first_line(error: Exception) -> str:
    """Return what an error says in one line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] if lines else type(error).__name__


def _few(items: list[str] | tuple[str, ...]) -> str:
    more = f"; and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more
