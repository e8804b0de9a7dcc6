"""The readings of a power meter while another process runs the windows.

The sampler is a thread of the agent's main process, which only waits meanwhile; the measured process is another one,
pinned elsewhere. All readings are kept, and the measured process can see in a small shared file whether they keep
coming, so that it rejects a window whose power nobody saw.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from edgekd.agent import meters
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_json, write_json, write_npz
from edgekd.agent.root import ROOT, simulated

if TYPE_CHECKING:
    from edgekd.agent.backends import Array
    from edgekd.agent.meters import Meter, Reading

GAP_PERIODS = 2.5
"""Readings that are further apart than so many periods do not support a window."""

FEWEST_READINGS = 20
"""Fewest readings inside a window."""

WINDOWS_FILE = "samples/energy.json"
SAMPLES_FILE = "samples/power.npz"

_FIRST_SECONDS = 5.0
_WAIT_SECONDS = 0.01
_SLOTS = 4  # readings, gaps, time of the last reading, whether the sampler has stopped for an error
_BYTES = 8 * _SLOTS


class Progress(NamedTuple):
    """How far a sampler is: good readings, gaps, CLOCK_MONOTONIC of the last good one, whether the meter failed."""

    readings: int
    gaps: int
    last_ns: int
    failed: bool


class Watch:
    """The measured process's view of a sampler; see `Sampler`."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            self._slots = np.frombuffer(mmap.mmap(stream.fileno(), _BYTES, access=mmap.ACCESS_READ), np.int64)

    def read(self) -> Progress:
        """Return the progress now."""
        return _progress(self._slots)


class Sampler:
    """Reads a meter until it is stopped. As a context manager it runs for the length of the block.

    A reading whose total is not finite, or that comes more than 2.5 periods after the one before, counts as a gap.

    Attributes:
        error: Why the meter gave no more readings; None if it did.
    """

    def __init__(self, meter: Meter, watch: Optional[Path] = None, measured: Optional[Sequence[int]] = None) -> None:
        """Prepare; nothing is read yet.

        Args:
            meter: An open meter; it stays the caller's to close.
            watch: A file to create for `Watch`.
            measured: Cores of the measured process; the sampler keeps to the others, if there are any.
        """
        self.error: Optional[AgentError] = None
        self._meter = meter
        self._readings: List[Reading] = []
        self._slots = _shared(watch) if watch is not None else np.zeros(_SLOTS, np.int64)
        self._cores = _others(measured)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="power-sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def stop(self) -> None:
        """Take one more reading, so that the last window has one after its end, and stop."""
        self._stopping.set()
        self._thread.join()

    def progress(self) -> Progress:
        """Return how far the sampler is, as a `Watch` on its file sees it."""
        return _progress(self._slots)

    def arrays(self) -> Tuple[Array, Array]:
        """Return the readings: time_ns int64 [N], strictly increasing, and values float64 [N, channels]."""
        times = np.array([reading.time_ns for reading in self._readings], np.int64)
        values = np.array([reading.values for reading in self._readings], np.float64)
        return times, values.reshape(len(times), len(self._meter.channels))

    def mean_power_w(self, start_ns: int, end_ns: int) -> Optional[float]:
        """Return the mean total power between two moments, without any integration: of powers the arithmetic mean of
        the readings inside, of counters the difference of the last and the first one over their time. None where too
        few are inside or one of them is not finite.
        """
        inside = [reading for reading in self._readings if start_ns <= reading.time_ns <= end_ns]
        totals = [meters.total(self._meter, reading.values) for reading in inside]
        if len(totals) < 2 or not all(math.isfinite(value) for value in totals):
            return None
        if any(channel.kind == "energy" for channel in self._meter.channels):
            return (totals[-1] - totals[0]) / ((inside[-1].time_ns - inside[0].time_ns) / 1e9)
        return math.fsum(totals) / len(totals)

    def _run(self) -> None:
        if self._cores:
            os.sched_setaffinity(0, self._cores)  # of this thread only
        try:
            while not self._stopping.is_set():
                self._take(self._meter.read())
            self._take(self._meter.read())
        except AgentError as error:
            self.error = error
            self._slots[3] = 1

    def _take(self, reading: Reading) -> None:
        if self._readings and reading.time_ns <= self._readings[-1].time_ns:
            return  # the clock has not moved: not a new reading
        self._readings.append(reading)
        late = self._slots[2] and reading.time_ns - self._slots[2] > GAP_PERIODS * self._meter.period_s * 1e9
        good = math.isfinite(meters.total(self._meter, reading.values))
        if late or not good:
            self._slots[1] += 1
        if good:
            self._slots[2] = reading.time_ns
            self._slots[0] += 1


