"""From a recipe and devices to steps: which stage runs how often, on what, and what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from edgekd.device import Device, Scheme, scheme
from edgekd.options import Augment, Network
from edgekd.recipe import AUTO, Recipe
from edgekd.stage import Stage
from edgekd.stages import declared
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.quantize import STAGES as QUANTIZING
from edgekd.stages.quantize import Options as Quantization
from edgekd.stages.targets import Options as Targets

NEED_ALL = frozenset({"logit_mse", "standardized_kd"})
"""Losses on all logits, and not on probabilities alone, of which the small ones hardly count."""


@dataclass(frozen=True)
class Step:
    """One run of one stage.

    Args:
        label: unique name, "quantize[int8-u8]".
        variant: the variant that it makes or works on.
        needs: for each role the label of the step that makes it.
        given: blocks that it works with instead of the recipe's own, such as which teacher's.
        context: what enters the key from outside the recipe.
        point: of a budget, that it is for; empty for what the recipe names itself.
    """

    label: str
    name: str
    stage: Stage
    variant: str
    needs: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, BaseModel] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    point: str = ""

    def block(self, recipe: Recipe, name: str) -> BaseModel | None:
        """Return a block of the recipe as this step sees it."""
        return self.given[name] if name in self.given else recipe.options(name)


@dataclass
class _Chain:
    """What was made so far, while the steps are laid out.

    Args:
        models: the step that made each variant that is exported; the last one is the newest.
        teaching: the step of every teacher that is listened to, by its role.
        targets: the step that keeps that teacher's answers.
        files: the export of each variant.
    """

    made: list[Step] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    teaching: dict[str, str] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def needs(self, stage: Stage) -> dict[str, str]:
        """Return the steps that a stage needs, by role."""
        newest = list(self.models.values())[-1] if self.models else ""
        of = {"teacher": self.teaching, "teachers": self.teaching, "targets": self.targets, "model": {"model": newest}}
        return {role: label for kind in stage.consumes for role, label in of[kind].items()}


def schemes(devices: Mapping[str, Device]) -> dict[str, Scheme]:
    """Return the quantization scheme of each device, for the processor at hand."""
    return {name: scheme(device.quantization) for name, device in devices.items()}


def steps(recipe: Recipe, devices: Mapping[str, Device]) -> list[Step]:
    """Return the steps of a run in order, without the measurements."""
    chain = _Chain()
    for name, (stage, _) in declared().items():
        if name != "teacher" and recipe.options(name) is None:
            continue
        if stage.per == "teacher":
            _teachers(chain, recipe, name, stage)
        elif stage.per == "lesson":
            _lessons(chain, recipe, name, stage)
        elif stage.per == "run" and not (name == "choose" and recipe.teacher != AUTO):
            _once(chain, name, stage)
        elif stage.per == "scheme":
            _quantized(chain, recipe, name, devices)
        elif stage.per == "variant":
            _per_variant(chain, recipe, name, stage, devices)
    return chain.made


def training_steps(recipe: Recipe) -> list[Step]:
    """Return the steps up to the student, or up to the teacher where there is none."""
    made = steps(recipe, {})
    last = max(index for index, step in enumerate(made) if step.name in ("teacher", "distill"))
    return made[: last + 1]


def variants(device: Device, made: Sequence[Step]) -> dict[str, str]:
    """Return the variants that a device measures, each with that of the steps: "int8" is its own scheme's."""
    exported = {step.variant for step in made if step.name == "export"}
    own = scheme(device.quantization).label
    found = {}
    for step in made:
        if step.stage.makes is None or step.variant not in exported:
            continue
        if step.stage.per != "scheme":
            found[step.variant] = step.variant
        elif step.variant.endswith(f"{step.stage.makes}-{own}") and _takes(device, step.stage):
            found[step.variant.removesuffix(f"-{own}")] = step.variant
    return found


