"""An external power meter: its readings from a text file, put on the device's clock."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from edgekd.errors import EdgekdError, UsageError
from edgekd.report.alignment import Alignment, align
from edgekd.report.evidence import EXTERNAL_FILE, EnergyEvidence, read_run
from edgekd.report.integration import NS, Readings, RejectedError
from edgekd.report.statistics import FloatArray

METER = "external"
SCOPE = "wall (external meter)"
_LARGEST = 256 * 2**20  # bytes of a file
_SCREEN = 10  # problems shown; the rest is counted


@dataclass(frozen=True)
class Trace:
    """What an external meter said: seconds on its own clock [N], watts [N], and what it counts."""

    times_s: FloatArray
    watts: FloatArray
    scope: str


# ---------------------------------------------------------------------------------------------------------------------
# The file


def parse(text: str, source: str) -> Trace:
    """Read lines of "time,watts" or "time watts".

    Times are seconds, or ISO 8601; they must increase. A first line of words is a header; "#" begins a comment, and
    "# scope: ..." in the first lines says what the meter counts.

    Raises:
        EdgekdError: All that is wrong, by line.
    """
    times: list[float] = []
    watts: list[float] = []
    problems: list[str] = []
    scope = SCOPE
    first = True
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("#"):
            word, _, value = stripped.lstrip("# \t").partition(":")
            scope = value.strip() if word.strip().lower() == "scope" and value.strip() and first else scope
        if not stripped or stripped.startswith("#"):
            continue
        header, first = first, False
        try:
            time, power = _line(stripped)
        except ValueError as error:
            if not (header and stripped[0].isalpha()):
                problems.append(f"line {number}: {error}")
            continue
        if times and time <= times[-1]:
            problems.append(f"line {number}: its time is not after that of the line before")
        times.append(time)
        watts.append(power)
    if not problems and len(times) < 2:
        problems.append("it holds no readings")
    if problems:
        head = f"{source} cannot be read as readings of a power meter (lines of `time,watts`):"
        more = [f"... and {len(problems) - _SCREEN} more"] if len(problems) > _SCREEN else []
        raise EdgekdError("\n  ".join([head, *problems[:_SCREEN], *more]))
    return Trace(np.array(times), np.array(watts), scope)


def _line(line: str) -> tuple[float, float]:
    """Time in seconds and watts of a line."""
    separator = next((char for char in ",;\t" if char in line), None)
    parts = [part.strip() for part in line.split(separator)] if separator else line.rsplit(None, 1)
    if len(parts) != 2:
        raise ValueError(f"{_shown(line)} is not a time and watts")
    try:
        watts = float(parts[1])
    except ValueError:
        raise ValueError(f"{_shown(parts[1])} is no number of watts") from None
    if not abs(watts) < 1e9:  # False for NaN too
        raise ValueError(f"{_shown(parts[1])} is no power")
    return _seconds(parts[0]), watts


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{_shown(text)} is neither seconds nor an ISO 8601 time") from None
        # Only differences matter: a time without a zone is taken as it stands.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not abs(seconds) < 1e12:  # False for NaN too
        raise ValueError(f"{_shown(text)} is no time")
    return seconds


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def read(path: Path) -> Trace:
    """Read a file of an external meter; an EdgekdError says what is wrong with it."""
    try:
        if path.stat().st_size > _LARGEST:
            raise EdgekdError(f"{path} is larger than {_LARGEST / 1e6:.0f} MB: cut it to the time of the measurement.")
        return parse(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise EdgekdError(f"{path} cannot be read: {error}") from error


# ---------------------------------------------------------------------------------------------------------------------
# Its place in a measurement


def on_device(trace: Trace, energy: EnergyEvidence) -> tuple[Readings, Alignment]:
    """The meter's readings on the clock of the device, as readings of one channel.

    Raises:
        RejectedError: The marker bursts are not found in them, or in more than one place.
    """
    windows = [(window.start_ns * NS, window.end_ns * NS) for window in energy.windows]
    bursts = [(start * NS, end * NS) for start, end in energy.content.bursts]
    # The device's clock counts from its start: seconds as float keep a tenth of a microsecond for years.
    found = align(bursts, windows, trace.times_s, trace.watts)
    time_ns = np.round(found.on_device(trace.times_s) / NS).astype(np.int64)
    period_s = float(np.median(np.diff(time_ns))) * NS
    return Readings(time_ns, trace.watts[:, None], {METER: "power"}, (METER,), period_s), found


def add_power(run: Path, device: str, file: Path) -> str:
    """Keep the readings of an external meter with the measurement that they belong to.

    Args:
        run: A run's folder.
        device: A device of it that was measured with the meter "external".
        file: Lines of "time,watts"; see `parse`.

    Returns:
        How its clock was found, for people.

    Raises:
        UsageError: The run has no such device, or its energy was not measured with an external meter.
        EdgekdError: The file cannot be read, or it does not show the marker bursts of the measurement.
    """
    measurements = read_run(run).measurements
    if device not in measurements:
        known = ", ".join(measurements) or "none"
        raise UsageError(f"{run} has no measurement of a device {device!r}; measured devices are: {known}.")
    evidence = measurements[device]
    energy = evidence.content["energy"]
    if energy["meter"] != METER or evidence.energy is None:
        found = energy["meter"] or energy["reason"]
        raise UsageError(
            f"the energy of {device!r} was not measured with an external meter ({found}). "
            "Set `power: {meter: external}` in its device profile and measure again: the agent then marks the readings."
        )
    try:
        _, alignment = on_device(read(file), evidence.energy)
    except RejectedError as rejected:
        raise EdgekdError(f"{file} cannot be used: {rejected}") from rejected
    kept = evidence.folder / EXTERNAL_FILE
    temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
    shutil.copyfile(file, temporary)
    temporary.replace(kept)
    return (
        f"{file} is kept with the measurement of {device}: the marker bursts are in it (correlation "
        f"{alignment.correlation:.2f}), its clock drifts by {alignment.drift * 1e6:+.0f} ppm"
    )
