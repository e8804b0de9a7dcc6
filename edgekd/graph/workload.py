"""What each operator of a template has to do, as sizes that follow from the widths: no network is cut for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import NodeProto

from edgekd.graph.dyeing import Dye
from edgekd.graph.links import Links, is_dequantized, link, name_of
from edgekd.graph.lint import LAYER_OPERATORS
from edgekd.graph.macs import infer_shapes
from edgekd.graph.template import Size, Template, instance

_PROBES = 7
_FREE = frozenset({"DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Unsqueeze"})
"""What a runtime fuses into its neighbours, or does without touching a value."""

Shape = tuple[Size, ...]


@dataclass(frozen=True)
class Work:
    """One operator at some widths, for a batch of 1.

    Args:
        kind: "conv", "pointwise", "depthwise", "grouped", "matrix", or the operator's name in ONNX.
        inputs: input channels that one output is a sum over; 0 for what has no weight.
        outputs: output channels.
        groups: of a convolution.
        kernel: weights of one input channel to one output channel: 9 of a 3x3 convolution.
        positions: outputs of one channel.
        taken, given: values that are read and written, weights apart.
        integers: whether it computes on them.
    """

    kind: str
    inputs: int
    outputs: int
    groups: int
    kernel: int
    positions: int
    taken: int
    given: int
    integers: bool

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.inputs * self.outputs * self.kernel * self.positions


@dataclass(frozen=True)
class Operator:
    """One operator at any widths; see `Work`."""

    name: str
    kind: str
    integers: bool
    weight: Shape
    groups: Size
    taken: tuple[Shape, ...]
    given: Shape
    kernel: int
    positions: int

    def at(self, widths: Mapping[str, int]) -> Work:
        """Return its work at some widths of all groups."""
        outputs = self.weight[0].of(widths) if self.weight else _elements(self.given[1:2], widths)
        return Work(
            kind=self.kind,
            inputs=self.weight[1].of(widths) if self.weight else 0,
            outputs=outputs,
            groups=self.groups.of(widths),
            kernel=self.kernel,
            positions=self.positions,
            taken=sum(_elements(shape, widths) for shape in self.taken),
            given=_elements(self.given, widths),
            integers=self.integers,
        )


@dataclass(frozen=True)
class Workload:
    """What a network has to do at any widths.

    Args:
        widths: the full width of each group.
        operators: those that take time.
    """

    widths: Mapping[str, int]
    operators: tuple[Operator, ...]

    @property
    def integers(self) -> bool:
        """Whether some of it computes on integers."""
        return any(operator.integers for operator in self.operators)

    def at(self, widths: Mapping[str, int]) -> list[Work]:
        """Return the work at some widths; a group that is not named has its full width."""
        full = {**self.widths, **widths}
        return [operator.at(full) for operator in self.operators]


def workload(template: Template) -> Workload:
    """Return what a template's networks have to do.

    Raises:
        StageError: the size of a value does not follow from the widths.
    """
    shapes = _shapes(template)
    graph = template.model.graph
    links = link(graph)
    found = []
    for node in graph.node:
        values = [name for name in node.input if name in shapes and name not in links.constants]
        if node.op_type not in _FREE and values and node.output[0] in shapes:
            found.append(_operator(node, template, links, [shapes[name] for name in values], shapes[node.output[0]]))
    return Workload(template.widths, tuple(found))


def macs(work: Sequence[Work]) -> int:
    """Return the multiply-accumulates of a network."""
    return sum(one.macs for one in work)


def _operator(node: NodeProto, template: Template, links: Links, taken: Sequence[Shape], given: Shape) -> Operator:
    weight, groups, kernel = _weight(node, template, links)
    spatial = prod(size.constant for size in given[2:])
    integers = all(is_dequantized(name, links) for name in node.input[: 2 if weight else 1])
    kind = _kind(node, weight, groups, kernel)
    return Operator(
        name_of(node), kind, integers, weight, groups, tuple(taken[:1] if weight else taken), given, kernel, spatial
    )


def _weight(node: NodeProto, template: Template, links: Links) -> tuple[Shape, Size, int]:
    """Return (output channels, input channels of a group) of a layer, its groups, and the size of its kernel."""
    if node.op_type not in LAYER_OPERATORS:
        return (), Size(1), 1
    name, turned = node.input[1], False
    while name not in links.constants and name in links.producers:
        producer = links.producers[name]
        turned ^= producer.op_type == "Transpose"
        name = producer.input[0]
    if name not in links.constants:
        return (), Size(1), 1
    dims = tuple(links.constants[name].dims)
    shape = template.axes.get(name) or tuple(Size(size) for size in dims)
    own = {attribute.name: attribute for attribute in node.attribute}
    groups = template.attributes.get((node.name, "group"), (Size(own["group"].i if "group" in own else 1),))[0]
    if node.op_type == "Conv":
        return shape[:2], groups, prod(dims[2:])
    if node.op_type == "ConvTranspose":
        return (shape[1], shape[0]), groups, prod(dims[2:])
    first = ("transB" in own and bool(own["transB"].i)) ^ turned
    return (shape[-2:] if first else (shape[-1], shape[-2])), groups, 1


def _kind(node: NodeProto, weight: Shape, groups: Size, kernel: int) -> str:
    if not weight:
        return node.op_type
    if node.op_type in ("Gemm", "MatMul"):
        return "matrix"
    if groups.terms or groups.constant > 1:
        return "depthwise" if weight[1] == Size(1) else "grouped"
    return "pointwise" if kernel == 1 else "conv"


def _elements(shape: Sequence[Size], widths: Mapping[str, int]) -> int:
    return prod(size.of(widths) for size in shape)


def _shapes(template: Template) -> dict[str, Shape]:
    """Return the shape of every value, as sizes, from the shapes that it has at a few widths."""
    generator = np.random.default_rng(0)
    steps = {group: template.steps.get(group, 1) for group in template.widths}
    chosen = [dict(template.widths)]
    chosen += [
        {
            group: steps[group] * int(generator.integers(1, full // steps[group] + 1))
            for group, full in template.widths.items()
        }
        for _ in range(_PROBES - 1)
    ]
    dye = Dye({group: tuple(of[group] for of in chosen) for group in template.widths})
    inferred = [infer_shapes(instance(template, widths)) for widths in chosen]
    known = set.intersection(*(set(shapes) for shapes in inferred)) - {
        tensor.name for tensor in template.model.graph.initializer
    }
    return {
        name: tuple(
            dye.explain(sizes, f"axis {axis} of {name}")
            for axis, sizes in enumerate(zip(*(shapes[name] for shapes in inferred), strict=True))
        )
        for name in known
    }
