"""How much faster than a reference many networks are on a device: latency alone, measured in groups beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from edgekd.agent.method import Method
from edgekd.device import Device, Power
from edgekd.dispatch import measurement
from edgekd.dispatch.job import Order
from edgekd.dispatch.measurement import Dispatch
from edgekd.dispatch.placing import Place
from edgekd.errors import DeviceError, StageError
from edgekd.making import Show
from edgekd.report.evidence import CONTROL, Evidence, LatencySamples, read_measurement
from edgekd.report.statistics import Estimate, noise_floor, percentiles
from edgekd.stages.measure import Options as Measuring

REFERENCE = "reference"
GROUP = 24
"""Networks that are measured side by side: so many sessions fit any device, and a process starts for each group."""

METHOD = Method(
    processes=1, seconds=0.25, inferences=50, warmup_seconds=0.6, settling_calls=2, calls=5, throughput_seconds=0.0,
    alone=False, quick=True,
)  # fmt: skip
"""Short, for each network: a model is made of a hundred of them, whose errors do not add up."""

PERCENTILE = 10
"""Of the calls, which are compared: what a busy machine leaves undisturbed. A call of a reference that takes
milliseconds is nearly always interrupted there, so that medians compare what interrupts it."""
_RESAMPLES = 200

T = TypeVar("T")

Feeds = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Timed:
    """How fast one network is.

    Args:
        speedup: the 10th percentile of the reference's calls / that of the network's, in the same rounds.
        low, high: its 95 % interval, by bootstrap over processes, then rounds.
        p50_ns, p99_ns: of one call, over all rounds.
    """

    speedup: float
    low: float
    high: float
    p50_ns: float
    p99_ns: float


@dataclass(frozen=True)
class Timing:
    """What was measured.

    Args:
        networks: by name.
        noise_floor: relative difference that counts as none: the largest one that the reference showed beside itself.
        failed: what did not run, with the reason.
        simulated: why the times are not those of the device; empty where they are.
    """

    networks: Mapping[str, Timed]
    noise_floor: float
    failed: Mapping[str, str] = field(default_factory=dict)
    simulated: tuple[str, ...] = ()


def measure(
    name: str,
    place: Place,
    networks: Mapping[str, ModelProto | Path],
    reference: Path,
    feeds: Feeds,
    *,
    group: int = GROUP,
    method: Method = METHOD,
    show: Show | None = None,
) -> Timing:
    """Measure networks on a device, in groups, each beside the reference and the reference again.

    Args:
        name: of the device.
        networks: ONNX models or files, by any name. They take the inputs of the reference.
        reference: ONNX file.
        feeds: the batch that is timed, by input name.
        group: networks at once.

    Raises:
        DeviceError: the device cannot be reached, or is measured by a bundle.
        StageError: the reference does not run there.
    """
    if place.pending:
        raise DeviceError(
            f"{name}: {place.why}; networks are compared there, so say where it is: --at {name}=user@host"
        )
    show = show or Show()
    show.note("measuring", {"devices": [name]})
    progress = show.working(f"timing[{name}]")
    timings: list[Timing] = []
    for several in groups(networks, group):
        progress(len(timings) * group, len(networks), "networks")
        timings.append(_group(name, place, several, reference, feeds, method))
    progress(len(networks), len(networks), "networks")
    return Timing(
        {name: timed for one in timings for name, timed in one.networks.items()},
        max((one.noise_floor for one in timings), default=0.0),
        {name: why for one in timings for name, why in one.failed.items()},
        tuple(dict.fromkeys(why for one in timings for why in one.simulated)),
    )


def groups(networks: Mapping[str, T], size: int = GROUP) -> Iterator[dict[str, T]]:
    """Yield networks in groups that are measured at once."""
    waiting = iter(networks.items())
    while several := dict(islice(waiting, size)):
        yield several


def _group(
    name: str, place: Place, networks: Mapping[str, ModelProto | Path], reference: Path, feeds: Feeds, method: Method
) -> Timing:
    with tempfile.TemporaryDirectory(prefix="edgekd-timing-") as temporary:
        folder = Path(temporary)
        # Names of variants are file names; those of networks may be anything.
        called = {f"network-{index}": network for index, network in enumerate(networks)}
        models = {
            REFERENCE: reference,
            **{variant: _file(folder, variant, networks[network]) for variant, network in called.items()},
        }
        batch = len(next(iter(feeds.values())))
        options = Measuring(quick=True, batch_size=batch)
        order = Order(name, _quiet(place.device), models, REFERENCE, {}, feeds, options, method=method)
        outcome = measurement.take_all(Dispatch(folder, "timing"), [order], {name: place})[name]
        if outcome.error:
            kind = StageError if outcome.error["kind"] == "failed" else DeviceError
            raise kind(f"{name}: {outcome.error['message']}")
        refused = {called.get(variant, variant): why for variant, why in outcome.refused.items()}
        return _read(read_measurement(folder / "measurements" / name), called, refused)


def _file(folder: Path, variant: str, network: ModelProto | Path) -> Path:
    if isinstance(network, Path):
        return network
    path = folder / f"{variant}.onnx"
    onnx.save(network, path)
    return path


def _quiet(device: Device) -> Device:
    """Return a device that reads no power, and builds floats in one precision only."""
    floats = [precision for precision in device.precisions if precision != "int8"]
    kept = tuple(precision for precision in device.precisions if precision in (*floats[:1], "int8"))
    return device.model_copy(update={"power": Power(meter="none"), "precisions": kept})


def _read(evidence: Evidence, called: Mapping[str, str], refused: Mapping[str, str]) -> Timing:
    variants, samples = evidence.content["variants"], evidence.latency
    failed = {called.get(name, name): of["error"] for name, of in variants.items() if of["error"]}
    if samples is None or REFERENCE not in samples.columns:
        why = failed.get(REFERENCE) or evidence.content["latency_reason"]
        raise StageError(f"{evidence.content['device']}: the reference does not run there: {why}")
    simulated = tuple(evidence.content["simulated"])
    return Timing(*_figures(samples, called), {**refused, **failed}, simulated)


def _figures(samples: LatencySamples, called: Mapping[str, str]) -> tuple[dict[str, Timed], float]:
    columns = {name: [process[k] for process in samples.processes] for k, name in enumerate(samples.columns)}
    names = [name for name in columns if name in called]
    *estimates, control = _speedups(columns, [*names, f"{REFERENCE}{CONTROL}"])
    found = {}
    for name, estimate in zip(names, estimates, strict=True):
        p50, p99 = percentiles(np.concatenate([process.ravel() for process in columns[name]]), (50, 99))
        found[called[name]] = Timed(estimate.value, *estimate.ci, p50, p99)
    return found, noise_floor(control)


def _speedups(columns: Mapping[str, Sequence[NDArray[np.int64]]], names: Sequence[str]) -> list[Estimate]:
    """Return how many times faster than the reference each of some columns is."""
    every = [np.arange(len(process)) for process in columns[REFERENCE]]
    value = _ratios(columns, names, list(enumerate(every)))
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLES):
        processes = random.integers(len(every), size=len(every))
        rounds = [(process, random.integers(len(every[process]), size=len(every[process]))) for process in processes]
        drawn.append(_ratios(columns, names, rounds))
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return [
        Estimate(float(one), (float(min(a, one)), float(max(b, one))))
        for one, a, b in zip(value, low, high, strict=True)
    ]


def _ratios(
    columns: Mapping[str, Sequence[NDArray[np.int64]]],
    names: Sequence[str],
    rounds: Sequence[tuple[int, NDArray[np.intp]]],
) -> NDArray[np.float64]:
    """Return the percentile of the reference over that of each column, in some rounds of some processes."""
    fast = [
        np.percentile(np.concatenate([columns[name][process][own].ravel() for process, own in rounds]), PERCENTILE)
        for name in (REFERENCE, *names)
    ]
    return np.asarray(fast[0] / np.array(fast[1:]), np.float64)
