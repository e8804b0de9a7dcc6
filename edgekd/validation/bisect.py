"""Where does a model first depart from its reference? Node by node, and the way there from the inputs.

The nodes of both graphs are laid side by side by what they do (difflib, on operators and the shapes of weights); Q, DQ
and what only moves a type are left out. Then the model runs twice on the same few samples: as it is, which shows how
the error adds up, and cut at every value that has a counterpart, each piece fed with the reference's own values, which
shows what each node does wrong by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from edgekd.graph.links import Links, link, name_of
from edgekd.graph.parity import decibels
from edgekd.graph.tapping import run_cut, run_tapped
from edgekd.validation.files import Opened

_LEFT_OUT = frozenset({
    "Cast", "CastLike", "Constant", "DequantizeLinear", "Dropout", "DynamicQuantizeLinear", "Identity",
    "QuantizeLinear",
})  # fmt: skip
_SAME = {
    "Gemm": "MatMul",
    "QLinearConv": "Conv",
    "QLinearMatMul": "MatMul",
    "ConvInteger": "Conv",
    "MatMulInteger": "MatMul",
}
_ABSORBED = frozenset({"Add", "BatchNormalization", "Mul"})
_LONGEST = 40
Array = NDArray[np.generic]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Step:
    """A node on the way from an input.

    Args:
        sqnr_db: of its output with all errors before it; None where the reference has no counterpart.
        own_db: of its output when it is fed with the reference's values.
    """

    node: str
    operator: str
    sqnr_db: float | None
    own_db: float | None


@dataclass(frozen=True)
class Bisection:
    """Where a model departs.

    Args:
        node: the first node whose output departs; None where none does by itself.
        counterpart: the reference's node that it was held against.
        limit_db: below which an output departs.
        path: the nodes from an input to it, itself last.
        compared: nodes that have a counterpart.
        message: all of it in words.
    """

    node: str | None
    counterpart: str | None
    limit_db: float
    path: tuple[Step, ...]
    compared: int
    message: str


@dataclass(frozen=True)
class _Pair:
    """A node's value and its counterpart's."""

    node: NodeProto
    value: str
    other_node: NodeProto
    other: str


def bisect(model: Opened, reference: Opened, inputs: Arrays, reference_inputs: Arrays, limit_db: float) -> Bisection:
    """Find the first node of a model whose output departs from the reference's.

    Args:
        inputs: a few samples by the model's names; `reference_inputs` are the same by the reference's.
        limit_db: below which an output departs.
    """
    pairs = list(_align(model, reference))
    true = run_tapped(reference.proto, reference.folder, [pair.other for pair in pairs], reference_inputs)
    seen = run_tapped(model.proto, model.folder, [pair.value for pair in pairs], inputs)
    fitting = [pair for pair in pairs if _comparable(true[pair.other], seen[pair.value])]
    if not fitting:
        told = "no node of the model has a counterpart in the reference: they are other networks"
        return Bisection(None, None, limit_db, (), 0, told)
    given = {pair.value: true[pair.other].astype(seen[pair.value].dtype) for pair in fitting}
    made = run_cut(model.proto, model.folder, inputs, given)
    summed = {pair.value: _sqnr(true[pair.other], seen[pair.value]) for pair in fitting}
    own = {pair.value: _sqnr(true[pair.other], made[pair.value]) for pair in fitting}
    guilty = next((pair for pair in fitting if own[pair.value] < limit_db), None)
    adrift = next((pair for pair in fitting if summed[pair.value] < limit_db), None)
    shown = guilty or adrift
    path = _path(shown.node, link(model.proto.graph), summed, own) if shown else ()
    return Bisection(
        node=name_of(guilty.node) if guilty else None,
        counterpart=name_of(guilty.other_node) if guilty else None,
        limit_db=limit_db,
        path=path,
        compared=len(fitting),
        message=_told(guilty, adrift, summed, own, limit_db),
    )


def _told(
    guilty: _Pair | None, adrift: _Pair | None, summed: Mapping[str, float], own: Mapping[str, float], limit_db: float
) -> str:
    if guilty is not None:
        return (
            f"{name_of(guilty.node)} ({guilty.node.op_type}) is the first that departs: {own[guilty.value]:.1f} dB "
            f"when fed with the reference's values, {summed[guilty.value]:.1f} dB in the model; {limit_db:g} dB are "
            "expected"
        )
    if adrift is not None:
        return (
            f"no node departs by itself; the errors add up, and reach {summed[adrift.value]:.1f} dB at "
            f"{name_of(adrift.node)} ({adrift.node.op_type}), below {limit_db:g} dB"
        )
    return "no node that has a counterpart in the reference departs: the difference is in what has none"


def _align(model: Opened, reference: Opened) -> Iterator[_Pair]:
    """Yield the nodes that do the same in both graphs, in the order of the model."""
    ours, theirs = _computing(model), _computing(reference)
    mine, yours = _keys(ours, model), _keys(theirs, reference)
    blocks = SequenceMatcher(None, mine, yours, autojunk=False).get_opcodes()
    for (tag, begin, end, other, other_end), after in zip(blocks, [*blocks[1:], None], strict=True):
        if tag == "equal":
            added = theirs[other_end] if after is not None and after[0] == "insert" else None
            yield from _couple(ours[begin:end], theirs[other:other_end], added)
        elif tag == "replace" and end - begin == other_end - other:
            yield from _couple(ours[begin:end], theirs[other:other_end], None)
        elif tag == "replace":  # MatMul and Add for a Gemm: what comes out last is the same
            yield from _couple(ours[end - 1 : end], theirs[other_end - 1 : other_end], None)


def _couple(mine: Sequence[NodeProto], yours: Sequence[NodeProto], added: NodeProto | None) -> Iterator[_Pair]:
    """Yield pairs of outputs.

    Args:
        added: what follows in the reference only. The last node may have absorbed it, such as BatchNormalization.
    """
    for place, (one, other) in enumerate(zip(mine, yours, strict=True)):
        last = place == len(mine) - 1
        if last and added is not None and added.op_type in _ABSORBED and other.output[0] in added.input:
            yield _Pair(one, one.output[0], other, added.output[0])
            continue
        for value, counterpart in zip(one.output, other.output, strict=False):
            if value and counterpart:
                yield _Pair(one, value, other, counterpart)


def _computing(model: Opened) -> list[NodeProto]:
    return [node for node in model.proto.graph.node if node.op_type not in _LEFT_OUT]


def _keys(nodes: Sequence[NodeProto], model: Opened) -> list[tuple[str, tuple[int, ...]]]:
    links = link(model.proto.graph)
    return [_key(node, links) for node in nodes]


def _key(node: NodeProto, links: Links) -> tuple[str, tuple[int, ...]]:
    """Return what a node does, and the sizes of its weights whichever way round."""
    sizes: list[int] = []
    for name in node.input[1:2]:
        source = links.origin(name)
        stored = links.constants.get(name) or (links.stored(source) if source is not None and source.input else None)
        if stored is not None and len(stored.dims) > 1:
            sizes = sorted(stored.dims)
    return _SAME.get(node.op_type, node.op_type), tuple(sizes)


def _comparable(expected: Array, given: Array) -> bool:
    return expected.shape == given.shape and expected.dtype.kind == given.dtype.kind == "f" and expected.size > 0


def _sqnr(expected: Array, given: Array) -> float:
    one, other = expected.astype(np.float64), given.astype(np.float64)
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return -np.inf
    one, other = (np.nan_to_num(values, posinf=0.0, neginf=0.0) for values in (one, other))
    difference = one - other
    if not one.any() and np.abs(difference).max() < 1e-6:
        return np.inf
    return decibels(float(np.vdot(one, one)), float(np.vdot(difference, difference)))


def _path(node: NodeProto, links: Links, summed: Mapping[str, float], own: Mapping[str, float]) -> tuple[Step, ...]:
    """Return the computing nodes from an input of the graph to a node, along the worst of each node's inputs."""
    steps: list[Step] = []
    here: NodeProto | None = node
    while here is not None and len(steps) < _LONGEST:
        if here.op_type not in _LEFT_OUT:
            value = here.output[0]
            steps.append(Step(name_of(here), here.op_type, _told_db(summed.get(value)), _told_db(own.get(value))))
        before = [links.producers[name] for name in here.input if name in links.producers]
        computed = [one for one in before if not _is_stored(one, links)]
        here = min(computed, key=lambda one: summed.get(one.output[0], np.inf), default=None)
    return tuple(reversed(steps))


def _told_db(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 2)


def _is_stored(node: NodeProto, links: Links) -> bool:
    return node.op_type == "Constant" or (
        node.op_type in ("DequantizeLinear", "QuantizeLinear") and links.stored(node) is not None
    )
