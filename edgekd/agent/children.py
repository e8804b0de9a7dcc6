"""The parent's side of a child process: start it, listen to it, and never leave it behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_json, write_json

# A child that reports nothing for this long hangs. Building a TensorRT engine can take a good part of it.
STALL_SECONDS = 1800.0
_DEATH_SECONDS = 30.0  # a process that waits for a driver which hangs cannot even be killed
_LOG_LINES = 12
_KILLED = "; the device may be out of memory"
_KILLED_WHILE = {
    "prepare": "; most likely the device ran out of memory while building, which needs more than running: lower the "
    "option workspace_mb, close the desktop (sudo systemctl isolate multi-user.target) and other programs, and turn "
    "zram off; swap does not help, the GPU cannot use it"
}

# Whatever holds the package: a folder, or the zip file that the agent was packed into.
_HOME = Path(__file__).resolve().parents[2]

_SIGNALS = {int(number): number.name for number in signal.Signals}


class ChildError(AgentError):
    """A child failed; `variant` is the one it was busy with ("" if none)."""

    def __init__(self, message: str, variant: str) -> None:
        super().__init__(message)
        self.variant = variant


def command() -> List[str]:
    """Return the start of the command line of a child; task file and descriptor follow."""
    # A zip file that is run comes first in the search for modules; with -m that would be the working directory.
    return [sys.executable, *([str(_HOME)] if _HOME.is_file() else ["-m", "edgekd.agent"]), "child"]


def run_child(
    task: Mapping[str, Any],
    work: Path,
    report: Callable[[str], None],
    stall_seconds: float = STALL_SECONDS,
    program: Callable[[], List[str]] = command,
) -> Dict[str, Any]:
    """Do a task in a fresh process and return its result.

    Args:
        task: JSON values with "kind", "label" (for messages) and "cores" (to which the process is pinned, or None).
        work: A folder for the task, the result and the log.
        report: Called with every detail that the child tells of its progress.
        stall_seconds: A child that tells nothing for so long is killed.
        program: Gives the command line before the task file and the number of the events' descriptor.

    Raises:
        ChildError: The child could not be started, reported an error, died, or hung; the message has the end of its
            output.
    """
    work.mkdir(parents=True, exist_ok=True)
    task_file, result, log = work / "task.json", work / "result.json", work / "log.txt"
    write_json(task_file, {**task, "parent": os.getpid(), "result": str(result)})
    reader, writer = os.pipe()
    try:
        with log.open("wb") as output:
            child = subprocess.Popen(
                [*program(), str(task_file), str(writer)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(writer,),
                start_new_session=True,  # a terminal's Ctrl-C reaches the parent, which then ends the child
                env=_environment(),
            )
    except OSError as error:  # no memory for another process, most likely
        os.close(reader)
        raise ChildError("%s: no process can be started: %s" % (task["label"], error), "") from error
    finally:
        os.close(writer)
    listener = _Listener(reader, report)
    try:
        stalled = listener.listen(stall_seconds)
        code = None if stalled else child.wait(stall_seconds)
    except subprocess.TimeoutExpired:  # it has closed its end and does not come out of the kernel
        stalled, code = True, None
    finally:
        os.close(reader)
        _end(child)
    label = "%s of %s" % (task["label"], listener.variant) if listener.variant else str(task["label"])
    if stalled:
        raise ChildError("%s: no progress for %g s; stopped%s" % (label, stall_seconds, _tail(log)), listener.variant)
    answer = read_json(result) if result.exists() else {}
    if "error" in answer:
        raise ChildError(str(answer["error"]), listener.variant)
    if code != 0 or not result.exists():
        raise ChildError("%s: the process %s%s" % (label, _ending(code, task["kind"]), _tail(log)), listener.variant)
    return dict(answer)


class _Listener:
    """Reads a child's progress until it closes its end of the pipe."""

    def __init__(self, descriptor: int, report: Callable[[str], None]) -> None:
        self.variant = ""
        self._descriptor = descriptor
        self._report = report

    def listen(self, stall_seconds: float) -> bool:
        """Return True if the child was silent for too long, False if it ended."""
        pending = b""
        heard = time.monotonic()
        while True:
            left = heard + stall_seconds - time.monotonic()
            if left <= 0 or not select.select([self._descriptor], [], [], left)[0]:
                return True
            data = os.read(self._descriptor, 65536)
            if not data:
                return False
            heard = time.monotonic()
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                event = json.loads(line.decode("utf-8"))
                self.variant = event["variant"]
                self._report(event["detail"])


def _environment() -> Dict[str, str]:
    environment = dict(os.environ)
    paths = [str(_HOME), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment["PYTHONSAFEPATH"] = "1"  # Python 3.11: a `random.py` in the working directory is not the agent's
    # numpy's own thread pool has no work here; idle threads on other cores are only noise.
    environment.update(OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    return environment


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's whole process group, if it still runs."""
    if child.poll() is None:
        with suppress(ProcessLookupError):  # it may end by itself in this very moment
            os.killpg(child.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_DEATH_SECONDS)


def _ending(code: Any, kind: str) -> str:
    if code is not None and code < 0:
        hint = _KILLED_WHILE.get(kind, _KILLED) if code == -signal.SIGKILL else ""
        return "was killed by %s%s" % (_SIGNALS.get(-code, "signal %d" % -code), hint)
    return "ended with exit code %s" % code


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LOG_LINES:]
    return ". It wrote last:\n" + "\n".join("    " + line for line in lines) if lines else ", and wrote nothing"
