"""Measure any ONNX files side by side on a device."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from edgekd import artifact, profiles, rundir
from edgekd import data as datasets
from edgekd.dispatch import measurement, placing
from edgekd.dispatch.job import Order
from edgekd.dispatch.measurement import Dispatch, Outcome
from edgekd.errors import UsageError
from edgekd.filing import entry
from edgekd.graph import feeding
from edgekd.graph.lint import GraphFacts, Port, inspect, read
from edgekd.making import Show
from edgekd.options import Data as DataOptions
from edgekd.pipeline import Result
from edgekd.profiles import Handling
from edgekd.recipe import Gates, Recipe
from edgekd.recording import recorded
from edgekd.report import build
from edgekd.report.evidence import read_measurement
from edgekd.stages.measure import Options as Measuring

REFERENCE = "reference"


@dataclass(frozen=True)
class Feeds:
    """What the files are fed with.

    Args:
        latency: the batch that is timed, by input name.
        splits: evaluation inputs by split and input name; empty where the inputs are random.
        labels: by split.
        task: what the labels are for.
        classes: their names.
    """

    latency: Mapping[str, np.ndarray]
    splits: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    task: str = "classification"
    classes: Sequence[str] = ()


def bench(
    models: Sequence[Path | str],
    device: str = "cpu",
    *,
    handling: Handling | None = None,
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
        handling: how the device is reached, and what may be done there.
        against: the file that the others are compared with.
        data: a recipe whose data are the inputs, or a data source. Default: random inputs, which the report says;
            accuracy is then not measured.
        gates: what the recommended one must keep; needs `against`.

    Raises:
        UsageError: a file is no ONNX file, its inputs do not fit, or the device is unknown.
    """
    show = show or Show()
    started = datetime.now(UTC)
    measuring = measuring or Measuring()
    files = _named(models, against)
    handling = handling or Handling()
    devices = profiles.load_devices([device], handling.at)
    (name,) = devices
    if out is not None:
        rundir.check_target(Path(out))
    places, problems = placing.place(devices, bundle=handling.bundle, lock_clocks=handling.lock_clocks, say=show.say)
    facts = inspected(files, measuring.batch_size, problems)
    feeds = feeds_of(next(iter(facts.values())), data, data_dir, measuring.batch_size)
    opened = artifact.open_store(store or artifact.default_root(), show.say)
    reference = REFERENCE if against is not None else None
    told = {"kind": "bench", "models": {key: str(path) for key, path in files.items()}, "devices": [name]}
    with (
        recorded(opened, show, "bench", started, None, **told) as record,
        rundir.replacing(record.target(out)) as folder,
    ):
        copies = copy_models(folder, files, facts)
        order = Order(
            name, places[name].device, copies, reference, feeds.splits, feeds.latency, measuring, handling.lock_clocks
        )
        dispatch = Dispatch(
            folder, record.run_id, handling.keep, record.show.say, record.show.working, read_measurement
        )
        outcome = measurement.take_all(dispatch, [order], places)[name]
        record.measured({name: outcome})
        if feeds.labels:
            rundir.write_labels(folder, feeds.labels)
        content = _content(order, outcome, facts, feeds, gates) | {
            "run_id": record.run_id,
            "devices": {name: {**entry(folder, places[name], outcome), "scheme": None}},
            "provenance": rundir.provenance(
                started,
                files={variant: str(path) for variant, path in files.items()},
                data={"classes": list(feeds.classes)},
            ),
        }
        rundir.write(folder, content)
        report = build.write(folder)
        record.judged(folder, report)
    return Result(record.target(out), report, build.exit_code(report))


def _content(
    order: Order, outcome: Outcome, facts: Mapping[str, GraphFacts], feeds: Feeds, gates: Gates | None
) -> dict[str, Any]:
    """Return what run.json says of the files and of what was asked of them.

    Args:
        facts: by the stem of what was measured.
    """
    measured = {variant: facts[path.stem] for variant, path in outcome.models.items()}
    return {
        "schema": rundir.SCHEMA,
        "kind": "bench",
        "recipe": None,
        "task": feeds.task,
        "inputs": "data" if feeds.splits else "random",
        "reference": order.reference,
        "gates": gates.model_dump(exclude_none=True, exclude_defaults=True) if gates else {},
        "variants": {
            variant: {"integers": own.quantized_layers > 0, "parameters": own.parameters, "macs": own.macs}
            for variant, own in measured.items()
        },
        "stages": [],
    }


def _named(models: Sequence[Path | str], against: Path | str | None) -> dict[str, Path]:
    """Return the files by name: their stems, numbered where two are equal; the one compared with first."""
    if not models:
        raise UsageError("no model was named: edgekd bench MODEL.onnx...")
    files = {REFERENCE: Path(against)} if against is not None else {}
    for model in map(Path, models):
        stem = rundir.plain(model.stem)
        name, count = stem, 2
        while name in files:
            name, count = f"{stem}-{count}", count + 1
        files[name] = model
    return files