def reference(recipe: Recipe) -> str:
    """Return the variant that the others are compared with: the teacher, the first one of several."""
    several = recipe.teachers and recipe.teacher != AUTO
    return f"teacher-{next(iter(recipe.teachers))}" if several else "teacher"


def _teachers(chain: _Chain, recipe: Recipe, name: str, stage: Stage) -> None:
    """One teacher, or several, of which all teach until one is chosen."""
    for role, network in recipe.networks().items():
        if not role.startswith("teacher"):
            continue
        own = role.removeprefix("teacher-")
        label = f"{name}[{own}]" if recipe.teachers else name
        chain.made.append(Step(label, name, stage, role, {}, {name: network}))
        chain.models[role] = label
        chain.teaching[f"teacher/{own}" if recipe.teachers else "teacher"] = label


def _lessons(chain: _Chain, recipe: Recipe, name: str, stage: Stage) -> None:
    """The student learns from the teachers; with assistants, through them."""
    learning = {role: net for role, net in recipe.networks().items() if not role.startswith("teacher")}
    for role, network in learning.items():
        label = name if role == "student" else f"{name}[{role}]"
        chain.targets = dict(_targets(chain, recipe, role, network))
        chain.made.append(Step(label, name, stage, role, chain.needs(stage), {"student": network}))
        if role == "student":
            chain.models[stage.makes or role] = label
        else:
            chain.teaching = {"teacher": label}


def _targets(chain: _Chain, recipe: Recipe, role: str, network: Network) -> Iterator[tuple[str, str]]:
    """Keep the answers of whoever teaches this network, where that pays."""
    if keeps_targets(recipe, network):
        stage, name = declared()["targets"].stage, "targets"
        views = number_of_views(network.augment)
        context = {"augment": network.augment.model_dump(mode="json"), "views": views, **_softening(recipe)}
        for teacher, label in chain.teaching.items():
            _, _, own = teacher.partition("/")
            marks = ", ".join(mark for mark in (own, role if role != "student" else "") if mark)
            step = f"{name}[{marks}]" if marks else name
            chain.made.append(Step(step, name, stage, "", {"teacher": label}, context=context))
            yield f"targets/{own}" if own else "targets", step


def _once(chain: _Chain, name: str, stage: Stage) -> None:
    chain.made.append(Step(name, name, stage, stage.makes or "", chain.needs(stage)))
    if stage.makes == "teacher":  # the one that was chosen; the others are done
        chain.models, chain.teaching = {}, {"teacher": name}
    if stage.makes:
        chain.models[stage.makes] = name


def _quantized(chain: _Chain, recipe: Recipe, name: str, devices: Mapping[str, Device]) -> None:
    """In every mode, for every scheme of the devices, from the same float network.

    The seed of a budget's search is no candidate: it has the modes that cost next to nothing, its points have all.
    """
    options = recipe.options(name)
    assert isinstance(options, Quantization)
    modes = [mode for mode in options.mode if mode in ("ptq", "dynamic") or recipe.options("budget") is None]
    needs = {mode: chain.needs(QUANTIZING[mode]) for mode in modes}
    for mode in modes:
        stage, own = QUANTIZING[mode], {name: _with_limit(options.of_mode(mode), recipe)}
        taking = {name: device for name, device in devices.items() if _takes(device, stage)}
        distinct = {found.label: found for found in schemes(taking).values()}
        for label, found in distinct.items():
            variant = f"{stage.makes}-{label}"
            step = f"{name}[{variant}]"
            chain.made.append(Step(step, name, stage, variant, needs[mode], own, {"scheme": found.model_dump()}))
            chain.models[variant] = step


def _takes(device: Device, stage: Stage) -> bool:
    """Return whether a device measures what a mode of quantization makes."""
    return stage is not QUANTIZING["dynamic"] or device.quantization.dynamic


def left_out(recipe: Recipe, device: Device) -> tuple[str, ...]:
    """Return the modes of quantization that are asked for and not made for a device."""
    options = recipe.options("quantize")
    modes = options.mode if isinstance(options, Quantization) else ()
    return tuple(mode for mode in modes if not _takes(device, QUANTIZING[mode]))


