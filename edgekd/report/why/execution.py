"""Causes that show in what the runtime executed: layers in float, conversions, operators that were not fused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgekd.graph.anatomy import Layer
from edgekd.report.why.finding import Evidence, Finding
from edgekd.report.why.profile import Ran, share

_QUANTIZING = ("QuantizeLinear", "FakeQuantize")
_DEQUANTIZING = ("DequantizeLinear",)
_REORDERING = ("Reorder", "ReorderInput", "ReorderOutput", "Reformat", "Transpose", "Convert", "Cast")
_WORTH_TELLING = 0.05
_SHOWN = 3
_RECTIFIERS = ("Relu", "Clip", "LeakyRelu")


def float_layers(evidence: Evidence) -> Iterator[Finding]:
    """Layers that are integers in the file, or meant to be, and ran as floats; and those that are floats in the file
    already."""
    if not evidence.integers:
        return
    floats = [one for one in evidence.ran if one.computes and not one.integer]
    if evidence.graph is None:
        if floats:
            yield _no_kernel(evidence, {one.name: one for one in floats}, {})
        return
    layers = {layer.name: layer for layer in evidence.graph.layers}
    kept: dict[str, Ran] = {}
    unquantized: dict[str, Ran] = {}
    for one in floats:
        for node in one.nodes:
            layer = layers.get(node)
            if layer is not None:
                (kept if layer.quantized else unquantized)[node] = one
    if kept:
        yield _no_kernel(evidence, kept, layers)
    if unquantized:
        yield evidence.found(
            "float-layers",
            f"{len(unquantized)} of the file's layers are not quantized, and ran as floats",
            unquantized,
            unquantized.values(),
            "quantize input and weight of these layers, if the accuracy allows it",
        )


def conversions(evidence: Evidence) -> Iterator[Finding]:
    """Conversions between integers and floats, and between layouts, other than at the network's inputs and outputs."""
    if not evidence.integers:
        return
    inputs, outputs = (1, 1) if evidence.graph is None else (evidence.graph.inputs, evidence.graph.outputs)
    quantizing = [one for one in evidence.ran if one.type in _QUANTIZING][inputs:]
    dequantizing = [one for one in evidence.ran if one.type in _DEQUANTIZING]
    dequantizing = dequantizing[: max(0, len(dequantizing) - outputs)]
    reordering = [one for one in evidence.ran if one.type in _REORDERING]
    reordering = reordering[inputs : max(inputs, len(reordering) - outputs)]
    left = [*quantizing, *dequantizing, *reordering]
    cost = share(left)
    if not left or (cost is not None and cost < _WORTH_TELLING):
        return
    yield evidence.found(
        "conversions",
        f"{len(quantizing)} QuantizeLinear, {len(dequantizing)} DequantizeLinear and {len(reordering)} changes of "
        "layout or type are executed inside the network",
        [one.name for one in left],
        left,
        "let integers flow from layer to layer: quantize what stands between them, or leave a whole stretch of layers "
        "in float",
    )


def batchnorms(evidence: Evidence) -> Iterator[Finding]:
    """BatchNormalization that runs by itself although a layer stands right before it."""
    ran = [one for one in evidence.ran if "BatchNormalization" in one.type]
    where = [one.nodes[0] if one.nodes else one.name for one in ran]
    if evidence.graph is not None:
        behind = {layer.batchnorm: layer.name for layer in evidence.graph.layers if layer.batchnorm}
        where = [name for name in where if name in behind]
        # The layers before them cannot be integers either.
        ran += [one for one in evidence.of(behind[name] for name in where) if one.computes and not one.integer]
    if where:
        yield evidence.found(
            "unfolded-batchnorm",
            f"{len(where)} BatchNormalization run by themselves: they were not folded into the layers before them",
            where,
            ran,
            "fold BatchNorm into the convolutions before quantizing (edgekd does; for QAT fold it before training)",
        )


def unfused(evidence: Evidence) -> Iterator[Finding]:
    """Rectifiers that run by themselves right behind a layer."""
    ran = [one for one in evidence.ran if one.type in _RECTIFIERS]
    if evidence.graph is not None:
        ran = [one for one in ran if any(_follows_layer(node, evidence) for node in one.nodes)]
    if ran and evidence.graph is not None:
        yield evidence.found(
            "missed-fusion",
            f"{len(ran)} activation functions run by themselves right behind a layer, which could do them on the way",
            [one.nodes[0] for one in ran],
            ran,
            "give the layer's output to its ReLU only, and quantize behind the ReLU, not before it",
        )


def additions(evidence: Evidence) -> Iterator[Finding]:
    """Residual additions in float between layers that compute in integers."""
    if not evidence.integers:
        return
    if evidence.graph is None:
        ran = [one for one in evidence.ran if one.type in ("Add", "FusedAdd") and not one.integer]
        where = [one.name for one in ran]
    else:
        sums = [one for one in evidence.graph.additions if not one.quantized]
        sums = [one for one in sums if not any(ran.computes and ran.integer for ran in evidence.of([one.name]))]
        where = [one.name for one in sums]
        ran = list(evidence.of(where))
        ran += [one for one in evidence.of(name for one in sums for name in one.branches)
                if one.computes and not one.integer and one not in ran]  # fmt: skip
    if where:
        yield evidence.found(
            "float-additions",
            f"{len(where)} residual additions compute in float, with conversions on both sides",
            where,
            ran,
            "quantize both inputs and the output of residual additions (`quantize_add: true` of the device's profile)",
        )


def narrow_layers(evidence: Evidence) -> Iterator[Finding]:
    """Integer layers that are too narrow to gain from it."""
    if evidence.graph is None or evidence.runtime != "onnxruntime" or not evidence.integers:
        return
    narrow = {one.name for one in evidence.graph.layers if one.channels and max(one.channels) <= 16}
    ran = [one for one in evidence.of(narrow) if one.computes and one.integer]
    cost = share(ran)
    if ran and (cost is None or cost >= 0.2):
        yield evidence.found(
            "narrow-layers",
            f"{len(ran)} integer layers have 16 channels or fewer, where integers gained nothing in ONNX Runtime",
            [node for one in ran for node in one.nodes if node in narrow],
            ran,
            "fewer but wider layers, or leave these in float",
        )


def _no_kernel(evidence: Evidence, ran: Mapping[str, Ran], layers: Mapping[str, Layer]) -> Finding:
    told = [f"{name}: {_obstacle(layers[name])}" for name in ran if name in layers]
    more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return evidence.found(
        "no-integer-kernel",
        f"{len(ran)} layers that should be integers ran as floats after the runtime's own optimization"
        + (f" ({'; '.join(told[:_SHOWN])}{more})" if told else ""),
        ran,
        ran.values(),
        "remove what keeps the runtime from its integer kernels, or leave these layers in float, which saves the "
        "conversions",
    )


def _obstacle(layer: Layer) -> str:
    if layer.obstacle is not None:
        return layer.obstacle
    return (
        f"nothing in the file explains it; the runtime has no kernel for this {layer.operator} on {layer.activations}"
    )


def _follows_layer(node: str, evidence: Evidence) -> bool:
    assert evidence.graph is not None
    proto = evidence.graph.names.get(node)
    before = None if proto is None else evidence.graph.links.producers.get(proto.input[0])
    layers = {layer.name for layer in evidence.graph.layers}
    return before is not None and (before.name in layers or before.output[0] in layers)
