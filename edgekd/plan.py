"""From a recipe and devices to steps, each with its key; what is cached, what will run, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgekd import artifact, plugin
from edgekd import data as datasets
from edgekd.artifact import Artifact, Store
from edgekd.data import Data
from edgekd.device import Device, Scheme, scheme
from edgekd.device import problems as device_problems
from edgekd.document import suggest
from edgekd.errors import UsageError
from edgekd.options import Network
from edgekd.recipe import Recipe
from edgekd.shipped import shipped_modules
from edgekd.stage import Stage, threads
from edgekd.stages import declared
from edgekd.tasks import shipped_tasks


@dataclass(frozen=True)
class Step:
    """One run of one stage.

    Args:
        label: unique name, "quantize[u8]".
        variant: the variant that it makes or works on.
        needs: for each role the label of the step that makes it.
        context: what enters the key from outside the recipe.
    """

    label: str
    name: str
    stage: Stage
    variant: str
    needs: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A step with its state: the artifact if it is cached, else the reason why it will run."""

    step: Step
    artifact: Artifact | None
    reason: str


def schemes(devices: Mapping[str, Device]) -> dict[str, Scheme]:
    """Return the quantization scheme of each device, for the processor at hand."""
    return {name: scheme(device.quantization) for name, device in devices.items()}


def steps(recipe: Recipe, devices: Mapping[str, Device]) -> list[Step]:
    """Return the steps of a run in order, without the measurements."""
    distinct = {found.label: found for found in schemes(devices).values()}
    context = {"max_opset": min(device.max_opset for device in devices.values()), "recipe": recipe.name}
    made: list[Step] = []
    models: dict[str, str] = {}
    """The step that made each variant; the last one is the newest."""
    files: dict[str, str] = {}
    for name, (stage, _) in declared().items():
        if recipe.options(name) is None or stage.per == "device":
            continue
        if stage.per == "run":
            made.append(Step(name, name, stage, stage.makes or "", _needs(stage, models, newest=_last(models))))
            models |= {stage.makes: name} if stage.makes else {}
        elif stage.per == "scheme":
            source = _last(models)
            for label, found in distinct.items():
                variant, step = f"{stage.makes}-{label}", f"{name}[{label}]"
                needs = _needs(stage, models, newest=source)
                made.append(Step(step, name, stage, variant, needs, {"scheme": found.model_dump()}))
                models[variant] = step
        else:
            for variant, label in models.items():
                needs = {"model": label} | ({"onnx": files[variant]} if "onnx" in stage.consumes else {})
                made.append(Step(f"{name}[{variant}]", name, stage, variant, needs, context))
            if name == "export":
                files = {step.variant: step.label for step in made if step.name == name}
    return made


def _last(models: Mapping[str, str]) -> str:
    return list(models.values())[-1] if models else ""


def _needs(stage: Stage, models: Mapping[str, str], newest: str) -> dict[str, str]:
    return {role: newest if role == "model" else models[role] for role in stage.consumes}


def variants(device_scheme: Scheme, made: Sequence[Step]) -> dict[str, str]:
    """Return the variants that a device measures, each with the variant of the steps: "int8" is its own scheme's."""
    found = {}
    for step in made:
        if step.stage.makes is None:
            continue
        if step.stage.per != "scheme":
            found[step.variant] = step.variant
        elif step.variant.endswith(f"-{device_scheme.label}"):
            found[step.stage.makes] = step.variant
    return found


def check(recipe: Recipe, devices: Mapping[str, Device], data_dir: Path | None) -> None:
    """Check before any work what can be checked: names, arguments, files, data, runtimes.

    Raises:
        UsageError: with all problems at once.
    """
    problems = [*_network_problems(recipe), *_task_problems(recipe), *device_problems(devices)]
    try:
        datasets.describe(recipe.data.source, data_dir)
    except UsageError as error:
        problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))


def _network_problems(recipe: Recipe) -> Iterator[str]:
    for role, network in networks(recipe).items():
        known = shipped_modules("models")
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


def _task_problems(recipe: Recipe) -> Iterator[str]:
    if ":" in recipe.task:
        try:
            plugin.locate(recipe.task)
        except UsageError as error:
            yield f"task: {error}"
    elif recipe.task not in shipped_tasks():
        known = shipped_tasks()
        yield f"task: no task {recipe.task!r}{suggest(recipe.task, known)} (shipped: {', '.join(known)})"


