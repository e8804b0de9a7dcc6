"""Layer by layer: how far a quantized graph is from its float origin, on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from edgekd.errors import UsageError
from edgekd.graph.anatomy import weight_of
from edgekd.graph.links import Links, link, name_of
from edgekd.graph.lint import INTEGER_PRODUCT, LAYER_OPERATORS, read
from edgekd.graph.parity import compare
from edgekd.graph.tapping import run_tapped

_PRODUCTS = frozenset({"Gemm", "MatMul", INTEGER_PRODUCT})


@dataclass(frozen=True)
class _Tap:
    """Where a layer ends: its name, what it is, and the value that it gives."""

    name: str
    operator: str
    weight: tuple[int, ...] | None
    value: str

    @property
    def kind(self) -> str:
        """The operator; a matrix product has several forms."""
        return "product" if self.operator in _PRODUCTS else self.operator


def layer_sqnr_db(quantized: Path, origin: Path, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    """Return the SQNR of the output of each layer in decibels, by the layer's name in the quantized file.

    The layers of both files are taken in their order. An output carries the errors of all layers before it; a
    BatchNormalization behind a layer belongs to it. Both files run to the letter, operator by operator, on this host.

    Args:
        quantized: the file to judge.
        origin: the float network that it was made from.
        inputs: one batch by name.

    Raises:
        UsageError: the files do not have the same layers.
    """
    judged, true = read(quantized), read(origin)
    ours, theirs = _taps(judged), _taps(true)
    if [(tap.kind, tap.weight) for tap in ours] != [(tap.kind, tap.weight) for tap in theirs]:
        raise UsageError(
            f"{origin} has other layers than {quantized} ({_few(theirs)}; {_few(ours)}): give the float file that it "
            "was quantized from"
        )
    actual, expected = (
        run_tapped(proto, path.parent, [tap.value for tap in taps], inputs)
        for proto, path, taps in ((judged, quantized, ours), (true, origin, theirs))
    )
    # One long row: `compare` looks at the last axis, and every value counts here.
    pairs = {tap.name: (expected[there.value], actual[tap.value]) for tap, there in zip(ours, theirs, strict=True)}
    return {
        name: compare({name: one.reshape(1, -1)}, {name: other.reshape(1, -1)})[name].sqnr_db
        for name, (one, other) in pairs.items()
    }


def _taps(proto: ModelProto) -> list[_Tap]:
    links, found = link(proto.graph), []
    for node in proto.graph.node:
        if node.op_type not in LAYER_OPERATORS:
            continue
        value, weight = _end(node, links), weight_of(node, links)
        found.append(_Tap(name_of(node), node.op_type, None if weight is None else weight[0].shape, value))
    return found


def _end(layer: NodeProto, links: Links) -> str:
    """Return the value in which a layer is whole: normalized, in floats and with its bias."""
    value = layer.output[0]
    while True:
        users = links.users.get(value, [])
        if len(users) != 1 or value in links.outputs:
            return value
        (user,) = users
        scaled = layer.op_type == INTEGER_PRODUCT and user.op_type in ("Cast", "Mul")
        biased = layer.op_type in _PRODUCTS and user.op_type == "Add" and any(n in links.constants for n in user.input)
        if not (scaled or biased or user.op_type == "BatchNormalization"):
            return value
        value = user.output[0]


def _few(taps: Sequence[_Tap]) -> str:
    kinds = [f"{tap.operator}{'' if tap.weight is None else list(tap.weight)}" for tap in taps]
    return f"{len(kinds)} layers: {', '.join(kinds[:4])}{', ...' if len(kinds) > 4 else ''}"
