"""Causes that lie in the file and the processor: the form of the integers, the channels, the instructions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgekd.graph.anatomy import Layer
from edgekd.report.why.finding import NOT_TIME, Evidence, Finding

_ALIGNED = 8
_OUTLIER_RATIO = 8.0
"""The widest channel over the median one: with a common scale, the median channel then has less than 5 of 8 bits."""
_UNSATURATED = 64
"""The largest weight for which the sum of two products with 8-bit activations fits 16 bits."""
_IMPRECISE_DB = 20.0
_SHOWN = 5


def channels(evidence: Evidence) -> Iterator[Finding]:
    """Layers whose number of channels fills no vector."""
    if evidence.graph is None:
        return
    odd = [one for one in evidence.graph.layers if any(count % _ALIGNED for count in one.channels)]
    if odd:
        counts = sorted({count for one in odd for count in one.channels if count % _ALIGNED})
        yield evidence.found(
            "odd-channels",
            f"{len(odd)} layers have channels that are no multiple of {_ALIGNED}: {', '.join(map(str, counts))}",
            [one.name for one in odd],
            evidence.of(one.name for one in odd),
            f"round the channels to a multiple of {_ALIGNED} (`prune: {{round_to: {_ALIGNED}}}`): the next larger one "
            "costs no more time",
        )


def signed_activations(evidence: Evidence) -> Iterator[Finding]:
    """Signed activations in ONNX Runtime on x86, whose integer kernels want unsigned ones."""
    if not (evidence.graph is not None and evidence.runtime == "onnxruntime" and evidence.x86):
        return
    if "avx_vnni_int8" in evidence.flags:  # multiplies signed by signed
        return
    signed = [one.name for one in evidence.graph.layers if one.quantized and one.activations == "int8"]
    if signed:
        yield evidence.found(
            "signed-activations",
            f"{len(signed)} layers take signed 8-bit activations; ONNX Runtime's kernels for x86 multiply unsigned "
            "activations by signed weights",
            signed,
            evidence.of(signed),
            "quantize activations as unsigned integers for this device (`activations: u8`)",
        )


def outliers(evidence: Evidence) -> Iterator[Finding]:
    """One scale for a whole weight in which few channels are much larger than the others."""
    if evidence.graph is None:
        return
    for layer in evidence.graph.layers:
        ratio = _outlier_ratio(layer)
        if layer.quantized and layer.scales == 1 and ratio >= _OUTLIER_RATIO:
            known = evidence.sqnr_db.get(layer.name)
            seen = "" if known is None else f"; its output has an SQNR of {known:.1f} dB"
            yield Finding(
                "weight-outliers",
                f"one scale for all channels of a weight whose largest channel is {ratio:.0f} times the median one, "
                f"which is left {127 / ratio:.0f} of 127 steps{seen}",
                (layer.name,),
                None,
                NOT_TIME,
                "scale each output channel by itself (`weights: per-channel`)",
            )


def saturation(evidence: Evidence) -> Iterator[Finding]:
    """8-bit weights where pairs of products are summed in 16 bits."""
    if evidence.graph is None or not evidence.x86 or evidence.dot_products:
        return
    wide = [one.name for one in evidence.graph.layers if one.quantized and one.largest_integer > _UNSATURATED]
    if wide:
        yield Finding(
            "saturating-sums",
            f"{len(wide)} layers have 8-bit weights; without VNNI pairs of products are summed in 16 bits, which "
            "saturate",
            tuple(wide),
            None,
            NOT_TIME,
            "weights of 7 bits for this processor (`reduce_range: true`)",
        )


def features(evidence: Evidence) -> Iterator[Finding]:
    """A processor without dot products of 8-bit integers."""
    if not evidence.integers or not evidence.architecture or evidence.dot_products:
        return
    missing = "VNNI (avx512_vnni, avx_vnni)" if evidence.x86 else "dot product instructions (asimddp)"
    yield Finding(
        "missing-instructions",
        f"the processor has no {missing}: a product of integers takes several instructions, so that int8 gains little "
        "over float32",
        (),
        None,
        "what the instructions would bring cannot be measured where they are missing",
        "a processor that has them; here, a smaller float network may be the better buy",
    )


def imprecise(evidence: Evidence) -> Iterator[Finding]:
    """Layers whose outputs differ most from those of the float network."""
    bad = sorted((db, name) for name, db in evidence.sqnr_db.items() if db < _IMPRECISE_DB)
    if bad:
        shown = ", ".join(f"{name} {db:.1f} dB" for db, name in bad[:_SHOWN])
        yield Finding(
            "imprecise-layers",
            f"outputs of {len(bad)} layers are far from the float ones (SQNR below {_IMPRECISE_DB:g} dB): {shown}",
            tuple(name for _, name in bad),
            None,
            NOT_TIME,
            "repair them (quantize.improve), leave the first of them in float, scale per channel, calibrate on more "
            "data, or train with quantization; with random inputs, other than calibration saw, it says little",
        )


def _outlier_ratio(layer: Layer) -> float:
    ranges = layer.channel_range
    if ranges is None or len(ranges) < 2:
        return 1.0
    middle = float(np.median(ranges))
    return float(ranges.max()) / middle if middle > 0 else 1.0
