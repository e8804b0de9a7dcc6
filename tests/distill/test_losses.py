"""What holds for every distillation loss. The families are found in their folder, the losses in their SETTINGS."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgekd.distill import losses

BATCH, CLASSES, SAMPLES = 7, 5, 40

FACTORS = {
    "sp": 1 / 2,  # a row of similarities has length 1 however long it is, so B rows of B entries over B^2 go with 1 / B
    "pkt": 1 / 2,  # a row of probabilities has sum 1 however long it is: the same
}
"""What a loss is multiplied by when every sample of the batch is there twice; 1 where nothing is said."""

COUNTS = {
    "mmd": "unbiased: pairs of different samples only, and a sample and its copy are two",
    "infonce": "a sample and its copy cannot be told apart, and there are twice as many to tell apart: log 2 more",
}
"""Losses that depend on the number of samples in another way."""

CONSTANT = {"mmd": "the bandwidths come from the data, and no gradient goes through them"}
"""Losses whose gradient takes something for constant that is not."""

UNPAIRED = {"mmd": "two sets, of which neither knows the other's samples"}
"""Losses that do not need as many samples from the student as from the teacher."""


@dataclass(frozen=True)
class Loss:
    name: str
    family: ModuleType

    @property
    def function(self) -> Callable[..., Tensor]:
        return getattr(self.family, self.name)

    @property
    def parts(self) -> Callable[..., torch.nn.Module] | None:
        return getattr(self.family, f"{self.name}_parts", None)

    @property
    def together(self) -> bool:
        """Whether the loss takes all pairs of layers at once."""
        return "Sequence" in str(inspect.signature(self.function).parameters["student"].annotation)

    def shapes(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Return shapes of the student's and the teacher's tensors, without the batch; no axis is as long as it."""
        equal = self.name in getattr(self.family, "EQUAL_SHAPES", ())
        if self.family.ON == "answers":
            return [(CLASSES,)], [(CLASSES,)]
        if self.together:
            return [(3, 8, 8), (4, 4, 4)], [(5, 8, 8), (6, 4, 4)]
        usual = self.family.DEFAULT_LAYER
        if (usual if isinstance(usual, str) else usual[self.name]) == "map":
            return [(6, 4, 4)], [(6 if equal else 10, 4, 4)]
        return [(6,)], [(6 if equal else 9,)]

    def pair(self, seed: int = 0, make: Callable[..., Tensor] = torch.randn, **options: Any) -> tuple[Any, Any]:
        """Return what the student and the teacher give."""
        generator = torch.Generator().manual_seed(seed)
        pair = [[make((BATCH, *shape), generator=generator, **options) for shape in side] for side in self.shapes()]
        return tuple(pair) if self.together else (pair[0][0], pair[1][0])

    def arguments(self, student: Any, teacher: Any) -> dict[str, Any]:
        """Return the arguments of the function, as the machinery gives them."""
        given = {"targets": torch.arange(BATCH) % CLASSES, "samples": torch.arange(BATCH) * 3}
        if self.parts is not None:
            torch.manual_seed(0)
            shapes = self.shapes() if self.together else [side[0] for side in self.shapes()]
            module = self.parts(*shapes, samples=SAMPLES).to(_first(student).dtype)
            return module(student, teacher, **_accepted(module.forward, given))
        return {"student": student, "teacher": teacher, **_accepted(self.function, given)}

    def __call__(self, arguments: Mapping[str, Any], **options: Any) -> Tensor:
        rest = {key: value for key, value in arguments.items() if key not in ("student", "teacher")}
        return self.function(arguments["student"], arguments["teacher"], **rest, **options)


