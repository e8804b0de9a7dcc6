"""Check models before they are shipped: is each file sound, and does it still do what its reference does?"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd import artifact, pipeline, profiles, steps
from edgekd import plan as planning
from edgekd.agent import backends
from edgekd.artifact import Artifact, Store
from edgekd.benchmark import bench
from edgekd.dispatch import placing
from edgekd.errors import UsageError
from edgekd.making import Show
from edgekd.options import Teacher
from edgekd.profiles import Handling
from edgekd.recipe import Gates, Recipe, find, shipped_recipes
from edgekd.report.gates import evaluate
from edgekd.stages.measure import Options as Measuring
from edgekd.validation import results, runner, tolerance
from edgekd.validation.checks import Check
from edgekd.validation.feeding import feed
from edgekd.validation.runner import Asked, Result, open_reference
from edgekd.validation.target import Target

DEFAULT_AXIS = 32


@dataclass(frozen=True)
class Validation:
    """A finished validation: the content of its JSON form, and the exit code that the command line returns."""

    content: Mapping[str, Any]
    exit_code: int


def validate(
    models: Sequence[Path | str],
    against: Path | str,
    *,
    data: str | None = None,
    samples: int | None = None,
    tolerances: Sequence[str] = (),
    precision: str | None = None,
    max_drop_pp: float | None = None,
    gates: Gates | None = None,
    device: str | None = None,
    handling: Handling | None = None,
    bisect: bool = False,
    quick: bool = False,
    store: Path | None = None,
    data_dir: Path | None = None,
    show: Show | None = None,
) -> Validation:
    """Check ONNX files against a reference (docs/validation.md lists the checks).

    Args:
        models: the files, made by any exporter.
        against: an ONNX file, or a recipe, whose teacher is taken from the store.
        data: a recipe, a data source, an .npz or a folder of .npy files with an array for each input and `labels`.
            Default: random inputs, which is said everywhere; accuracy is then not measured.
        samples: how many at most. Default: all of the test split, or 64 random ones.
        tolerances: "auto" (by precision), "off", a precision, or "NAME=VALUE" such as "sqnr=20".
        precision: what the models are to be in, such as "int8". Default: what is found.
        max_drop_pp: percentage points of the task's score that may be lost.
        gates: limits on size and latency; those on latency are measured on the device.
        device: a profile's name or file. Default: ONNX Runtime on this machine, without limits of a device.
        handling: how the device is reached, where latency is measured.
        bisect: find the first node that departs where a model's answers do.
        quick: measure latency briefly.

    Raises:
        UsageError: a file is not there, the reference is broken, or the inputs do not fit.
        DeviceError: latency was asked for and the device cannot be reached.
    """
    show = show or Show()
    gates = gates or Gates()
    files = [Path(model) for model in models]
    _check(files, tolerances)
    reference = open_reference(_reference(str(against), store, data_dir, show))
    axes = {
        str(size): DEFAULT_AXIS for port in reference.inputs for size in port.shape[1:] if isinstance(size, str)
    }  # fmt: skip
    given = feed(reference.inputs, data, data_dir, samples, axes)
    where = _target(device, handling or Handling())
    asked = Asked(tuple(tolerances) or (tolerance.AUTO,), precision, max_drop_pp, gates.max_size_mb, bisect)
    found = runner.run(files, reference, given, where, asked, show.working("validate"))
    absent = False
    if _timed(gates):
        found, absent = _with_latency(found, reference.path, device or "cpu", handling, gates, quick, show)
    content = results.content(found, str(against), given, where, absent)
    return Validation(content, content["exit_code"])


def _check(files: Sequence[Path], tolerances: Sequence[str]) -> None:
    """Raise what is wrong with the request, all at once."""
    problems = [f"{path}: there is no such file" for path in files if not path.is_file()]
    if not files:
        problems.append("no model was named: edgekd validate MODEL.onnx... --against REFERENCE")
    try:
        tolerance.check(tolerances)
    except UsageError as error:
        problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))


def _target(device: str | None, handling: Handling) -> Target:
    """Return where the models are to run, and whether that can be asked here."""
    if device is None:
        return Target()
    devices = profiles.load_devices([device], handling.at)
    (name,) = devices
    profile = devices[name]
    target = Target(name, profile.backend, profile.options, profile.max_opset, named=True)
    if profile.address or profile.python:
        return replace(target, absent=f"{name} has its runtime elsewhere")
    places, problems = placing.place({name: profile})
    if problems or places[name].pending:
        why = problems[0] if problems else places[name].why
        return replace(target, absent=why)
    if backends.load(profile.backend).FIXED_SHAPES:
        return replace(target, absent=f"{profile.backend} builds engines for one shape, which `edgekd bench` does")
    return target


# ---- a recipe's teacher


def _reference(against: str, store: Path | None, data_dir: Path | None, show: Show) -> Path:
    """Return the ONNX file to compare with; of a recipe, its teacher's.

    Raises:
        UsageError: the recipe's teacher was never made here.
    """
    if not against.endswith((".yaml", ".yml")) and (Path(against).exists() or against not in shipped_recipes()):
        return Path(against)
    find(against)
    recipe = Recipe.load(against)
    role = steps.reference(recipe)
    network = recipe.networks().get(role)
    if isinstance(network, Teacher) and network.onnx is not None:
        return network.onnx
    shop = pipeline.open_workshop(recipe, store=store, data_dir=data_dir, show=show)
    planned = planning.plan(shop.store, recipe, steps.steps(recipe, {}), shop.data, shop.compute)
    teacher = next(one for one in planned if one.step.name in ("teacher", "choose") and one.step.variant == role)
    if teacher.artifact is None:
        raise UsageError(
            f"--against {against}: its teacher is not in the store {shop.store.root} ({teacher.reason}): "
            f"run edgekd pipeline {against} first, or name an ONNX file"
        )
    exported = _exported(shop.store, teacher.artifact)
    if exported is None:
        raise UsageError(
            f"--against {against}: its teacher is in the store {shop.store.root}, but was never exported: "
            f"run edgekd pipeline {against} to its end, or name an ONNX file"
        )
    return exported


def _exported(store: Store, teacher: Artifact) -> Path | None:
    """Return the newest export of a network: its opset depends on the devices of the run that made it."""
    found = []
    for path in (store.root / "artifacts").glob("export-*"):
        if artifact.check(path) is None:
            one = artifact.read(path)
            if one.parts["inputs"].get("model") == teacher.digest:
                found.append((path.stat().st_mtime, one.path / one.facts["file"]))
    return max(found)[1] if found else None


# ---- latency, by the ordinary measurement


def _timed(gates: Gates) -> dict[str, float]:
    """Return the gates on latency that were set."""
    names = ("min_speedup", "max_p50_ms", "max_p99_ms")
    return {name: value for name in names if (value := getattr(gates, name)) is not None}


def _with_latency(
    found: Sequence[Result],
    reference: Path,
    device: str,
    handling: Handling | None,
    gates: Gates,
    quick: bool,
    show: Show,
) -> tuple[list[Result], bool]:
    """Return results with their latency, and whether the device could not be reached."""
    judged, absent = [], False
    for result in found:
        if result.precision is None or any(check.id == "run" and check.status != "passed" for check in result.checks):
            judged.append(result)
            continue
        checks, missing = _latency(result.path, reference, device, handling, gates, quick, show)
        absent = absent or missing
        kept = [check for check in result.checks if check.id != "latency"]
        judged.append(replace(result, checks=(*kept, *checks)))
    return judged, absent


def _latency(
    model: Path, reference: Path, device: str, handling: Handling | None, gates: Gates, quick: bool, show: Show
) -> tuple[list[Check], bool]:
    with tempfile.TemporaryDirectory(prefix="edgekd-validate-") as folder:
        measured = bench(
            [model], device, handling=handling, against=reference, measuring=Measuring(quick=quick),
            out=Path(folder) / "run", show=show,
        )  # fmt: skip
    (report,) = measured.report["devices"].values()
    error = report["error"]
    candidates = [name for name in report["variants"] if name != measured.report["reference"]]
    checks = []
    for name, limit in _timed(gates).items():
        if error or not candidates:
            why = error["message"] if error else "the measurement holds no such model"
            checks.append(Check("latency", "not_measured", why, name, limit=limit, remedy="see edgekd bench"))
            continue
        variants = report["variants"]
        gate = evaluate(name, limit, variants[candidates[0]], variants[measured.report["reference"]], {})
        remedy = "edgekd explain says why it is as slow as it is"
        checks.append(
            Check("latency", gate["status"], gate["reason"], name, gate["value"], limit, gate["unit"], remedy)
        )
    return checks, bool(error) and error["kind"] in ("pending", "unreachable")
