"""In which precision a model is, and how far it may then be from its reference.

One number for all precisions fails good models, and one number for all outputs says nothing of what they are for: one
sample of 2,000 beyond an absolute tolerance is common in sound exports (pytorch#80973, mmpose#821). So differences are
taken relative to the reference's size, energies in decibels over all samples, and agreement is counted.

fp32: kernels sum in another order and fold BatchNorm, about 1e-6 of each value: 100 dB and more is usual. fp16 rounds
to 11 bits (66 dB for one operation), bf16 to 8 (48 dB), and errors add up over layers. 8-bit networks lie at 15 to 30
dB from their float origin, whose classes they keep; a misread integer costs more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from onnx import ModelProto, TensorProto

from edgekd.document import suggest
from edgekd.errors import UsageError
from edgekd.graph.external import tensors
from edgekd.graph.parity import INT8_TOLERANCE
from edgekd.validation.files import Opened

OFF, AUTO = "off", "auto"


@dataclass(frozen=True)
class Limits:
    """How far answers may be from the reference's; None is not limited.

    Args:
        max: largest difference, as a share of the reference's largest magnitude.
        mean: mean difference, as a share of the reference's mean magnitude.
        sqnr: decibels, at least.
        cosine: at least.
        top1: share of samples whose largest answer is at the same place, at least.
        batch: decibels between answers in different batches, at least.
    """

    max: float | None = None
    mean: float | None = None
    sqnr: float | None = None
    cosine: float | None = None
    top1: float | None = None
    batch: float | None = None


TOLERANCES = {
    "fp32": Limits(max=1e-3, mean=1e-3, sqnr=60.0, cosine=0.9999, top1=0.999, batch=60.0),
    "fp16": Limits(max=0.03, mean=0.02, sqnr=35.0, cosine=0.999, top1=0.99, batch=35.0),
    "bf16": Limits(max=0.2, mean=0.1, sqnr=22.0, cosine=0.99, top1=0.97, batch=22.0),
    "int8": Limits(sqnr=10.0, cosine=0.95, top1=0.95, batch=15.0),
    "int4": Limits(sqnr=5.0, cosine=0.85, top1=0.85, batch=15.0),
}
"""By the precision of the model; the reference is in floats."""
SAME_INTEGERS = Limits(
    sqnr=INT8_TOLERANCE.min_sqnr_db, cosine=0.999, top1=INT8_TOLERANCE.min_top1_agreement, batch=15.0
)
"""Both are quantized: the same graph, run by two runtimes."""

_FLOATS: dict[int, str] = {
    TensorProto.FLOAT: "fp32", TensorProto.DOUBLE: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16",
}  # fmt: skip
_FOUR_BITS = frozenset({TensorProto.INT4, TensorProto.UINT4})
_EIGHT_BITS = frozenset({TensorProto.INT8, TensorProto.UINT8})
_INTEGER_OPERATORS = ("QuantizeLinear", "QLinear", "DynamicQuantize", "ConvInteger", "MatMulInteger", "QGemm")


def precision_of(proto: ModelProto) -> str:
    """Return the precision that a model is in: that of its weights, where it does not compute on integers."""
    stored = {id(tensor): tensor for tensor in tensors(proto)}.values()
    if any(tensor.data_type in _FOUR_BITS for tensor in stored):
        return "int4"
    if any(node.op_type.startswith(_INTEGER_OPERATORS) for node in proto.graph.node):
        return "int8"
    sizes: dict[str, int] = {}
    for tensor in stored:
        kind = "int8" if tensor.data_type in _EIGHT_BITS else _FLOATS.get(tensor.data_type)
        if kind is not None and len(tensor.dims) > 1:
            sizes[kind] = sizes.get(kind, 0) + _count(tensor)
    return max(sizes, key=lambda kind: sizes[kind]) if sizes else _input_precision(proto)


def _input_precision(proto: ModelProto) -> str:
    """A model without weights computes in the type of its inputs."""
    kinds = (_FLOATS.get(value.type.tensor_type.elem_type) for value in proto.graph.input)
    return next((kind for kind in kinds if kind is not None), "fp32")


def limits(asked: Sequence[str], model: Opened, reference: Opened) -> Limits | None:
    """Return the tolerances for a model; None where it is another network than the reference, or none are wanted.

    Args:
        asked: what the user wrote: "auto", "off", a precision, "NAME=VALUE" of one figure.

    Raises:
        UsageError: it is none of these.
    """
    base, changes = _parsed(asked)
    if base == OFF:
        return None
    if base == AUTO:
        if not same_network(model, reference) and not changes:
            return None
        kinds = [precision_of(one.proto) for one in (model, reference)]
        integers = [kind.startswith("int") for kind in kinds]
        chosen = SAME_INTEGERS if all(integers) else TOLERANCES[_coarser(*kinds)]
        if not same_network(model, reference):
            chosen = Limits(batch=chosen.batch)
    else:
        chosen = TOLERANCES[base]
    return replace(chosen, **changes)


def batch_limit(model: Opened) -> float:
    """Return how many decibels apart answers in different batches may be."""
    found = TOLERANCES[precision_of(model.proto)].batch
    assert found is not None
    return found


def check(asked: Sequence[str]) -> None:
    """Raise what is wrong with tolerances as a user wrote them.

    Raises:
        UsageError: one is no precision and no NAME=VALUE.
    """
    _parsed(asked)


def _parsed(asked: Sequence[str]) -> tuple[str, dict[str, float]]:
    base, changes, names = AUTO, {}, [field.name for field in fields(Limits)]
    for text in (part for one in asked for part in one.split(",")):
        name, equals, value = text.strip().partition("=")
        known = names if equals else [OFF, AUTO, *TOLERANCES]
        if name not in known:
            raise UsageError(
                f"--tolerance {text}: no {name!r}{suggest(name, known)} (a precision: {', '.join(TOLERANCES)}; off; "
                f"or a figure, such as sqnr=20: {', '.join(names)})"
            )
        if not equals:
            base = name
            continue
        try:
            changes[name] = float(value)
        except ValueError as error:
            raise UsageError(f"--tolerance {text}: {value!r} is no number") from error
    return base, changes


def same_network(one: Opened, other: Opened) -> bool:
    """Return whether two files can be the same network: their weights have as many elements, within 2 %.

    Fusing and quantizing keep that; a student, a pruned or a factorized network has fewer. Vectors are not counted:
    biases, scales and what BatchNorm holds come and go.
    """
    ours, theirs = _weights(one.proto), _weights(other.proto)
    return abs(ours - theirs) <= 0.02 * max(ours, theirs)


def _weights(proto: ModelProto) -> int:
    kinds = _FLOATS.keys() | _FOUR_BITS | _EIGHT_BITS
    return sum(_count(tensor) for tensor in tensors(proto) if len(tensor.dims) > 1 and tensor.data_type in kinds)


def _count(tensor: TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _coarser(*kinds: str) -> str:
    order = list(TOLERANCES)
    return max(kinds, key=order.index)
