"""Find out how the sizes of a network follow from its widths, from a few exports with different widths.

Widths are a dye: a size that is 49 times the width of one group in every export is that group's, if no other
explanation is as simple. Widths are chosen so that mistakes are unlikely; what stays open is told, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekd.errors import StageError
from edgekd.graph.template import Size, Template

Numbers = tuple[int, ...]
"""One number of each export."""

_MOST_TERMS = 5
_ONE = ""
"""Stands for the constant among groups: its width is always 1."""


class OpenError(StageError):
    """A size has no explanation yet, or several: another export may decide."""


@dataclass(frozen=True)
class Dye:
    """The widths of all exports, the first at full width, by group."""

    widths: Mapping[str, Numbers]
    known: dict[Numbers, Size] = field(default_factory=dict)
    """What was explained before."""

    def explain(self, numbers: Numbers, where: str) -> Size:
        """Return what a size is made of.

        Raises:
            OpenError: nothing, or several things alike, explain it; with where it is.
        """
        if numbers not in self.known:
            self.known[numbers] = self._explained(numbers, where)
        return self.known[numbers]

    def _explained(self, numbers: Numbers, where: str) -> Size:
        vectors = {_ONE: (1,) * len(numbers), **self.widths}
        if len(set(numbers)) == 1:
            return Size(numbers[0])
        for count in range(1, min(_MOST_TERMS, len(numbers) - 1) + 1):
            found = list(_sums(numbers, vectors, count))
            if len(found) == 1:
                terms = {group: factor for group, factor in found[0].items() if group != _ONE}
                return Size(int(found[0].get(_ONE, 0)), tuple(terms.items()))
            if found:
                told = " or ".join(_told(one) for one in found[:3])
                raise OpenError(f"{where}: {_list(numbers)} may be {told}")
        raise OpenError(f"{where}: {_list(numbers)} do not follow from the widths of the channels")


def derive(
    exports: Sequence[ModelProto], widths: Sequence[Mapping[str, int]], steps: Mapping[str, int] | None = None
) -> Template:
    """Return the template of which all exports are instances.

    Args:
        exports: of one network, the first at full width.
        widths: of each export, by group.
        steps: what a width must be a multiple of.

    Raises:
        OpenError: more exports are needed, or the sizes depend on something else.
        StageError: the exports differ in more than sizes; with the first difference.
    """
    for other in exports[1:]:
        _same_structure(exports[0], other)
    groups = [group for group in widths[0] if len({of[group] for of in widths}) > 1]
    dye = Dye({group: tuple(of[group] for of in widths) for group in groups})
    model = ModelProto()
    model.CopyFrom(exports[0])
    axes: dict[str, tuple[Size, ...]] = {}
    values: dict[str, tuple[Size, ...]] = {}
    for uses in _constants(exports):
        for name, dimensions, numbers in _named_apart(model, uses, dye):
            if any(size.terms for size in dimensions):
                axes[name] = dimensions
            if any(size.terms for size in numbers):
                values[name] = numbers
    return Template(model, dict(widths[0]), dict(steps or {}), axes, values, dict(_attributes(exports, dye)))


@dataclass(frozen=True)
class _Use:
    """A constant as one node takes it, in every export."""

    node: int
    slot: int
    tensors: tuple[TensorProto, ...]


def _constants(exports: Sequence[ModelProto]) -> Iterator[list[_Use]]:
    """Yield for each constant of the first export all of its uses.

    The exporter stores equal values once, and which are equal depends on the widths: so it is asked for each use.
    """
    stored = [{tensor.name: tensor for tensor in one.graph.initializer} for one in exports]
    uses: dict[str, list[_Use]] = {name: [] for name in stored[0]}
    for index, nodes in enumerate(zip(*(one.graph.node for one in exports), strict=True)):
        for slot, name in enumerate(nodes[0].input):
            if name in stored[0]:
                own = tuple(of[node.input[slot]] for of, node in zip(stored, nodes, strict=True))
                uses[name].append(_Use(index, slot, own))
    yield from uses.values()


def _named_apart(
    model: ModelProto, uses: Sequence[_Use], dye: Dye
) -> Iterator[tuple[str, tuple[Size, ...], tuple[Size, ...]]]:
    """Yield (name, sizes, numbers) of a constant; uses that differ in them get a copy of their own in the model."""
    found: dict[tuple[tuple[Size, ...], tuple[Size, ...]], str] = {}
    for use in uses:
        name = use.tensors[0].name
        sizes = _dimensions(use, name, dye), _numbers(use, name, dye)
        if sizes not in found:
            found[sizes] = f"{name}_{len(found) + 1}" if found else name
            if len(found) > 1:
                copy = model.graph.initializer.add()
                copy.CopyFrom(use.tensors[0])
                copy.name = found[sizes]
            yield found[sizes], *sizes
        model.graph.node[use.node].input[use.slot] = found[sizes]


def _dimensions(use: _Use, name: str, dye: Dye) -> tuple[Size, ...]:
    shapes = [tuple(tensor.dims) for tensor in use.tensors]
    if len({len(shape) for shape in shapes}) > 1:
        raise StageError(f"{name} has {len(shapes[0])} axes in one export, and another number in one with other widths")
    return tuple(dye.explain(sizes, f"axis {axis} of {name}") for axis, sizes in enumerate(zip(*shapes, strict=True)))


def _numbers(use: _Use, name: str, dye: Dye) -> tuple[Size, ...]:
    """Return what the numbers of a constant are made of, where they say a shape."""
    if use.tensors[0].data_type != TensorProto.INT64:
        return ()
    arrays = [numpy_helper.to_array(tensor) for tensor in use.tensors]
    if len({array.shape for array in arrays}) > 1:
        raise StageError(
            f"{name} is a table of places whose length depends on the widths; exclude the layers it is for"
        )
    columns = zip(*(array.ravel().tolist() for array in arrays), strict=True)
    return tuple(dye.explain(numbers, f"number {place} of {name}") for place, numbers in enumerate(columns))


def _attributes(exports: Sequence[ModelProto], dye: Dye) -> Iterator[tuple[tuple[str, str], tuple[Size, ...]]]:
    """Yield what the integers in attributes are made of, where they depend on widths."""
    for nodes in zip(*(one.graph.node for one in exports), strict=True):
        for several in zip(*(node.attribute for node in nodes), strict=True):
            lists = [_integers(attribute) for attribute in several]
            if len({tuple(one) for one in lists}) > 1:
                where = f"{several[0].name} of {nodes[0].name}"
                if len({len(one) for one in lists}) > 1:
                    raise StageError(f"{where} has more numbers in one export than in another with other widths")
                numbers = zip(*lists, strict=True)
                yield (nodes[0].name, several[0].name), tuple(dye.explain(each, where) for each in numbers)


def _integers(attribute: AttributeProto) -> list[int]:
    return [attribute.i] if attribute.type == AttributeProto.INT else list(attribute.ints)


def _same_structure(one: ModelProto, other: ModelProto) -> None:
    """Refuse exports that differ in operators, links or attributes.

    Raises:
        StageError: with the first difference.
    """
    stored = [{tensor.name for tensor in model.graph.initializer} for model in (one, other)]
    pairs = zip(one.graph.node, other.graph.node, strict=False)
    for first, second in pairs:
        texts = [_form(node, names) for node, names in zip((first, second), stored, strict=True)]
        if texts[0] != texts[1]:
            raise _differs(f"{texts[0]} became {texts[1]}")
    if len(one.graph.node) != len(other.graph.node):
        raise _differs(f"{len(one.graph.node)} operators became {len(other.graph.node)}")


def _differs(what: str) -> StageError:
    return StageError(
        f"the export has another structure where channels are fewer: {what}; exclude the layers concerned"
    )


def _form(node: NodeProto, stored: set[str]) -> str:
    """Return an operator with all that must be the same at all widths."""
    inputs = ["constant" if name in stored else name for name in node.input]
    kept = [_plain(attribute) for attribute in node.attribute]
    return f"{node.name} ({node.op_type}: {', '.join(inputs)} -> {', '.join(node.output)}; {', '.join(kept)})"


def _plain(attribute: AttributeProto) -> str:
    if attribute.type in (AttributeProto.INT, AttributeProto.INTS):
        return attribute.name
    if attribute.type == AttributeProto.TENSOR:
        return f"{attribute.name} of type {attribute.t.data_type} and shape {list(attribute.t.dims)}"
    return f"{attribute.name} {helper.get_attribute_value(attribute)!r}"


def _sums(numbers: Numbers, vectors: Mapping[str, Numbers], count: int) -> Iterator[dict[str, Fraction]]:
    """Yield the sums of so many multiples of groups that give a number in each export."""
    if count == 1:
        for group, vector in vectors.items():
            factor = Fraction(numbers[0], vector[0])
            if factor > 0 and all(factor * width == number for width, number in zip(vector, numbers, strict=True)):
                yield {group: factor}
        return
    wanted = np.array(numbers, float)
    for groups in combinations(vectors, count):
        matrix = np.array([vectors[group] for group in groups], float).T
        solution, _, rank, _ = np.linalg.lstsq(matrix, wanted)
        factors = np.rint(solution)
        if rank == count and (factors > 0).all() and (matrix @ factors == wanted).all():
            yield {group: Fraction(int(factor)) for group, factor in zip(groups, factors, strict=True)}


def _told(terms: Mapping[str, Fraction]) -> str:
    return " + ".join(str(factor) if group == _ONE else f"{factor} x {group}" for group, factor in terms.items())


def _list(numbers: Numbers) -> str:
    return ", ".join(map(str, numbers))
