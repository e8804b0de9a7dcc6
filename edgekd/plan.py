"""The key of each step; what is cached, what will run, and why."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgekd import artifact, plugin
from edgekd.agent.sealing import digest_of
from edgekd.artifact import Artifact, Store
from edgekd.data import Data
from edgekd.graph import lint
from edgekd.options import Network
from edgekd.recipe import Recipe
from edgekd.stage import threads
from edgekd.steps import Step


@dataclass(frozen=True)
class Planned:
    """A step with its state: the artifact if it is cached, else the reason why it will run."""

    step: Step
    artifact: Artifact | None
    reason: str


@dataclass(frozen=True)
class Compute:
    """What networks are trained on.

    Args:
        kind: "cpu" or "cuda".
        rank: which of the processes that train together this is; the first one, 0, does all else alone.
        processes: how many there are (torchrun says so in the environment).
        accelerate: digest of Accelerate's configuration.
    """

    kind: str
    rank: int = 0
    processes: int = 1
    accelerate: str | None = None

    def parts(self) -> dict[str, Any]:
        """Return what the result of a training depends on."""
        several = {"processes": self.processes} if self.processes > 1 else {}
        configured = {"accelerate": self.accelerate} if self.accelerate else {}
        return {"kind": self.kind, "threads": threads(), **several, **configured}


def data_seed(recipe: Recipe) -> int:
    """Return the seed of what belongs to the data: which samples, which views of them."""
    return recipe.seed if recipe.data.seed is None else recipe.data.seed


def seen(step: Step, data: Data) -> Data:
    """Return the data as a step sees them: a teacher learns from the classes too that students never see."""
    return data.whole if step.stage.per == "teacher" and data.whole is not None else data


def parts(step: Step, recipe: Recipe, data: Data, inputs: Mapping[str, Artifact], compute: Compute) -> dict[str, Any]:
    """Return everything that a step's result depends on; its digest is the artifact's key."""
    stage = step.stage
    read = {name: step.block(recipe, name) for name in (step.name, *stage.reads)}
    own = [block.model for block in read.values() if isinstance(block, Network) and block.model]
    return {
        "stage": step.name,
        "version": stage.version,
        "options": {name: _dump(block) for name, block in read.items()},
        "inputs": {role: found.digest for role, found in inputs.items()},
        "data": seen(step, data).digest,
        "task": recipe.task,
        "plugins": _plugin_digests([*own, recipe.task], inputs),
        "seed": {"data": data_seed(recipe), **({"run": recipe.seed} if stage.seeded else {})},
        "packages": {name: _version(name) for name in stage.packages},
        "compute": compute.parts() if stage.trains else {},
        "context": dict(step.context),
    }


def _dump(block: Any) -> Any:
    if block is None:
        return None
    content = block.model_dump(mode="json")
    if isinstance(path := getattr(block, "weights", None), Path):
        content["weights"] = artifact.file_digest(path)
    if isinstance(path := getattr(block, "onnx", None), Path):
        content["onnx"] = digest_of([artifact.file_digest(file) for file in lint.files(path)])
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


def computing(asked: str, accelerate_config: Path | None = None) -> Compute:
    """Return what networks are trained on, without importing torch.

    Args:
        asked: "auto", "cpu" or "cuda".
        accelerate_config: a configuration of Accelerate, for training in parts (FSDP, DeepSpeed).
    """
    found = "cuda" if nvidia_driver() and not _version("torch").endswith("+cpu") else "cpu"
    digest = artifact.file_digest(accelerate_config) if accelerate_config else None
    rank, processes = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    return Compute(found if asked == "auto" else asked, rank, processes, digest)


def nvidia_driver() -> bool:
    """Return whether this machine has a driver for NVIDIA cards."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def plan(store: Store, recipe: Recipe, made: Sequence[Step], data: Data, compute: Compute) -> list[Planned]:
    """Return each step with its state, computing nothing."""
    known: dict[str, Artifact] = {}
    found = []
    for step in made:
        waiting = [label for label in step.needs.values() if label not in known]
        cached, reason = None, f"needs {', '.join(waiting)}, which will run"
        if not waiting:
            own = parts(step, recipe, data, {role: known[label] for role, label in step.needs.items()}, compute)
            key = digest_of(own)
            cached = artifact.find(store, step.name, key)
            reason = "" if cached else why(store, step.name, key, own)
        if cached:
            known[step.label] = cached
        found.append(Planned(step, cached, reason))
    return found


def installed(package: str) -> bool:
    """Return whether a distribution is installed."""
    return _version(package) != "absent"


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
