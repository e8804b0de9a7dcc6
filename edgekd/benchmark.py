"""Measure any ONNX files side by side on a device."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from edgekd import artifact, rundir
from edgekd import data as datasets
from edgekd import device as profiles
from edgekd.dispatch import job, local
from edgekd.errors import UsageError
from edgekd.graph.lint import GraphFacts, inspect
from edgekd.options import Data as DataOptions
from edgekd.pipeline import Result, Show
from edgekd.plan import runtime_problems
from edgekd.recipe import Gates, Recipe
from edgekd.report import build
from edgekd.stages.measure import Options as Measuring

RANDOM_SEED = 0
REFERENCE = "reference"


def bench(
    models: Sequence[Path | str],
    device: str = "cpu",
    *,
    against: Path | str | None = None,
    data: str | None = None,
    gates: Gates | None = None,
    measuring: Measuring | None = None,
    out: Path | str | None = None,
    store: Path | None = None,
    data_dir: Path | None = None,
    show: Show | None = None,
) -> Result:
    """Measure ONNX files on a device.

    Args:
        models: the files; a file's stem is its name in the report.
        against: the file that the others are compared with.
        data: a recipe whose data are the inputs, or a data source. Default: random inputs, which the report says;
            accuracy is then not measured.
        gates: what the recommended one must keep; needs `against`.

    Raises:
        UsageError: a file is no ONNX file, its inputs do not fit, or the device is unknown.
    """
    show = show or Show()
    started = datetime.now(UTC)
    files = _named(models, against)
    facts = {name: inspect(path) for name, path in files.items()}
    profile, name = profiles.load_device(device), profiles.device_name(device)
    problems = [*_input_problems(facts), *runtime_problems({name: profile})]
    if problems:
        raise UsageError("\n".join(problems))
    measuring = measuring or Measuring()
    splits, labels, latency = _inputs(next(iter(facts.values())), data, data_dir, measuring.batch_size)
    opened = artifact.open_store(store or artifact.default_root(), show.say)
    run_id = rundir.new_id("bench", started)
    target = Path(out) if out is not None else opened.root / "runs" / run_id
    rundir.check_target(target)
    with rundir.replacing(target) as folder, tempfile.TemporaryDirectory(prefix="edgekd-job-") as temporary:
        (folder / "models").mkdir()
        copies = {variant: folder / "models" / f"{variant}.onnx" for variant in files}
        for variant, path in files.items():
            shutil.copyfile(path, copies[variant])
        job.write(
            Path(temporary) / "job",
            name=name, device=profile, models=copies, reference=REFERENCE if against else None,
            splits=splits, latency=latency, options=measuring,
        )  # fmt: skip
        error = None
        try:
            local.measure(
                Path(temporary) / "job", folder / "measurements" / name,
                timeout_s=measuring.timeout_minutes * 60, progress=show.working(f"measure[{name}]"),
            )  # fmt: skip
        except local.MeasurementError as failed:
            error = {"kind": "failed", "message": str(failed)}
        if labels:
            rundir.write_labels(folder, labels)
        content = {
            "schema": rundir.SCHEMA,
            "kind": "bench",
            "recipe": None,
            "run_id": run_id,
            "task": "classification",
            "inputs": "data" if data else "random",
            "reference": REFERENCE if against else None,
            "gates": gates.model_dump(exclude_none=True, exclude_defaults=True) if gates else {},
            "variants": {key: {"parameters": found.parameters, "macs": found.macs} for key, found in facts.items()},
            "devices": {name: {
                "profile": profile.model_dump(mode="json"),
                "scheme": None,
                "models": {variant: rundir.model_facts(folder, path) for variant, path in copies.items()},
                "error": error,
            }},
            "stages": [],
            "provenance": rundir.provenance(started, files={variant: str(path) for variant, path in files.items()}),
        }  # fmt: skip
        rundir.write(folder, content)
        report = build.write(folder)
    return Result(target, report, build.exit_code(report))


def _named(models: Sequence[Path | str], against: Path | str | None) -> dict[str, Path]:
    """Return the files by name: their stems, numbered where two are equal; the one compared with first."""
    if not models:
        raise UsageError("no model was named: edgekd bench MODEL.onnx...")
    files = {REFERENCE: Path(against)} if against is not None else {}
    for model in map(Path, models):
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", model.stem).strip("_.") or "model"
        name, count = stem, 2
        while name in files:
            name, count = f"{stem}-{count}", count + 1
        files[name] = model
    return files


def _input_problems(facts: Mapping[str, GraphFacts]) -> list[str]:
    """Return why the files cannot be fed with the same inputs."""
    first_name, first = next(iter(facts.items()))
    wanted = {one.name: (one.shape[1:], one.dtype) for one in first.inputs}
    return [
        f"{name}: its inputs {_shown(found)} differ from those of {first_name}, {_shown(first)}; bench them one by one"
        for name, found in facts.items()
        if {one.name: (one.shape[1:], one.dtype) for one in found.inputs} != wanted
    ]


def _shown(facts: GraphFacts) -> str:
    return ", ".join(f"{one.name} {one.dtype}{list(one.shape)}" for one in facts.inputs)


def _inputs(
    facts: GraphFacts, data: str | None, data_dir: Path | None, batch: int
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return evaluation inputs by split, labels by split, and the batch that is timed."""
    if data is None:
        return {}, {}, random_inputs(facts, batch)
    if len(facts.inputs) != 1:
        raise UsageError(f"--data feeds models of one input; this one has {_shown(facts)}")
    recipe = Recipe.load(data) if data.endswith((".yaml", ".yml")) else None
    options, seed = (recipe.data, recipe.seed) if recipe else (DataOptions(source=data), 0)
    loaded = datasets.of_recipe(options, seed, data_dir)
    feed = facts.inputs[0].name
    shape = tuple(loaded.test.inputs.shape[1:])
    if not all(
        isinstance(a, str) or a is None or a == b for a, b in zip(facts.inputs[0].shape[1:], shape, strict=True)
    ):
        raise UsageError(f"--data {data} has samples of shape {list(shape)}; the model takes {_shown(facts)}")
    splits = {name: {feed: getattr(loaded, name).inputs} for name in ("test", "validation")}
    labels = {name: getattr(loaded, name).targets for name in ("test", "validation")}
    return splits, labels, {feed: loaded.test.inputs[:batch]}


def random_inputs(facts: GraphFacts, batch: int) -> dict[str, np.ndarray]:
    """Return one batch of random inputs, standard normal or small integers, by the model's input types.

    Raises:
        UsageError: a dimension other than the first has no fixed size.
    """
    generator = np.random.default_rng(RANDOM_SEED)
    found = {}
    for one in facts.inputs:
        shape = [batch if index == 0 and not isinstance(size, int) else size for index, size in enumerate(one.shape)]
        sizes = [size for size in shape if isinstance(size, int)]
        if len(sizes) < len(shape):
            raise UsageError(f"input {one.name} has free dimensions {list(one.shape)}; give inputs of a size by --data")
        kind = np.dtype(one.dtype)
        values = generator.integers(0, 2, sizes) if kind.kind in "iub" else generator.standard_normal(sizes)
        found[one.name] = values.astype(kind)
    return found
