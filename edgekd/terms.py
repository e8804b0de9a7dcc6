"""Terms of the distillation loss, as a recipe writes them; torch-free.

The losses are the functions of `edgekd/distill/losses/`, one file per family. Their signatures are the schema: what a
function takes by keyword is what a recipe may say. So the files are read, and never run, to check a recipe.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, create_model, model_serializer, model_validator

from edgekd import options
from edgekd.document import Frozen, suggest
from edgekd.shipped import shipped_modules

FAMILIES = "distill/losses"
_FOLDER = Path(__file__).resolve().parent / FAMILIES
_GIVEN = ("reduction", "samples")
"""Keyword arguments that a recipe does not write, besides tensors."""


class Pair(Frozen):
    """A layer of the student and the layer of the teacher that it learns from, by the names of the modules.

    `stages.2` is what that module gives, `head:input` what `head` is given. `edgekd recipe layers` lists them.
    """

    student: str
    teacher: str


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, dict | Pair) else value


class Weighting(Frozen):
    """What every term has."""

    weight: options.NonNegative = 1.0
    schedule: Literal["constant", "warmup", "cosine"] = "constant"
    """"warmup": rises linearly from 0 over the first part of the training. "cosine": falls to 0 along a half cosine."""
    over: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Which part of the training the warm-up takes."""

    def at(self, progress: float) -> float:
        """Return the weight when this part of the training, in [0, 1), is done."""
        if self.schedule == "warmup":
            return self.weight * min(1.0, progress / self.over)
        if self.schedule == "cosine":
            return self.weight * 0.5 * (1 + math.cos(math.pi * progress))
        return self.weight


class Layered(Weighting):
    """What a term on features has besides."""

    layers: Annotated[tuple[Pair, ...] | None, BeforeValidator(_listed)] = None
    """One pair {student: ..., teacher: ...} or several, whose losses are summed. Default: the last feature maps, or the
    embeddings before the last linear layers, as the paper has it."""


@dataclass(frozen=True)
class Loss:
    """What a loss's source says of it.

    Args:
        on: "answers" (logits) or "features" (what layers give).
        labels: the weight of the task's own loss beside it in the published setting.
        equal_shapes: student and teacher must have one shape: an adapter makes them.
        default_layer: "map" or "embedding".
        parts: it learns something of its own.
        together: it takes all its pairs of layers at once.
        targets: it takes the labels.
        labelled: it, or what it learns, looks at the labels, of which a mixed sample has two.
        own: names of the options that the function takes; `making` those that its parts take.
    """

    name: str
    family: str
    on: Literal["answers", "features"]
    labels: float
    equal_shapes: bool
    default_layer: str
    parts: bool
    together: bool
    targets: bool
    labelled: bool
    own: tuple[str, ...]
    making: tuple[str, ...]
    schema: type[Weighting] = field(repr=False)


@dataclass(frozen=True)
class Term:
    """A term of a recipe: its loss, its weight, and the options of the loss."""

    loss: Loss
    weighting: Weighting

    @property
    def layers(self) -> tuple[Pair, ...] | None:
        """The pairs of layers that the recipe names."""
        return self.weighting.layers if isinstance(self.weighting, Layered) else None

    def arguments(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return the options of these names, as keyword arguments."""
        return {name: getattr(self.weighting, name) for name in names}


@cache
def losses() -> Mapping[str, Loss]:
    """Return every loss by its name, aliases too."""
    found: dict[str, Loss] = {}
    for family in shipped_modules(FAMILIES):
        tree = ast.parse((_FOLDER / f"{family}.py").read_text(encoding="utf-8"))
        constants = dict(_constants(tree))
        if "SETTINGS" not in constants:  # no family: what families share
            continue
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for name, setting in constants["SETTINGS"].items():
            found[name] = _loss(name, family, constants, setting, functions)
        found |= {alias: found[name] for alias, name in constants.get("ALIASES", {}).items()}
    return found


def _constants(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id.isupper() and isinstance(value, ast.expr):
            try:
                yield target.id, ast.literal_eval(value)
            except ValueError:  # a constant of the file's own
                continue


def _loss(
    name: str,
    family: str,
    constants: Mapping[str, Any],
    setting: Mapping[str, float],
    functions: Mapping[str, ast.FunctionDef],
) -> Loss:
    function, parts = functions[name], functions.get(f"{name}_parts")
    own, making = _options(function), _options(parts) if parts else {}
    fields: dict[str, Any] = {"weight": (options.NonNegative, setting["weight"]), **making, **own}
    base = Weighting if constants["ON"] == "answers" else Layered
    keywords = {argument.arg for argument in function.args.kwonlyargs}
    return Loss(
        name=name,
        family=family,
        on=constants["ON"],
        labels=setting.get("labels", 1.0),
        equal_shapes=name in constants.get("EQUAL_SHAPES", ()) and parts is None,
        default_layer=usual if isinstance(usual := constants.get("DEFAULT_LAYER", ""), str) else usual[name],
        parts=parts is not None,
        together="Sequence" in ast.unparse(function.args.args[0].annotation or ast.Constant("")),
        targets="targets" in keywords,
        labelled="targets" in keywords or name in constants.get("LABELLED", ()),
        own=tuple(own),
        making=tuple(making),
        # The annotations are texts, which the model understands when it is first used.
        schema=create_model(f"{name} options", __base__=base, __module__=options.__name__, **fields),
    )


def _options(function: ast.FunctionDef) -> dict[str, tuple[str, Any]]:
    """Return {name: (annotation, default)} of what a recipe may say to a function."""
    found = {}
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        if argument.arg not in _GIVEN and "Tensor" not in annotation:
            assert default is not None, f"{function.name}: {argument.arg} needs a default"
            found[argument.arg] = (annotation, ast.literal_eval(default))
    return found


def _shorthand(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in losses():
        raise ValueError(f"there is no loss {value!r}{suggest(value, losses())} (known: {', '.join(losses())})")
    return {value: {}}


class _One(Frozen):
    """One key, the name of a loss, and its options. A bare name has the published weight."""

    @model_validator(mode="after")
    def _exactly_one(self) -> _One:
        if len(self.model_fields_set) != 1:
            raise ValueError("a term is one loss with its options, such as {kd: {temperature: 4, weight: 0.9}}")
        return self

    @model_serializer(mode="plain")
    def _named(self) -> dict[str, Any]:
        term = self.term()
        return {term.loss.name: term.weighting.model_dump(mode="json")}

    def __eq__(self, other: object) -> bool:
        """Compare the terms: an alias is the same loss."""
        return isinstance(other, _One) and self.term() == other.term()

    def __hash__(self) -> int:
        return hash(self.term())

    def term(self) -> Term:
        """Return the term."""
        (name,) = self.model_fields_set
        weighting: BaseModel = getattr(self, name)
        assert isinstance(weighting, Weighting)
        return Term(losses()[name], weighting)


def _switch(value: Any) -> Any:
    return {} if value is None else value


_CHOICES: dict[str, Any] = {
    name: (Annotated[loss.schema | None, BeforeValidator(_switch)], None) for name, loss in losses().items()
}
One = create_model("One", __base__=_One, **_CHOICES)
Terms = tuple[Annotated[One, BeforeValidator(_shorthand)], ...]
"""What a recipe's `losses` may be."""