def _families() -> dict[str, ModuleType]:
    names = [found.name for found in pkgutil.iter_modules(losses.__path__)]
    modules = {name: importlib.import_module(f"{losses.__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "SETTINGS")}


def _accepted(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in given.items() if name in parameters}


def _first(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to the tensors of an argument."""
    if isinstance(value, Tensor):
        return function(value)
    return [_mapped(function, one) for one in value] if isinstance(value, Sequence) else value


def _batchwise(function: Callable[[Tensor], Tensor], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a function to the tensors that have an axis of samples."""

    def apply(tensor: Tensor) -> Tensor:
        return function(tensor) if tensor.ndim and len(tensor) == BATCH else tensor

    return {name: _mapped(apply, value) for name, value in arguments.items()}


def _options(function: Callable[..., Any]) -> dict[str, tuple[str, Any]]:
    """Return {name: (annotation, default)} of what a recipe may say."""
    keywords = inspect.signature(function).parameters.values()
    return {
        one.name: (str(one.annotation), one.default)
        for one in keywords
        if one.kind is one.KEYWORD_ONLY
        and one.name not in ("reduction", "samples")
        and "Tensor" not in str(one.annotation)
    }


def _public(family: ModuleType) -> set[str]:
    own = inspect.getmembers(family, inspect.isfunction)
    return {name for name, one in own if one.__module__ == family.__name__ and not name.startswith("_")}


FAMILIES = _families()
LOSSES = [Loss(name, module) for module in FAMILIES.values() for name in module.SETTINGS]
every = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


@every
def test_the_student_gets_a_gradient_and_the_teacher_none(loss):
    student, teacher = loss.pair(dtype=torch.float64)
    for tensor in (*_tensors(student), *_tensors(teacher)):
        tensor.requires_grad_(True)
    loss(loss.arguments(student, teacher)).backward()
    for tensor in _tensors(student):
        assert bool(torch.isfinite(tensor.grad).all())
        assert bool((tensor.grad.flatten(1).abs().sum(1) > 0).all()), "a sample without gradient"
    assert all(tensor.grad is None for tensor in _tensors(teacher))


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.name not in CONSTANT], ids=lambda loss: loss.name)
def test_the_gradient_is_that_of_the_value(loss):
    """Against differences of the value, in float64, along a direction."""
    student, teacher = loss.pair(seed=1, dtype=torch.float64)
    for tensor in _tensors(student):
        tensor.requires_grad_(True)
    generator = torch.Generator().manual_seed(2)
    steps = [torch.randn(x.shape, generator=generator, dtype=x.dtype) * 1e-6 for x in _tensors(student)]
    loss(loss.arguments(student, teacher)).backward()
    expected = sum(float((x.grad * step).sum()) for x, step in zip(_tensors(student), steps, strict=True))

    def moved(sign: int) -> float:
        at = [x.detach() + sign * step for x, step in zip(_tensors(student), steps, strict=True)]
        return float(loss(loss.arguments(at if loss.together else at[0], teacher)).detach())

    assert (moved(1) - moved(-1)) / 2 == pytest.approx(expected, rel=1e-3, abs=1e-12)


@every
def test_the_mean_is_that_of_the_values_per_sample(loss):
    arguments = loss.arguments(*loss.pair(dtype=torch.float64))
    per_sample, mean = loss(arguments, reduction="none"), loss(arguments, reduction="mean")
    assert per_sample.shape == (BATCH,)
    assert mean.shape == ()
    torch.testing.assert_close(per_sample.mean(), mean)
    torch.testing.assert_close(loss(arguments), mean)


@every
def test_the_order_of_the_batch_is_that_of_the_values(loss):
    arguments = loss.arguments(*loss.pair(dtype=torch.float64))
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(1))
    there = loss(_batchwise(lambda tensor: tensor[order], arguments), reduction="none")
    torch.testing.assert_close(there, loss(arguments, reduction="none")[order])


@every
def test_a_batch_with_every_sample_twice(loss):
    arguments = loss.arguments(*loss.pair(dtype=torch.float64))
    once = loss(arguments, reduction="none")
    twice = loss(_batchwise(lambda tensor: torch.cat((tensor, tensor)), arguments), reduction="none")
    if loss.name in COUNTS:
        assert float((twice - torch.cat((once, once))).detach().abs().max()) > 1e-6
    else:
        torch.testing.assert_close(twice, torch.cat((once, once)) * FACTORS.get(loss.name, 1), rtol=1e-5, atol=1e-12)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["mixed", "equal rows", "all alike"])
def test_values_of_1e4_give_a_finite_loss_and_gradient(loss, dtype, kind):
    def saturated(size: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
        values = (torch.randint(-1, 2, size, generator=generator) * 1e4).to(dtype)
        if kind == "equal rows":
            return values[:1].repeat(len(values), *[1] * (values.ndim - 1))
        return torch.full_like(values, 1e4) if kind == "all alike" else values

    student, teacher = loss.pair(make=saturated)
    if loss.parts is not None:  # what is learned is float32, and so is what it makes of the features
        student, teacher = _mapped(Tensor.float, student), _mapped(Tensor.float, teacher)
    for tensor in _tensors(student):
        tensor.requires_grad_(True)
    value = loss(loss.arguments(student, teacher))
    value.backward()
    assert value.dtype == torch.float32
    assert bool(torch.isfinite(value))
    assert all(bool(torch.isfinite(tensor.grad).all()) for tensor in _tensors(student))


@every
def test_half_precision_and_autocast_lose_nothing_but_the_digits_of_the_arguments(loss):
    student, teacher = loss.pair()
    student, teacher = (_mapped(lambda x: x.bfloat16().float(), side) for side in (student, teacher))
    arguments = loss.arguments(student, teacher)
    exact = loss(arguments)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(arguments), exact)
    if loss.parts is None:
        torch.testing.assert_close(
            loss(loss.arguments(*(_mapped(Tensor.bfloat16, x) for x in (student, teacher)))), exact
        )


