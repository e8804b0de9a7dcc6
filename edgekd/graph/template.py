"""One ONNX file for all widths of a network: it knows how each of its sizes follows from the widths.

A network that is searched for has some width in each group of channels that go together. Exporting takes seconds, so
that hundreds of such networks are cut from one file instead: the full network, and beside it, of every size that is not
always the same, which widths it is made of. Weights are cut to their first channels: their values decide nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgekd.document import suggest
from edgekd.errors import UsageError

MODEL, SIZES = "template.onnx", "template.json"


@dataclass(frozen=True)
class Size:
    """A constant, and a multiple of each of some widths.

    Args:
        constant: what does not depend on widths.
        terms: (group, multiplier) each. An image of 7 x 7 behind 16 channels, flattened: (("conv", 49),).
    """

    constant: int = 0
    terms: tuple[tuple[str, Fraction], ...] = ()

    def of(self, widths: Mapping[str, int]) -> int:
        """Return the size at some widths, which must be multiples of the template's steps."""
        return self.constant + int(sum(factor * widths[group] for group, factor in self.terms))


@dataclass(frozen=True)
class Template:
    """A network for any widths.

    Args:
        model: at full width.
        widths: the full width of each group (`edgekd.compress.channels.groups`).
        steps: what a width must be a multiple of, by group: the parts of grouped convolutions are of equal size.
        axes: of each weight that depends on widths, its shape.
        values: of each constant that says a shape, its numbers.
        attributes: of each node that has widths in its attributes, their numbers, by node and attribute.
    """

    model: ModelProto
    widths: Mapping[str, int]
    steps: Mapping[str, int] = field(default_factory=dict)
    axes: Mapping[str, tuple[Size, ...]] = field(default_factory=dict)
    values: Mapping[str, tuple[Size, ...]] = field(default_factory=dict)
    attributes: Mapping[tuple[str, str], tuple[Size, ...]] = field(default_factory=dict)


def instance(template: Template, widths: Mapping[str, int]) -> ModelProto:
    """Return the network with some widths.

    Args:
        widths: channels by group; a group that is not named has its full width.

    Raises:
        UsageError: as `complete`.
    """
    chosen = complete(template, widths)
    made = ModelProto()
    made.CopyFrom(_frame(template.model))
    made.graph.initializer.extend(_cut(template, tensor, chosen) for tensor in template.model.graph.initializer)
    for node in made.graph.node:
        _set_attributes(template, node, chosen)
    return made


def complete(template: Template, widths: Mapping[str, int]) -> dict[str, int]:
    """Return the width of every group of a network.

    Raises:
        UsageError: there is no such group, or it has fewer channels or cannot have so many.
    """
    problems = [*_misfits(template, widths)]
    if problems:
        raise UsageError("\n".join(problems))
    return {name: widths.get(name, full) for name, full in template.widths.items()}


def _misfits(template: Template, widths: Mapping[str, int]) -> Iterator[str]:
    for name, width in widths.items():
        full, step = template.widths.get(name), template.steps.get(name, 1)
        if full is None:
            told = ", ".join(template.widths) or "none"
            yield f"there is no group of channels {name!r}{suggest(name, template.widths)} (there are: {told})"
        elif not 0 < width <= full:
            yield f"{name} has 1 to {full} channels, not {width}"
        elif width % step:
            yield f"{name} is {step} equal parts: {width} channels are no multiple of that"


def save(template: Template, folder: Path) -> None:
    """Write a template into a folder, which is there; the file that makes it one comes last."""
    _replace(folder / MODEL, template.model.SerializeToString(deterministic=True))
    content = {
        "widths": dict(template.widths),
        "steps": dict(template.steps),
        "axes": {name: _plain(sizes) for name, sizes in template.axes.items()},
        "values": {name: _plain(sizes) for name, sizes in template.values.items()},
        "attributes": [[*where, _plain(sizes)] for where, sizes in template.attributes.items()],
    }
    _replace(folder / SIZES, json.dumps(content, indent=1, sort_keys=True).encode())


def load(folder: Path) -> Template:
    """Read what `save` wrote.

    Raises:
        UsageError: the folder holds no template.
    """
    try:
        content = json.loads((folder / SIZES).read_text(encoding="utf-8"))
        return Template(
            onnx.load(folder / MODEL),
            {str(name): int(width) for name, width in content["widths"].items()},
            {str(name): int(step) for name, step in content["steps"].items()},
            {name: _sizes(sizes) for name, sizes in content["axes"].items()},
            {name: _sizes(sizes) for name, sizes in content["values"].items()},
            {(node, attribute): _sizes(sizes) for node, attribute, sizes in content["attributes"]},
        )
    except (OSError, ValueError, KeyError, TypeError, DecodeError) as error:
        raise UsageError(f"{folder} holds no template of a network: {type(error).__name__}: {error}") from error


def _frame(model: ModelProto) -> ModelProto:
    """Return a model without its weights."""
    frame = ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    frame.opset_import.extend(model.opset_import)
    frame.graph.name = model.graph.name
    frame.graph.node.extend(model.graph.node)
    frame.graph.input.extend(model.graph.input)
    frame.graph.output.extend(model.graph.output)
    return frame


def _cut(template: Template, tensor: TensorProto, widths: Mapping[str, int]) -> TensorProto:
    if tensor.name in template.values:
        numbers = [size.of(widths) for size in template.values[tensor.name]]
        shape = tuple(tensor.dims)
        return numpy_helper.from_array(
            np.array(numbers, numpy_helper.to_array(tensor).dtype).reshape(shape), tensor.name
        )
    if tensor.name not in template.axes:
        return tensor
    parts = tuple(slice(size.of(widths)) for size in template.axes[tensor.name])
    return numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(tensor)[parts]), tensor.name)


def _set_attributes(template: Template, node: NodeProto, widths: Mapping[str, int]) -> None:
    for attribute in node.attribute:
        sizes = template.attributes.get((node.name, attribute.name))
        if sizes is None:
            continue
        numbers = [size.of(widths) for size in sizes]
        if attribute.type == onnx.AttributeProto.INT:
            (attribute.i,) = numbers
        else:
            attribute.ints[:] = numbers


def _plain(sizes: Sequence[Size]) -> list[dict[str, Any]]:
    return [
        {"constant": size.constant, "terms": [[group, str(factor)] for group, factor in size.terms]} for size in sizes
    ]


def _sizes(plain: Sequence[Mapping[str, Any]]) -> tuple[Size, ...]:
    return tuple(
        Size(int(size["constant"]), tuple((str(group), Fraction(factor)) for group, factor in size["terms"]))
        for size in plain
    )


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(data)
    temporary.replace(path)