def remarks(recipe: Recipe, device: Device) -> list[str]:
    """Return what a reader should know of the variants that a device does not have."""
    return [
        f"{mode}: not made for this device, whose profile does not say that its runtime quantizes activations at run "
        "time (quantization.dynamic)"
        for mode in left_out(recipe, device)
    ]


def _with_limit(options: Quantization, recipe: Recipe) -> Quantization:
    """Return options whose limit of accuracy, where they have none of their own, is that of the gate."""
    limit = recipe.gates.max_drop_pp
    if options.mode != ("mixed",) or options.max_drop_pp is not None or limit is None:
        return options
    return options.model_copy(update={"max_drop_pp": limit})


def _per_variant(chain: _Chain, recipe: Recipe, name: str, stage: Stage, devices: Mapping[str, Device]) -> None:
    context = {"max_opset": min((device.max_opset for device in devices.values()), default=None), "recipe": recipe.name}
    for variant, label in chain.models.items():
        step = f"{name}[{variant}]"
        needs = {"model": label} | ({"onnx": chain.files[variant]} if "onnx" in stage.consumes else {})
        chain.made.append(Step(step, name, stage, variant, needs, context=context))
        if name == "export":
            chain.files[variant] = step


# ---- the teacher's answers: kept, or asked for in every step


def keeps_targets(recipe: Recipe, network: Network) -> bool:
    """Return whether the answers of a network's teachers are kept."""
    options = recipe.options("targets")
    if not isinstance(options, Targets) or why_no_targets(recipe, network) is not None:
        return False
    views, epochs = number_of_views(network.augment), network.epochs or 0
    return options.keep == "always" or (views is not None and views < epochs)


def _softening(recipe: Recipe) -> dict[str, Any]:
    """Return the temperature that matters to what is kept: none does where all the answers are."""
    options = recipe.options("targets")
    assert isinstance(options, Targets)
    return {"temperature": max(temperatures(recipe), default=1.0)} if options.top else {}


def temperatures(recipe: Recipe) -> set[float]:
    """Return the temperatures at which the losses look at the answers; 1 for a loss that has none."""
    distillation = recipe.options("distill")
    terms = distillation.terms() if isinstance(distillation, Distillation) else ()
    return {float(getattr(term.weighting, "temperature", 1.0)) for term in terms if term.loss.on == "answers"}


def why_no_targets(recipe: Recipe, network: Network) -> str | None:
    """Return why the answers of a network's teachers cannot be kept, or None where they can."""
    distillation = recipe.options("distill")
    assert isinstance(distillation, Distillation)
    features = [term.loss.name for term in distillation.terms() if term.loss.on == "features"]
    if not distillation.terms():
        return "no loss asks a teacher"
    if features:
        return f"{features[0]} needs the teacher's features, which are not kept"
    if network.augment.mixup or network.augment.cutmix:
        return "mixup and cutmix mix whatever a batch holds: no view comes twice"
    if number_of_views(network.augment) is None:
        return "augment makes a new view in every epoch; set augment.views to how many there shall be"
    options = recipe.options("targets")
    return _why_not_the_largest(recipe, distillation) if isinstance(options, Targets) and options.top else None


def _why_not_the_largest(recipe: Recipe, distillation: Distillation) -> str | None:
    for term in distillation.terms():
        if term.loss.name in NEED_ALL or getattr(term.weighting, "standardize", False):
            return f"{term.loss.name} looks at all logits, of which targets.top keeps the largest"
    if len(temperatures(recipe)) > 1:
        return "the losses have several temperatures, and the rest of the probability is kept at one"
    return None


def number_of_views(augment: Augment) -> int | None:
    """Return how many views of a sample there are: None where every epoch has a new one."""
    changed = augment.model_dump(exclude_defaults=True, exclude={"views"})
    return augment.views if changed else 1