def recorded(
    *,
    name: str,
    out_dir: Path,
    work_dir: Path,
    run: Callable[[Dict[str, Any]], object],
    cores: Optional[Sequence[int]] = None,
    period_s: Optional[float] = None,
    root: Path = ROOT,
) -> Dict[str, Any]:
    """Sample a meter while a child runs the energy windows; write the readings and the windows.

    Args:
        name: A meter's name or "auto".
        out_dir: The measurement; samples/energy.json and samples/power.npz are written into it.
        work_dir: A folder for what only this call needs.
        run: Runs the child; given are the parts of its task that belong to the meter: "watch" (path or None),
            "period_s", "external" (whether the samples come from elsewhere) and "windows" (path that the child writes).
        cores: Those of the child.
        period_s: The period of a meter that is not the device's own; None: as the meter says.
        root: Where the device's file system starts.

    Returns:
        measurement["energy"]; where nothing was measured "reason" says why and "meter" is None.
    """
    found, meter, reason = meters.find(name, root)
    if meter is None or found is None:
        return absent(str(reason))
    external = not meter.channels
    period = period_s if external and period_s is not None else meter.period_s
    windows, watch = work_dir / "windows.json", None if external else work_dir / "watch"
    task = {
        "period_s": period,
        "external": external,
        "windows": str(windows),
        "watch": None if watch is None else str(watch),
    }
    work_dir.mkdir(parents=True, exist_ok=True)
    try:
        sampler = Sampler(meter, watch, cores)
        if external:
            run(task)
        else:
            _sample(sampler, period, lambda: run(task))
        _write(out_dir, meter, sampler, read_json(windows))
    except AgentError as error:
        return absent(str(error))
    finally:
        meter.close()
    return {
        "meter": found,
        "reason": None,
        "scope": meter.scope,
        "scope_kind": meter.scope_kind,
        "floor_w": meter.floor_w,
        "floor_j": meter.floor_j,
        "period_s": period,
        "simulated": simulated() is not None,
        "windows": WINDOWS_FILE,
        "samples": None if external else SAMPLES_FILE,
    }


def absent(reason: str) -> Dict[str, Any]:
    """Return measurement["energy"] of a measurement without energy."""
    nothing = ("meter", "scope", "scope_kind", "floor_w", "floor_j", "period_s", "windows", "samples")
    return {**dict.fromkeys(nothing), "simulated": simulated() is not None, "reason": reason}


def _sample(sampler: Sampler, period_s: float, run: Callable[[], object]) -> None:
    """Run with a sampler at work; what ended the sampler explains best why a run failed."""
    deadline = time.monotonic() + _FIRST_SECONDS + GAP_PERIODS * period_s
    try:
        with sampler:
            while sampler.progress().readings == 0 and sampler.error is None:
                if time.monotonic() > deadline:
                    raise AgentError("the power meter gives no good reading any more")
                time.sleep(_WAIT_SECONDS)
            if sampler.error is None:
                run()
    except AgentError as error:
        raise sampler.error or error from None
    if sampler.error is not None:
        raise sampler.error


def _write(out_dir: Path, meter: Meter, sampler: Sampler, windows: Dict[str, Any]) -> None:
    """Write the samples, and the windows with what they need to be understood and checked."""
    for window in windows["windows"]:
        window["mean_power_w"] = sampler.mean_power_w(window["start_ns"], window["end_ns"])
    channels = [{"name": channel.name, "kind": channel.kind} for channel in meter.channels]
    if channels:
        times, values = sampler.arrays()
        write_npz(out_dir / SAMPLES_FILE, {"time_ns": times, "values": values}, compress=True)
    write_json(out_dir / WINDOWS_FILE, {"channels": channels, "total": list(meter.total), **windows})


def _progress(slots: Array) -> Progress:
    readings, gaps, last_ns, failed = slots.tolist()
    return Progress(readings, gaps, last_ns, bool(failed))


def _shared(path: Path) -> Array:
    """Create a file of zeros and return it as numbers that other processes see change."""
    path.write_bytes(bytes(_BYTES))
    with path.open("r+b") as stream:
        return np.frombuffer(mmap.mmap(stream.fileno(), _BYTES), np.int64)


def _others(measured: Optional[Sequence[int]]) -> List[int]:
    """Return the cores that this process may use and that are not measured."""
    if measured is None or not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(set(os.sched_getaffinity(0)) - set(measured))