@every
def test_a_nan_is_not_hidden(loss):
    student, teacher = loss.pair()
    _first(student).view(-1)[3] = float("nan")
    assert bool(loss(loss.arguments(student, teacher)).isnan())


@every
def test_wrong_shapes_are_refused(loss):
    arguments = loss.arguments(*loss.pair())
    if loss.name not in UNPAIRED:
        with pytest.raises(ValueError, match=r"\(6,"):
            loss({**arguments, "student": _mapped(lambda tensor: tensor[:-1], arguments["student"])})
    flat = _mapped(lambda tensor: tensor.flatten(1)[:, 0], arguments["student"])
    with pytest.raises(ValueError, match=r"\(7,\)"):
        loss({**arguments, "student": flat})
    if loss.name in getattr(loss.family, "EQUAL_SHAPES", ()):
        with pytest.raises(ValueError, match=r"\(7, \d"):
            loss({**arguments, "student": arguments["student"][:, :-1]})
    if "targets" in arguments:
        with pytest.raises(ValueError, match="targets"):
            loss({**arguments, "targets": arguments["targets"][:-1]})


@every
def test_values_outside_an_option_s_range_are_refused(loss):
    arguments = loss.arguments(*loss.pair())
    wrong = {"Temperature": 0.0, "Positive": 0.0, "NonNegative": -1.0, "Share": 1.5, "PositiveInt": 0}
    for option, (annotation, _) in {**_options(loss.function), "reduction": ("Literal", "")}.items():
        value = "nonsense" if annotation.startswith("Literal") else wrong.get(annotation)
        if value is not None:
            with pytest.raises(ValueError, match=option):
                loss(arguments, **{option: value})


@each_family
def test_settings_name_every_loss_and_the_constants_are_literals(family):
    public = _public(family)
    parts = {name for name in public if name.endswith("_parts")}
    assert public - parts == set(family.SETTINGS)
    assert {name.removesuffix("_parts") for name in parts} <= set(family.SETTINGS)
    assert set(getattr(family, "EQUAL_SHAPES", ())) <= set(family.SETTINGS)
    aliases = getattr(family, "ALIASES", {})
    assert set(aliases.values()) <= set(family.SETTINGS)
    assert family.ON in ("answers", "features")
    usual = getattr(family, "DEFAULT_LAYER", None)
    assert (usual is None) == (family.ON == "answers")
    if usual is not None:
        layers = {usual} if isinstance(usual, str) else set(usual.values())
        assert layers <= {"map", "embedding"}
        assert isinstance(usual, str) or set(usual) == set(family.SETTINGS)
    for setting in family.SETTINGS.values():
        assert setting["weight"] > 0
        assert set(setting) <= {"weight", "labels"}
        assert 0 <= setting.get("labels", 1) <= 1
    literals = {}
    for node in ast.parse(Path(family.__file__).read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and not target.id.startswith("_"):
            literals[target.id] = ast.literal_eval(node.value)
    assert literals["SETTINGS"] == family.SETTINGS
    assert {name: getattr(family, name) for name in literals} == literals


def test_no_two_families_use_one_name():
    names = [name for module in FAMILIES.values() for name in (*module.SETTINGS, *getattr(module, "ALIASES", {}))]
    assert len(names) == len(set(names))
    assert {"kd", "dkd", "dist", "sp", "cc", "rkd_distance", "rkd_angle", "pkt"} <= set(names)


@every
def test_the_signature_is_a_schema(loss):
    parameters = inspect.signature(loss.function).parameters
    assert list(parameters)[:2] == ["student", "teacher"]
    assert all(one.kind is one.KEYWORD_ONLY for one in list(parameters.values())[2:])
    assert parameters["reduction"].annotation == "Reduction"
    assert parameters["reduction"].default == "mean"
    options, making = _options(loss.function), _options(loss.parts) if loss.parts else {}
    for name, (annotation, default) in (*options.items(), *making.items()):
        assert name not in ("weight", "schedule", "over", "layers"), f"{name} is what every term has"
        for one in annotation.split(" | "):
            assert re.fullmatch(
                r"bool|int|float|str|None|Literal\[.*\]|tuple\[float, \.\.\.\]"
                r"|Positive|NonNegative|Share|PositiveInt|Temperature",
                one,
            ), f"{name}: {annotation}"
        assert ast.literal_eval(repr(default)) == default
    assert all(options[name] == making[name] for name in options.keys() & making.keys())
