"""Make the template of a network: export it a few times with different widths, and see what follows from them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import gcd
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from edgekd import models
from edgekd.compress import channels, depth, quantization
from edgekd.device import Scheme
from edgekd.errors import StageError
from edgekd.graph import dyeing
from edgekd.graph.export import export_onnx
from edgekd.graph.lint import read
from edgekd.graph.template import Template, instance
from edgekd.stages.prune import Options

EXPORTS = 3
MOST_EXPORTS = 8
_CALIBRATION = 8
_DRAWS = 300
_NAMES = ("input", "logits")


def make_template(
    load: Callable[[], nn.Module],
    input_shape: tuple[int, ...],
    scheme: Scheme | None = None,
    removed: Sequence[str] = (),
    max_opset: int = 20,
    exclude: Sequence[str] = (),
    names: tuple[str, str] = _NAMES,
) -> Template:
    """Return the template of a network for one structure and one precision.

    Args:
        load: gives the network at full width, a new one each time.
        input_shape: of one sample.
        scheme: the integers it is quantized to; None: it stays float.
        removed: residual blocks that are taken out first.
        max_opset: the newest opset that the device reads.
        exclude: layers whose widths stay, as in `prune.exclude`.
        names: of input and output.

    Raises:
        StageError: the network cannot be cut or exported, exports differ in more than sizes, or a size does not follow
            from the widths; with what it is.
    """
    options = Options(exclude=tuple(exclude))
    full, sections = _groups(load, input_shape, removed, options)
    generator = np.random.default_rng(0)
    chosen: list[Mapping[str, int]] = [full]
    exports = [_export(load, input_shape, scheme, removed, max_opset, options, full, names)]
    while True:
        for _ in range(max(1, EXPORTS - len(exports))):
            chosen.append(_dye(chosen, sections, generator))
            exports.append(_export(load, input_shape, scheme, removed, max_opset, options, chosen[-1], names))
        try:
            template = dyeing.derive(exports, chosen, sections)
            break
        except dyeing.OpenError:
            if len(exports) >= MOST_EXPORTS:
                raise
    _check(template, _dye(chosen, sections, generator))
    return template


def _groups(
    load: Callable[[], nn.Module], shape: tuple[int, ...], removed: Sequence[str], options: Options
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the width of each group, and of how many equal parts it consists."""
    _, found = channels.groups(_structure(load, removed), options, shape)
    return {group.name: group.channels for group in found}, {group.name: group.sections for group in found}


def _structure(load: Callable[[], nn.Module], removed: Sequence[str]) -> nn.Module:
    return depth.remove(load().eval(), removed)


def _export(
    load: Callable[[], nn.Module],
    shape: tuple[int, ...],
    scheme: Scheme | None,
    removed: Sequence[str],
    max_opset: int,
    options: Options,
    widths: Mapping[str, int],
    names: tuple[str, str],
) -> ModelProto:
    """Return the ONNX of the network with some widths."""
    model = _structure(load, removed)
    if widths:
        channels.remove(model, options.model_copy(update={"widths": widths, "ratio": None}), shape)
    layers = None
    if scheme is not None:
        prepared = quantization.prepare(model, (models.example(shape),), scheme)
        quantization.calibrate(prepared, [_noise(shape)])
        layers = len(quantization.quantized_layers(prepared))
        model = quantization.convert(prepared)
    with tempfile.TemporaryDirectory(prefix="edgekd-template-") as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(
            model, (models.example(shape),), path, input_names=names[:1], output_names=names[1:], metadata={},
            max_opset=max_opset, quantized_layers=layers,
        )  # fmt: skip
        return read(path)


def _noise(shape: tuple[int, ...]) -> Tensor:
    """Return inputs to calibrate with: what the ranges are does not change the time."""
    return torch.randn(_CALIBRATION, *shape, generator=torch.Generator().manual_seed(0))


def _dye(
    chosen: Sequence[Mapping[str, int]], sections: Mapping[str, int], generator: np.random.Generator
) -> dict[str, int]:
    """Return widths that, with those chosen before, tell groups and sums of two groups apart as well as may be."""
    draws = [
        {group: int(generator.choice(_possible(width, sections[group]))) for group, width in chosen[0].items()}
        for _ in range(_DRAWS)
    ]
    return min(draws, key=lambda draw: _collisions([*chosen, draw]))


def _possible(full: int, sections: int) -> list[int]:
    """Return the widths to draw from: fewer than there are, and two or more, which no exporter takes for a scalar."""
    return [width for width in range(sections, full, sections) if width > 1] or [full]


def _collisions(widths: Sequence[Mapping[str, int]]) -> int:
    """Return how many groups, and sums of two, are a multiple of another one or constant in all exports."""
    vectors = [tuple(of[group] for of in widths) for group in widths[0]]
    sums = [tuple(a + b for a, b in zip(*pair, strict=True)) for pair in combinations(vectors, 2)]
    directions = [_direction(vector) for vector in [(1,) * len(widths), *vectors, *sums]]
    return len(directions) - len(set(directions))


def _direction(vector: tuple[int, ...]) -> tuple[int, ...]:
    common = gcd(*vector)
    return tuple(number // common for number in vector)


def _check(template: Template, widths: Mapping[str, int]) -> None:
    """Cut a network of widths that were not exported, and have its shapes inferred.

    Raises:
        StageError: they do not fit together.
    """
    try:
        onnx.checker.check_model(instance(template, widths), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StageError(f"the network could not be cut to other widths than were exported: {reason}") from error
