"""Which builds of each variant a device is given: one file may be built in several precisions.

A runtime that builds (TensorRT) chooses the precision when it builds, so a float network V becomes V in float32 and
V-fp16 in float16, both from one file; OpenVINO chooses when it loads the file. Quantized files have their precision in
them and are built as they are, or are told to be refused before they travel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgekd.agent.standalone import BUILDS
from edgekd.device import Device
from edgekd.errors import StageError, UsageError
from edgekd.graph.float_weights import with_float_weights
from edgekd.graph.half import to_half
from edgekd.graph.lint import GraphFacts, inspect, read
from edgekd.graph.qdq import refusal


@dataclass(frozen=True)
class Build:
    """One variant as a device builds it."""

    origin: str
    """The variant that it is a build of; its role, its accuracy on the host and its size are that one's."""
    path: Path
    """The file to send. Of another form than the origin's where the device needs that, but the same network."""
    precision: str | None
    """fp32, fp16, bf16, int8; None: whatever the file says."""
    half_file: Path | None = None
    """The same in float16, for releases that have no flag for it (TensorRT 11); None where there is none."""
    refused: str | None = None
    """Why the device would not take it: it is not to be sent."""
    remarks: tuple[str, ...] = ()
    """What a reader should know of the files."""


def variant_names(device: Device, quantized: Mapping[str, bool]) -> dict[str, tuple[str, str | None]]:
    """Return the builds of variants by name: of which variant, and in which precision.

    The first float precision of the device has the variant's own name.

    Args:
        quantized: whether it computes on integers, by variant.

    Raises:
        UsageError: the device has no float precision, or two builds would have the same name.
    """
    if not device.precisions:
        return {name: (name, None) for name in quantized}
    floats = [precision for precision in device.precisions if precision != "int8"]
    if not floats:
        raise UsageError("`precisions: [int8]` leaves out the teacher, a float network: add fp16 or fp32")
    if not _builds(device) and "int8" in device.precisions:
        raise UsageError(f"`precisions`: {device.backend} runs quantized files as they are: leave int8 out")
    rows = [
        (name if precision in (floats[0], "int8", None) else f"{name}-{precision}", name, precision)
        for name, integers in quantized.items()
        for precision in (["int8" if _builds(device) else None] if integers else floats)
    ]
    twice = [name for name, count in Counter(name for name, _, _ in rows).items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0]} is both a variant and a precision of another one: give the variant another name")
    return {name: (origin, precision) for name, origin, precision in rows}


def expand(device: Device, chosen: Mapping[str, Path], folder: Path) -> dict[str, Build]:
    """Return what a device builds, by name, and write the files that differ from the given ones.

    Args:
        chosen: ONNX files by variant.
        folder: where files are written; it exists, and is kept until the job is packed.

    Raises:
        UsageError: as `variant_names`, or a file is no valid ONNX model.
    """
    if not device.precisions:
        return {name: Build(name, path, None) for name, path in chosen.items()}
    facts = {name: inspect(path) for name, path in chosen.items()}
    names = variant_names(device, {name: fact.quantized_layers > 0 for name, fact in facts.items()})
    return {
        name: _build(device, origin, precision, chosen[origin], facts[origin], folder / name)
        for name, (origin, precision) in names.items()
    }


def _build(device: Device, origin: str, precision: str | None, path: Path, facts: GraphFacts, stem: Path) -> Build:
    if not _builds(device):
        return Build(origin, path, precision)
    refused = _refusal(device, precision, path, facts)
    if refused or precision == "fp32":
        return Build(origin, path, precision, refused=refused)
    half_file, remarks = _half(path, stem.with_name(f"{stem.name}.half.onnx"))
    if precision == "int8":
        rewritten = stem.with_name(f"{stem.name}.onnx")
        onnx.save(with_float_weights(read(path)), rewritten)
        path = rewritten
    return Build(origin, path, precision, half_file, remarks=remarks)


def _builds(device: Device) -> bool:
    """Return whether its runtime builds a file, and so needs it in a certain form."""
    return device.backend in BUILDS


def _refusal(device: Device, precision: str | None, path: Path, facts: GraphFacts) -> str | None:
    if precision not in device.precisions:
        return f"the device's `precisions` are {', '.join(device.precisions)}; this is quantized, int8"
    if facts.opset > device.max_opset:
        return (
            f"its ONNX opset is {facts.opset}, the device reads up to {device.max_opset}: export it with an older one, "
            "or raise `max_opset` of the device's profile if its runtime reads more"
        )
    return refusal(read(path))


def _half(path: Path, target: Path) -> tuple[Path | None, tuple[str, ...]]:
    """Write the float16 file; where that cannot be, the device goes on with the float one, if its runtime can."""
    try:
        cut = to_half(path, target)
    except StageError as error:
        return None, (f"no file in float16, which TensorRT 11 would need: {error}",)
    return target, tuple(f"in float16: {text}" for text in cut)
