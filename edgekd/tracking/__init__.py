"""What follows a run besides its report: MLflow, TensorBoard.

Each tracker is a process of its own, which reads the run's log as it grows and what the run leaves behind. The run does
not wait for it but at its end, and then not for one that is stuck; what goes wrong is told, and changes nothing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgekd.log import without_secrets
from edgekd.trackers import Run

LIMIT_S = 60.0
"""How long a run waits at its end for a tracker that gives no sign of life. The first sign comes when its package is
imported, which takes seconds of a processor."""
_LOOKS_S = 0.2


@dataclass(frozen=True)
class Tracker:
    """A tracker at work.

    Args:
        name: as in the recipe.
        process: None where it could not be started.
        errors: the file of what it says of its trouble.
        problem: why it was not started.
    """

    name: str
    process: subprocess.Popen[str] | None
    errors: Path
    problem: str = ""


def problems(wanted: Sequence[str]) -> Iterator[str]:
    """Yield which trackers are asked for and not installed; each is of the package and the extra of its name."""
    for name in dict.fromkeys(text.partition("=")[0] for text in wanted):
        if importlib.util.find_spec(name) is None:
            yield f"tracking: {name} is not installed: pip install 'edgekd[{name}]'"


def start(wanted: Sequence[str], run: Run) -> tuple[Tracker, ...]:
    """Let trackers follow a run, whose log is there."""
    return tuple(_started(text, run, run.log.with_suffix(f".tracker-{index}")) for index, text in enumerate(wanted))


def finish(trackers: Sequence[Tracker], folder: Path | None) -> list[str]:
    """Wait until the trackers have ended, or are stuck, and return what became of those that failed.

    Args:
        folder: of the run, complete but for its place; None where there is none.
    """
    for tracker in trackers:
        _tell(tracker, str(folder.absolute()) if folder else "", last=True)
    found = [(tracker.name, _ended(tracker)) for tracker in trackers]
    return [f"{name}: {problem}" for name, problem in found if problem]


def _started(text: str, run: Run, errors: Path) -> Tracker:
    name, _, address = text.partition("=")
    order = {"tracker": name, "address": address, "parent": os.getpid(), "run_id": run.run_id,
             "store": str(run.store), "log": str(run.log), "recipe": run.recipe, "signs": str(errors)}  # fmt: skip
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1",
        "DO_NOT_TRACK": "true",  # whoever made the tracker learns nothing of the run
    }  # fmt: skip
    try:
        with errors.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgekd.tracking"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=stream, text=True, env=environment,
                process_group=0,  # Ctrl+C is for the run, which then ends its trackers
            )  # fmt: skip
    except OSError as error:
        errors.unlink(missing_ok=True)
        return Tracker(name, None, errors, f"it could not be started: {error}")
    tracker = Tracker(name, process, errors)
    _tell(tracker, json.dumps(order))
    return tracker


def _tell(tracker: Tracker, line: str, *, last: bool = False) -> None:
    """Write a line to a tracker; of one that is gone its exit code tells."""
    if tracker.process is None or tracker.process.stdin is None:
        return
    stream = tracker.process.stdin
    with suppress(OSError):
        stream.write(f"{line}\n")
        stream.flush()
    if last:
        with suppress(OSError):
            stream.close()


def _ended(tracker: Tracker) -> str:
    """Wait for a tracker, and return what went wrong, or nothing."""
    if tracker.process is None:
        return tracker.problem
    try:
        code = _waited(tracker.process, tracker.errors)
    finally:
        if tracker.process.poll() is None:
            tracker.process.kill()
            tracker.process.wait()
    if code == 0:
        tracker.errors.unlink(missing_ok=True)
        return ""
    word = _last_word(tracker.errors)
    if code is None:
        last = f"; its last word: {word}" if word else ""
        why = f"it gave no sign for {LIMIT_S:.0f} s after the run, and was stopped{last}"
    else:
        why = word or f"it ended with code {code}"
    return f"{without_secrets(why)} (all of it: {tracker.errors})"


def _waited(process: subprocess.Popen[str], errors: Path) -> int | None:
    """Return the exit code of a process, or None for one that has not touched its file for too long."""
    seen, since = _touched(errors), time.monotonic()
    while time.monotonic() - since < LIMIT_S:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_LOOKS_S)
        if (touched := _touched(errors)) != seen:
            seen, since = touched, time.monotonic()
    return None


def _touched(errors: Path) -> int:
    """Return when a file was touched; whoever took it away must not end the run."""
    with suppress(OSError):
        return errors.stat().st_mtime_ns
    return 0


def _last_word(errors: Path) -> str:
    with suppress(OSError):
        return (errors.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
    return ""
