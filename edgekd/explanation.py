"""Say why a model is as slow, or as inexact, as it is on a device."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from edgekd import profiles
from edgekd.benchmark import copy_models, feeds_of, inspected, random_inputs
from edgekd.device import Device, Power, scheme
from edgekd.dispatch import measurement, placing
from edgekd.dispatch.job import Order
from edgekd.dispatch.measurement import Dispatch
from edgekd.errors import DeviceError, StageError, UsageError
from edgekd.graph.anatomy import Anatomy, dissect
from edgekd.graph.layer_sqnr import layer_sqnr_db
from edgekd.graph.lint import GraphFacts, read
from edgekd.graph.peak import SIZES, peak_macs, peak_model
from edgekd.making import Show
from edgekd.profiles import Handling
from edgekd.report import latency
from edgekd.report.evidence import Evidence, read_measurement
from edgekd.report.reading import read_arrays
from edgekd.report.why.causes import find
from edgekd.report.why.peak import roofline
from edgekd.report.why.profile import by_precision
from edgekd.report.why.reading import gather
from edgekd.stages.measure import Options as Measuring

SCHEMA = 1
MODEL, FLOAT = "model", "float"
_PEAKS = {f"peak-{form}-{size}": (form, size) for form in ("floats", "integers") for size in SIZES}
_SAMPLES = 16
_MEASURING = Measuring(quick=True, processes=1, seconds=0.5, inferences=100)

Arrays = Mapping[str, NDArray[np.generic]]


def explain(
    model: Path | str,
    device: str = "cpu",
    *,
    handling: Handling | None = None,
    against: Path | str | None = None,
    data: str | None = None,
    batch_size: int = 1,
    data_dir: Path | None = None,
    show: Show | None = None,
) -> dict[str, Any]:
    """Measure a model layer by layer on a device, beside a benchmark of what that device can do, and look for causes.

    Args:
        model: an ONNX file.
        device: a profile's name or file.
        handling: how the device is reached.
        against: the float file that it was quantized from: for the speed-up, and the SQNR of each layer.
        data: a recipe or data source, or an .npz with an array for each input. Default: random inputs.
        batch_size: samples in one call.

    Returns:
        JSON values: "findings" (a `Finding` each), "layers", "precision", "roofline", "latency", "sqnr_db", and where
        they come from. What could not be measured is null, with a reason beside it.

    Raises:
        UsageError: a file is no ONNX file, the inputs do not fit, or `against` has other layers.
        DeviceError: the device cannot be reached.
        StageError: the model does not run there.
    """
    show = show or Show()
    handling = handling or Handling()
    files = {MODEL: Path(model), **({FLOAT: Path(against)} if against is not None else {})}
    devices = profiles.load_devices([device], handling.at)
    (name,) = devices
    places, problems = placing.place(devices, lock_clocks=handling.lock_clocks, say=show.say)
    facts = inspected(files, batch_size, problems)
    if places[name].pending:
        raise DeviceError(f"{name}: {places[name].why}; say where it is: --at {name}=user@host")
    timed, samples = _inputs(facts[MODEL], data, data_dir, batch_size)
    sqnr = layer_sqnr_db(files[MODEL], files[FLOAT], samples) if FLOAT in files else {}
    graph = dissect(read(files[MODEL]))
    with tempfile.TemporaryDirectory(prefix="edgekd-explain-") as temporary:
        folder = Path(temporary)
        models = copy_models(folder, files, facts) | _peaks(folder, read(files[MODEL]), places[name].device)
        quiet = places[name].device.model_copy(update={"power": Power(meter="none")})
        measuring = _MEASURING.model_copy(update={"batch_size": batch_size})
        reference = FLOAT if FLOAT in files else None
        order = Order(name, quiet, models, reference, {}, timed, measuring, handling.lock_clocks)
        dispatch = Dispatch(folder, "explain", handling.keep, show.say, show.working)
        outcome = measurement.take_all(dispatch, [order], places)[name]
        _check(outcome, name)
        measured = read_measurement(folder / "measurements" / name)
    return {
        "schema": SCHEMA,
        "model": str(model),
        "against": None if against is None else str(against),
        "device": name,
        "inputs": "random" if data is None else data,
        **_explained(measured, graph, facts[MODEL].macs, sqnr, reference),
    }


def _explained(
    measured: Evidence, graph: Anatomy, macs: int | None, sqnr: Mapping[str, float], reference: str | None
) -> dict[str, Any]:
    """Return what follows from a measurement.

    Raises:
        StageError: the model did not run.
    """
    content = measured.content
    error = content["variants"].get(MODEL, {"error": "the measurement does not contain it"})["error"]
    if error or measured.latency is None:
        raise StageError(f"the model does not run on {content['device']}: {error or content['latency_reason']}")
    evidence = gather(content, MODEL, integers=graph.quantized, graph=graph, sqnr_db=sqnr)
    found = latency.assess(measured.latency, reference)
    facts, speedup = content["variants"][MODEL]["facts"], found.speedups.get(MODEL)
    p50 = {name: summary["p50"] for name, summary in found.summaries.items()}
    return {
        "runtime": content["runtime"],
        "simulated": list(content["simulated"]),
        "processor": {key: content["environment"]["before"].get(key) for key in ("cpu", "architecture", "flags")},
        "quantized": graph.quantized,
        "latency": {
            "p50_ns": p50.get(MODEL),
            "float_p50_ns": p50.get(FLOAT),
            "speedup": speedup.value if speedup else None,
            "speedup_ci": list(speedup.ci) if speedup else None,
            "reason": None if speedup else "no float file was given (--against)",
        },
        "precision": by_precision(evidence.ran),
        "layers": [asdict(one) for one in evidence.ran],
        "times_of": facts.get("times_of"),
        "times_reason": facts.get("times_reason"),
        "roofline": roofline(
            content["variants"],
            p50,
            MODEL,
            None if macs is None else macs * content["batch_size"],
            {name: peak_macs(size) for name, (_, size) in _PEAKS.items()},
        ),
        "sqnr_db": {name: db if isfinite(db) else None for name, db in sqnr.items()},
        "findings": [asdict(finding) for finding in find(evidence)],
    }


def _inputs(facts: GraphFacts, data: str | None, data_dir: Path | None, batch: int) -> tuple[Arrays, Arrays]:
    """Return the batch that is timed, and some samples for the comparison layer by layer."""
    free = all(port.shape and isinstance(port.shape[0], str) for port in facts.inputs)
    samples = _SAMPLES if free else batch
    if data is None:
        return random_inputs(facts, batch), random_inputs(facts, samples)
    if data.endswith(".npz") and Path(data).is_file():
        arrays = read_arrays(Path(data))
        if set(arrays) == {port.name for port in facts.inputs}:
            return _cut(arrays, batch, data), _cut(arrays, samples if free else batch, data)
    feeds = feeds_of(facts, data, data_dir, batch)
    return feeds.latency, _cut(feeds.splits["validation"], samples, data)


def _cut(arrays: Arrays, count: int, data: str) -> Arrays:
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(lengths) != 1 or not min(lengths):
        raise UsageError(f"--data {data}: its arrays must have the same number of samples, at least one")
    if count > min(lengths) and count != _SAMPLES:
        raise UsageError(f"--batch-size {count}: {data} has {min(lengths)} samples")
    return {name: array[:count] for name, array in arrays.items()}


def _peaks(folder: Path, model: ModelProto, device: Device) -> dict[str, Path]:
    """Write the benchmarks of what the device can do, in floats and in its own integers."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    chosen = scheme(device.quantization)
    integers = {
        "activations": chosen.activations,
        "symmetric": chosen.symmetric,
        "limit": 64 if chosen.reduce_range else 127,
    }
    written = {}
    for name, (form, size) in _PEAKS.items():
        written[name] = folder / "models" / f"{name}.onnx"
        onnx.save(peak_model(inputs, size, integers if form == "integers" else None), written[name])
    return written


def _check(outcome: measurement.Outcome, device: str) -> None:
    """Raise what a device that gave no measurement, or did not take the model, is wrong with."""
    if outcome.error:
        kind = StageError if outcome.error["kind"] == "failed" else DeviceError
        raise kind(f"{device}: {outcome.error['message']}")
    if MODEL in outcome.refused:
        raise StageError(f"{device} does not take the model: {outcome.refused[MODEL]}")
