"""Is a quantized graph sound: integers where they should be, scales and zero points that fit, nothing left dangling?

What a given runtime wants beyond that is told by its own checks (`edgekd.graph.qdq` for TensorRT).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from edgekd.graph.external import is_external
from edgekd.graph.links import Links, link, name_of
from edgekd.graph.lint import LAYER_OPERATORS
from edgekd.graph.qdq import axis_of, wrong_channel_axes
from edgekd.graph.tapping import shares_outside
from edgekd.validation.checks import Check, judged
from edgekd.validation.files import Opened

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_INTEGER_OPERATORS = (
    "QLinear",
    "QGemm",
    "QAttention",
    "DynamicQuantize",
    "ConvInteger",
    "MatMulInteger",
    "MatMulNBits",
)
_SHOWN = 3
_PRECISIONS = ("int8", "int4")
_ONE_BYTE = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4})


def judge(model: Opened, expected: str | None) -> Iterator[Check]:
    """Yield what is wrong with the integers of a graph.

    Args:
        expected: the precision that it is said to be in; None where nothing is said.
    """
    graph = link(model.proto.graph)
    pairs = [node for node in model.proto.graph.node if node.op_type in QUANTIZERS]
    yield _present(model, graph, pairs, expected)
    if not pairs:
        return
    looks = {
        "qdq-parameters": (_parameter_problems, f"{len(pairs)} Q and DQ",
                           "calibrate again; a Q and the DQ behind it share one scale and zero point"),
        "qdq-axes": (_axis_problems, "weights are scaled along their output channels",
                     "set `axis` to the output channels: 0 of Conv, 1 of ConvTranspose, the last of MatMul"),
        "qdq-dangling": (_dangling, "each has its counterpart",
                         "remove what nothing uses; put a DQ behind each Q"),
    }  # fmt: skip
    for id, (look, well, remedy) in looks.items():
        yield _verdict(id, [problem for node in pairs for problem in look(node, graph)], well, remedy)


def _verdict(id: str, problems: Sequence[str], well: str, remedy: str) -> Check:
    found = list(dict.fromkeys(problems))
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    told = "; ".join(found[:_SHOWN]) + more if found else well
    return judged(id, not found, told, value=float(len(found)), limit=0.0, remedy=remedy)


def _present(model: Opened, graph: Links, pairs: Sequence[NodeProto], expected: str | None) -> Check:
    nodes = model.proto.graph.node
    others = [node for node in nodes if node.op_type.startswith(_INTEGER_OPERATORS)]
    if not pairs and not others:
        if expected not in _PRECISIONS:
            return Check("qdq-present", "skipped", "a float model")
        told = f"{expected} is expected; there is no QuantizeLinear and no integer operator"
        remedy = "validate the quantized file, or quantize it: edgekd pipeline, mode ptq or qat"
        return Check("qdq-present", "failed", told, value=0.0, remedy=remedy)
    stored = sum(_integer_weight(node, graph) for node in nodes if node.op_type in LAYER_OPERATORS)
    layers = [node for node in others if node.op_type not in {"DynamicQuantizeLinear", *LAYER_OPERATORS}]
    computing = model.integer_layers + len(layers)
    told = f"{computing} of {model.layers + len(layers)} layers compute on integers, {stored} have integer weights"
    floats = sum(_quantizes_constant(node, graph) for node in pairs)
    if floats:
        told += f"; {floats} weights are stored as floats before a Q, which saves no space"
    remedy = (
        "both the input and the weight of a layer must come from a DequantizeLinear; check the list of operators that "
        "the quantizer was given"
    )
    return judged("qdq-present", computing + stored > 0, told, value=float(computing), remedy=remedy)


def _integer_weight(node: NodeProto, graph: Links) -> bool:
    source = graph.origin(node.input[1]) if len(node.input) > 1 else None
    stored = graph.stored(source) if source is not None and source.op_type == "DequantizeLinear" else None
    return stored is not None and stored.data_type in _ONE_BYTE


def _quantizes_constant(node: NodeProto, graph: Links) -> bool:
    return node.op_type == "QuantizeLinear" and node.input[0] in graph.constants


def _constant(name: str, graph: Links) -> NDArray[np.generic] | None:
    tensor = graph.constants.get(name) if name else None
    return None if tensor is None or is_external(tensor) else numpy_helper.to_array(tensor)


def _parameters(node: NodeProto, graph: Links) -> tuple[NDArray[np.generic] | None, NDArray[np.generic] | None]:
    scale = _constant(node.input[1], graph) if len(node.input) > 1 else None
    return scale, _constant(node.input[2], graph) if len(node.input) > 2 else None


def _parameter_problems(node: NodeProto, graph: Links) -> Iterator[str]:
    name, (scale, zero) = name_of(node), _parameters(node, graph)
    if scale is None:
        return
    steps = scale.astype(np.float64)
    if not np.isfinite(steps).all() or (steps <= 0).any():
        yield f"{name} has a scale of {_worst(steps)}: scales are positive"
    if zero is not None and zero.size not in (1, scale.size):
        yield f"{name} has {zero.size} zero points for {scale.size} scales"
    if node.op_type != "DequantizeLinear":
        return
    stored = graph.stored(node)
    if stored is not None and stored.data_type == TensorProto.INT32 and zero is not None and zero.any():
        yield f"{name} dequantizes a bias with a zero point"
    before = graph.origin(node.input[0])
    if before is not None and before.op_type == "QuantizeLinear":
        yield from _pair_problems(before, node, graph)


def _pair_problems(quantizer: NodeProto, dequantizer: NodeProto, graph: Links) -> Iterator[str]:
    """Yield where a DQ does not undo the Q before it."""
    (ours, zero), (theirs, other) = _parameters(quantizer, graph), _parameters(dequantizer, graph)
    pair = f"{name_of(quantizer)} and {name_of(dequantizer)}"
    if ours is not None and theirs is not None and not np.array_equal(ours.ravel(), theirs.ravel()):
        yield f"{pair} have different scales ({_few(ours)}; {_few(theirs)})"
    if zero is not None and other is not None and zero.dtype != other.dtype:
        yield f"{pair} have different integers ({zero.dtype}; {other.dtype})"
    elif _zeros(zero) != _zeros(other):
        yield f"{pair} have different zero points ({_few(zero)}; {_few(other)})"


def _zeros(zero: NDArray[np.generic] | None) -> list[int]:
    """Return zero points; one that is left out is 0."""
    values = [] if zero is None else [int(value) for value in np.asarray(zero).ravel()]
    return values if any(values) else []


def _axis_problems(node: NodeProto, graph: Links) -> Iterator[str]:
    scale, _ = _parameters(node, graph)
    stored = graph.stored(node)
    if scale is None or scale.size < 2 or stored is None or _attribute(node, "block_size"):
        return
    rank = len(stored.dims)
    axis = axis_of(node, rank)
    if not 0 <= axis < rank or stored.dims[axis] != scale.size:
        have = stored.dims[axis] if 0 <= axis < rank else "no"
        yield f"{name_of(node)} has {scale.size} scales along axis {axis}, which has {have} channels"
        return
    yield from wrong_channel_axes(node, stored, graph)


def _attribute(node: NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _dangling(node: NodeProto, graph: Links) -> Iterator[str]:
    name = name_of(node)
    users = graph.users.get(node.output[0], [])
    if not users and node.output[0] not in graph.outputs:
        yield f"nothing uses {name}"
    elif node.op_type == "QuantizeLinear" and node.output[0] not in graph.outputs:
        yield from _undone(node, graph)
    if node.op_type == "DequantizeLinear" and graph.stored(node) is None:
        before = graph.producers.get(node.input[0])
        if before is not None and before.op_type == "Cast":
            yield f"{name} dequantizes what {name_of(before)} cast"


def _undone(node: NodeProto, graph: Links) -> Iterator[str]:
    """Yield who takes the integers of a Q as if they were numbers: a Cast, instead of a DQ."""
    for user in graph.users.get(node.output[0], []):
        if user.op_type == "Cast" and _attribute(user, "to") in (TensorProto.FLOAT, TensorProto.FLOAT16):
            yield f"{name_of(node)} has no DQ behind it: {name_of(user)} takes its integers as numbers"


def _worst(values: NDArray[np.float64]) -> str:
    bad = values[~(np.isfinite(values) & (values > 0))]
    return f"{bad.ravel()[0]:g}"


def _few(values: NDArray[np.generic] | None) -> str:
    if values is None:
        return "none"
    flat = values.ravel()
    return ", ".join(f"{value:g}" for value in flat[:2].astype(np.float64)) + (", ..." if flat.size > 2 else "")


# ---- what only a run shows

SATURATION = 0.05
"""Entropy and percentile calibration clip up to a few percent of long tails. Other inputs than those that it was
calibrated for, such as pixels that were not normalized, clip tens of percent."""
_SIX = 6.0


def judge_saturation(model: Opened, inputs: Mapping[str, NDArray[np.generic]]) -> Check:
    """Return which quantizer clips most.

    Args:
        inputs: a batch of real ones.
    """
    graph = link(model.proto.graph)
    spans: dict[str, tuple[float, float]] = {}
    names: dict[str, str] = {}
    for node in model.proto.graph.node:
        span = _span(node, graph) if node.op_type == "QuantizeLinear" and node.input[0] not in graph.constants else None
        if span is not None:
            spans[node.input[0]], names[node.input[0]] = span, name_of(node)
    if not spans:
        return Check("qdq-saturation", "skipped", "no activation is quantized by constants")
    shares = shares_outside(model.proto, model.folder, spans, inputs)
    worst = max(shares, key=lambda name: shares[name])
    return judged(
        "qdq-saturation", shares[worst] <= SATURATION,
        f"most at {names[worst]}: share of its values outside of the integers",
        subject=names[worst], value=shares[worst], limit=SATURATION,
        remedy="calibrate on inputs like these, with the same normalization; or with a wider range (max, or a higher "
        "percentile)",
    )  # fmt: skip


def _span(node: NodeProto, graph: Links) -> tuple[float, float] | None:
    """Return the numbers that a Q of one scale can tell apart, with half a step on both sides.

    A side that ends where a folded ReLU or ReLU6 cuts is open: what lies beyond is meant to be cut.
    """
    scale, zero = _parameters(node, graph)
    if scale is None or scale.size != 1 or (len(node.input) > 2 and node.input[2] and zero is None):
        return None
    kind = np.iinfo(str(zero.dtype)) if zero is not None and zero.dtype.kind in "iu" else np.iinfo("uint8")
    point = int(np.asarray(zero).ravel()[0]) if zero is not None else 0
    step = float(scale.ravel()[0])
    low, high = (int(kind.min) - point - 0.5) * step, (int(kind.max) - point + 0.5) * step
    relu = point == int(kind.min)
    return -np.inf if relu else low, np.inf if relu and abs(high - _SIX) <= 2 * step else high