def inspected(files: Mapping[str, Path], batch: int, problems: list[str]) -> dict[str, GraphFacts]:
    """Return what is in the files.

    Args:
        problems: what else is wrong; all is told together.

    Raises:
        UsageError: a file is no ONNX file, holds NaN, takes other batches, or is not fed as the first one is.
    """
    found: dict[str, GraphFacts] = {}
    for name, path in files.items():
        try:
            found[name] = inspect(path)
        except UsageError as error:
            problems.append(str(error))
    for name, facts in found.items():
        problems += [f"{files[name]}: {problem}" for problem in _problems(facts, batch)]
    problems += _input_problems(found)
    if problems:
        raise UsageError("\n".join(problems))
    return found


def _problems(facts: GraphFacts, batch: int) -> Iterator[str]:
    """Yield why a network cannot be measured."""
    if facts.nonfinite:
        yield f"weights hold NaN or infinity ({', '.join(facts.nonfinite[:3])}): its answers would be none"
    if not facts.inputs:
        yield "it has no inputs"
    for one in facts.inputs:
        if one.shape and isinstance(one.shape[0], int) and one.shape[0] != batch:
            yield f"input {one.name} {list(one.shape)} takes {one.shape[0]} samples: --batch-size {one.shape[0]}"


def _input_problems(facts: Mapping[str, GraphFacts]) -> list[str]:
    """Return why the files cannot be fed with the same inputs."""
    signatures = {name: {one.name: (_fixed(one), one.dtype) for one in found.inputs} for name, found in facts.items()}
    return [
        f"{name}: its inputs {_shown(found)} differ from those of {next(iter(facts))}, "
        f"{_shown(next(iter(facts.values())))}; bench them one by one"
        for name, found in facts.items()
        if signatures[name] != next(iter(signatures.values()))
    ]


def _fixed(port: Port) -> list[int | None]:
    """Return the sizes of one sample, None where free: the names of free axes mean nothing."""
    return [size if isinstance(size, int) else None for size in port.shape[1:]]


def _shown(facts: GraphFacts) -> str:
    return ", ".join(f"{one.name} {one.dtype}{list(one.shape)}" for one in facts.inputs)


def copy_models(folder: Path, files: Mapping[str, Path], facts: Mapping[str, GraphFacts]) -> dict[str, Path]:
    """Copy the files into the run's folder, each with its weights in it."""
    (folder / "models").mkdir()
    copies = {name: folder / "models" / f"{name}.onnx" for name in files}
    for name, path in files.items():
        if facts[name].size_bytes == path.stat().st_size:
            shutil.copyfile(path, copies[name])
        else:  # some weights lie beside it
            try:
                onnx.save(read(path), copies[name])
            except (ValueError, EncodeError) as error:
                raise UsageError(f"{path}: with its external weights it is too large for one file: {error}") from error
    return copies


def feeds_of(facts: GraphFacts, data: str | None, data_dir: Path | None, batch: int) -> Feeds:
    """Return the inputs that all files are fed with.

    Raises:
        UsageError: the data are not what the network takes.
    """
    if data is None:
        return Feeds(random_inputs(facts, batch))
    recipe = Recipe.load(data) if data.endswith((".yaml", ".yml")) else None
    options, seed = (recipe.data, recipe.seed) if recipe else (DataOptions(source=data), 0)
    loaded = datasets.of_recipe(options, seed, data_dir)
    samples = loaded.test.inputs
    port, shape = facts.inputs[0], list(samples.shape[1:])
    fits = len(port.shape) == samples.ndim and all(
        wanted in (None, given) for wanted, given in zip(_fixed(port), shape, strict=True)
    )
    if len(facts.inputs) != 1 or not fits or port.dtype != samples.dtype.name:
        raise UsageError(f"--data {data} has samples {samples.dtype}{shape}; the model takes {_shown(facts)}")
    if batch > len(samples):
        raise UsageError(f"--batch-size {batch}: the test split of {data} has {len(samples)} samples")
    splits = {"test": loaded.test, "validation": loaded.validation}
    return Feeds(
        latency={port.name: samples[:batch]},
        splits={name: {port.name: split.inputs} for name, split in splits.items()},
        labels={name: split.targets for name, split in splits.items()},
        task=recipe.task if recipe else "classification",
        classes=loaded.classes,
    )


def random_inputs(facts: GraphFacts, batch: int) -> dict[str, np.ndarray]:
    """Return one batch of random inputs, standard normal or small integers, by the model's input types.

    Raises:
        UsageError: a dimension other than the first has no fixed size, or the inputs are no numbers.
    """
    free = frozenset(one.name for one in facts.inputs if one.shape and isinstance(one.shape[0], str))
    return feeding.random_inputs(facts.inputs, batch, batched=free)
