"""Write a torch network as a standard ONNX file: checked, stripped, and the same bytes for the same network."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import onnx
import torch
from onnx import ModelProto
from onnxscript import TracedOnnxFunction
from torch import Tensor, nn

from edgekd.errors import StageError
from edgekd.graph import four_bits
from edgekd.graph.capture import capture, quiet_pytrees
from edgekd.graph.clean import clean, strip
from edgekd.graph.decomposing import decomposed_where_needed
from edgekd.graph.dynamic import TRANSLATIONS
from edgekd.graph.lint import find_opset, nonfinite_tensors, quantization_problems

_CARRIED = "edgekd.carried"
_SPLIT_CHANGED = 18
_ALONE = Lock()
"""Of two exports at once, the second would take for the exporter as it is what the first has changed of it."""


@dataclass(frozen=True)
class ExportFacts:
    """What was written."""

    opset: int
    size_bytes: int
    nodes: int
    quantized_layers: int
    """Convolutions and matrix products that compute on integers."""


def export_onnx(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    metadata: Mapping[str, str],
    max_opset: int,
    quantized_layers: int | None,
    weights_bits: int = 8,
) -> ExportFacts:
    """Write a float network or a converted (quantized) graph to an ONNX file, atomically.

    Args:
        model: the network, taken in evaluation mode; or what `edgekd.compress.quantization.convert` returned.
        example: inputs; the first axis of each becomes the free axis "batch".
        path: the file.
        input_names: one for each example.
        output_names: one for each output.
        metadata: strings stored in the file (`metadata_props`).
        max_opset: the newest opset the device reads.
        quantized_layers: how many convolutions and linear layers must come out quantized; None for a float network.
        weights_bits: 4 or 8, of each weight of a quantized network.

    Raises:
        StageError: the network cannot be exported, holds NaN or infinity, needs a newer opset, or did not come out
            quantized where it was meant to be.
    """
    _require_finite(model)
    small = quantized_layers is not None and weights_bits == 4
    if small and max_opset < four_bits.OPSET:
        raise StageError(f"{path.name}: {four_bits.too_old(max_opset)}")
    proto = _to_proto(model, example, input_names, output_names, four_bits.OPSET if small else None)
    clean(proto, metadata)
    if small:
        four_bits.pack_weights(proto)
    proto = _fit_opset(proto, max_opset)
    layers, problems = quantization_problems(proto)
    if quantized_layers is not None and layers != quantized_layers:
        problems.append(f"{quantized_layers} layers were meant to be quantized, {layers} are")
    problems += [f"{name} holds NaN or infinity" for name in nonfinite_tensors(proto)]
    if problems:
        raise StageError(f"{path.name} did not come out as meant: {'; '.join(problems)}")
    data = proto.SerializeToString(deterministic=True)
    _write(path, data)
    return ExportFacts(find_opset(proto), len(data), len(proto.graph.node), layers)


def _require_finite(model: nn.Module) -> None:
    bad = [name for name, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise StageError(
            f"cannot export: NaN or infinity in {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}. "
            "The training diverged: lower its learning rate, or look for NaN in the data"
        )


def _to_proto(
    model: nn.Module,
    example: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int | None,
) -> ModelProto:
    program = decomposed_where_needed(capture(model, example))
    try:
        with _ALONE, _quiet_exporter(), _translations_read_once():
            exported = torch.onnx.export(
                program,
                input_names=list(input_names),
                output_names=list(output_names),
                opset_version=opset,
                dynamo=True,
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise StageError(f"{type(model).__name__} cannot be exported to ONNX: {_first_line(error)}") from error
    assert exported is not None
    return exported.model_proto


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide that a missing torchvision has no operators to export, which the exporter logs four times."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_pytrees():
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _translations_read_once() -> Iterator[None]:
    """Keep what the exporter reads of the source of its 500 translations; it would read all of it twice an export.

    A release that has no such property is left as it is: all that is lost is a quarter of the time.
    """
    translation: Any = TracedOnnxFunction
    whole = vars(translation).get("function_ir")
    if not isinstance(whole, property):
        yield
        return
    translation.function_ir = property(partial(_read, whole.fget))
    try:
        yield
    finally:
        translation.function_ir = whole


@cache
def _read(read: Callable[[Any], Any], translation: Any) -> Any:
    return read(translation)


def _fit_opset(proto: ModelProto, max_opset: int) -> ModelProto:
    """Return a valid model in an opset that the device reads, and in the oldest file format for that opset.

    The exporter itself writes opset 18 at the least, and a newer one than it was asked for without saying so.
    """
    opset = find_opset(proto)
    try:
        if opset > max_opset:
            proto = _converted(proto, max_opset)
            strip(proto)
        proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
        onnx.checker.check_model(proto, full_check=True)
    except (RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError(
            f"the network needs ONNX opset {opset} and cannot be written in opset {max_opset}, the newest that the "
            f"device reads (max_opset of its profile): {_first_line(error)}"
        ) from error
    if find_opset(proto) > max_opset:
        raise StageError(
            f"the network needs ONNX opset {opset}; the device reads {max_opset} (max_opset of its profile)"
        )
    return proto


def _converted(proto: ModelProto, opset: int) -> ModelProto:
    """Return the model in an older opset, by ONNX's own converter.

    The converter knows no way back for Split, which in opset 18 got an attribute to say that its parts are equal. In a
    domain of its own, Split is carried across; without the attribute the parts are equal too, and the checker looks.
    """
    splits = [node for node in proto.graph.node if node.op_type == "Split"] if opset < _SPLIT_CHANGED else []
    for node in splits:
        node.domain = _CARRIED
        kept = [attribute for attribute in node.attribute if attribute.name != "num_outputs"]
        del node.attribute[:]
        node.attribute.extend(kept)
    if splits:
        proto.opset_import.append(onnx.helper.make_opsetid(_CARRIED, 1))
    proto = onnx.version_converter.convert_version(proto, opset)
    for node in proto.graph.node:
        if node.domain == _CARRIED:
            node.domain = ""
    return proto


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