def networks(recipe: Recipe) -> dict[str, Network]:
    """Return the recipe's networks by role."""
    return {"teacher": recipe.teacher} | ({"student": recipe.student} if recipe.student else {})


def factory(network: Network) -> str:
    """Return the "package.module:function" that builds a network."""
    return network.model if ":" in network.model else f"edgekd.models.{network.model}:build"


def parts(step: Step, recipe: Recipe, data: Data, inputs: Mapping[str, Artifact], compute: str) -> dict[str, Any]:
    """Return everything that a step's result depends on; its digest is the artifact's key."""
    stage = step.stage
    read = {name: recipe.options(name) for name in (step.name, *stage.reads)}
    own = [block.model for block in read.values() if isinstance(block, Network)]
    return {
        "stage": step.name,
        "version": stage.version,
        "options": {name: _dump(block) for name, block in read.items()},
        "inputs": {role: found.digest for role, found in inputs.items()},
        "data": data.digest,
        "task": recipe.task,
        "plugins": _plugin_digests([*own, recipe.task], inputs),
        "seed": recipe.seed,
        "packages": {name: _version(name) for name in stage.packages},
        "compute": {"kind": compute, "threads": threads()} if stage.trains else {},
        "context": dict(step.context),
    }


def _dump(block: Any) -> Any:
    if block is None:
        return None
    content = block.model_dump(mode="json")
    if isinstance(block, Network) and block.weights is not None:
        content["weights"] = artifact.file_digest(block.weights)
    return content


def _plugin_digests(names: Sequence[str], inputs: Mapping[str, Artifact]) -> dict[str, str]:
    """Return the digests of the users' functions that a step runs: its own, and those that rebuild its inputs."""
    inherited = {name: digest for found in inputs.values() for name, digest in found.parts["plugins"].items()}
    return inherited | {name: plugin.locate(name).source_digest for name in names if ":" in name}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def compute_kind(asked: str) -> str:
    """Return "cuda" or "cpu", without importing torch."""
    if asked != "auto":
        return asked
    driver = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
    return "cuda" if driver and not _version("torch").endswith("+cpu") else "cpu"


def plan(store: Store, recipe: Recipe, devices: Mapping[str, Device], data: Data, compute: str) -> list[Planned]:
    """Return each step with its state, computing nothing."""
    known: dict[str, Artifact] = {}
    found = []
    for step in steps(recipe, devices):
        waiting = [label for label in step.needs.values() if label not in known]
        cached, reason = None, f"needs {', '.join(waiting)}, which will run"
        if not waiting:
            own = parts(step, recipe, data, {role: known[label] for role, label in step.needs.items()}, compute)
            key = artifact.digest_of(own)
            cached = artifact.find(store, step.name, key)
            reason = "" if cached else why(store, step.name, key, own)
        if cached:
            known[step.label] = cached
        found.append(Planned(step, cached, reason))
    return found


def missing_packages(planned: Sequence[Planned]) -> list[str]:
    """Return the distributions that steps need which will run, and that are not installed."""
    needed = {package for one in planned if one.artifact is None for package in one.step.stage.packages}
    return sorted(package for package in needed if _version(package) == "absent")


def why(store: Store, stage: str, key: str, own: Mapping[str, Any]) -> str:
    """Return why no artifact has this key: what differs from the nearest one."""
    if (store.root / "partial" / artifact.folder_name(stage, key) / artifact.CHECKPOINT).is_dir():
        return "was interrupted; goes on from its checkpoint"
    wanted = _flat(own)
    nearest: list[str] | None = None
    for path in (store.root / "artifacts").glob(f"{stage}-*"):
        try:
            other = _flat(artifact.read(path).parts)
        except (OSError, ValueError, KeyError):  # one that is corrupted explains nothing
            continue
        differing = sorted(name for name in wanted.keys() | other.keys() if wanted.get(name) != other.get(name))
        if nearest is None or len(differing) < len(nearest):
            nearest = [f"{name}: {other.get(name, 'absent')} -> {wanted.get(name, 'absent')}" for name in differing]
    if nearest is None:
        return "never made"
    return "changed: " + "; ".join(nearest[:3]) + (f"; and {len(nearest) - 3} more" if len(nearest) > 3 else "")


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Return {"options.student.width": "8", ...}, with digests shortened."""
    if isinstance(value, Mapping):
        found: dict[str, str] = {}
        for name, item in value.items():
            found |= _flat(item, f"{prefix}.{name}" if prefix else str(name))
        return found
    text = str(value)
    return {prefix.removeprefix("options."): text[:12] if len(text) == 64 else text}
