"""What can be checked of a recipe before any work: names, arguments, files, data, runtimes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgekd import data as datasets
from edgekd import plugin, tracking
from edgekd.device import Device
from edgekd.dispatch.placing import Place
from edgekd.document import suggest
from edgekd.errors import EdgekdError, UsageError
from edgekd.graph import four_bits
from edgekd.graph.lint import inspect
from edgekd.options import Network, Teacher
from edgekd.recipe import Recipe
from edgekd.shipped import shipped_modules
from edgekd.stages.budget import Options as Budget
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.quantize import Options as Quantization
from edgekd.stages.targets import Options as Targets
from edgekd.steps import left_out, why_no_targets
from edgekd.tasks import shipped_tasks


def check(recipe: Recipe, found: Sequence[str], data_dir: Path | None) -> None:
    """Check a recipe.

    Args:
        found: what else is wrong, with the devices; all is told together.

    Raises:
        UsageError: with all problems at once.
    """
    problems = [
        *_network_problems(recipe),
        *_distillation_problems(recipe),
        *_compression_problems(recipe),
        *_task_problems(recipe),
        *tracking.problems(recipe.tracking),
        *found,
    ]
    try:
        datasets.describe(recipe.data.source, data_dir)
    except UsageError as error:
        problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))


def device_problems(recipe: Recipe, devices: Mapping[str, Device]) -> Iterator[str]:
    """Yield what a recipe asks for and the runtime of a device does not take."""
    options = recipe.options("quantize")
    if not isinstance(options, Quantization):
        return
    for name, device in devices.items():
        if set(left_out(recipe, device)) == set(options.mode):
            yield (
                f"quantize.mode: {', '.join(options.mode)}: {name} ({device.backend}) does not quantize activations at "
                "run time, by its profile (quantization.dynamic); take ptq, qat or mixed"
            )
    if options.weights_bits == 4 and options.buckets is None:
        for name, device in devices.items():
            if device.max_opset < four_bits.OPSET:
                yield f"quantize.weights_bits: {name} ({device.backend}): {four_bits.too_old(device.max_opset)}"


def budget_problems(recipe: Recipe, places: Mapping[str, Place], processes: int) -> Iterator[str]:
    """Yield what a run does not let its budget do."""
    options = recipe.options("budget")
    if not isinstance(options, Budget):
        return
    for name in options.devices(tuple(places)):
        if name not in places:
            yield f"budget.device: no device {name!r} in this run{suggest(name, places)} (it has {', '.join(places)})"
        elif places[name].pending:
            yield f"budget.device: the search measures on {name} again and again, and {places[name].why}"
    if processes > 1:
        yield "budget: a search trains one small network after the other, in one process; start it without torchrun"


def _network_problems(recipe: Recipe) -> Iterator[str]:
    for role, network in recipe.networks().items():
        known = shipped_modules("models")
        if isinstance(network, Teacher) and network.onnx is not None:
            yield from _onnx_problems(role, network.onnx)
            continue
        if ":" not in network.model and network.model not in known:
            yield (
                f"{role}.model: no network {network.model!r}{suggest(network.model, known)} "
                f'(shipped: {", ".join(known)}; or "package.module:function")'
            )
            continue
        try:
            found = plugin.locate(factory(network))
        except UsageError as error:
            yield f"{role}.model: {error}"
            continue
        given = network.arguments() | ({} if ":" in network.model else {"input_shape": (), "classes": 0})
        yield from (f"{role}: {problem}" for problem in plugin.check_arguments(found, given))
        if network.weights is not None and not network.weights.is_file():
            yield f"{role}.weights: {network.weights}: there is no such file"


def _onnx_problems(role: str, path: Path) -> Iterator[str]:
    """A black box must be one that can be asked: one input, one output of one row of answers per sample."""
    if not path.is_file():
        yield f"{role}.onnx: {path}: there is no such file"
        return
    try:
        graph = inspect(path)
    except EdgekdError as error:
        yield f"{role}.onnx: {error}"
        return
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        if len(values) != 1:
            yield f"{role}.onnx: {path} has {len(values)} {kind}s; a teacher has one"


def _distillation_problems(recipe: Recipe) -> Iterator[str]:
    distillation, targets = recipe.options("distill"), recipe.options("targets")
    if not isinstance(distillation, Distillation):
        return
    boxes = _boxes(recipe)
    learners = {role: net for role, net in recipe.networks().items() if not role.startswith("teacher")}
    mixed = [role for role, network in learners.items() if network.augment.mixup or network.augment.cutmix]
    for term in distillation.terms():
        if term.loss.on == "features" and boxes:
            yield (
                f"distill.losses: {term.loss.name} asks for features, and {boxes[0]} is an ONNX file, of which only "
                "the answers are known; use losses on answers (kd, dkd, dist, ...), or give the network itself as model"
            )
        if term.loss.targets and mixed:
            yield f"distill.losses: {term.loss.name} needs one label per sample; remove {mixed[0]}'s mixup and cutmix"
    if isinstance(targets, Targets) and (targets.keep == "always" or targets.top):
        for role, network in learners.items():
            reason = why_no_targets(recipe, network)
            if reason is not None:
                yield f"targets: the answers of the {role}'s teacher cannot be kept: {reason}; or set targets: false"


def _compression_problems(recipe: Recipe) -> Iterator[str]:
    changing = [name for name in ("prune", "factorize", "quantize") if recipe.options(name) is not None]
    if recipe.options("distill") is None and _boxes(recipe) and changing:
        yield (
            f"{changing[0]}: the teacher is an ONNX file, which is taken as it is; give the network itself as model, "
            f"or a student to distill, or set {' and '.join(f'{name}: false' for name in changing)}"
        )


def _boxes(recipe: Recipe) -> list[str]:
    """Return the teachers that are ONNX files."""
    return [role for role, net in recipe.networks().items() if isinstance(net, Teacher) and net.onnx is not None]


def _task_problems(recipe: Recipe) -> Iterator[str]:
    if ":" in recipe.task:
        try:
            plugin.locate(recipe.task)
        except UsageError as error:
            yield f"task: {error}"
    elif recipe.task not in shipped_tasks():
        known = shipped_tasks()
        yield f"task: no task {recipe.task!r}{suggest(recipe.task, known)} (shipped: {', '.join(known)})"


def factory(network: Network) -> str:
    """Return the "package.module:function" that builds a network."""
    return network.model if ":" in network.model else f"edgekd.models.{network.model}:build"
