"""`edgekd` with one fault planted: `python faulty.py FAULT arguments...`, where FAULT is a function of this file.

A fault changes what the operating system, the clock, a library or the agent does; edgekd itself is as it is.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekd import artifact, cli
from edgekd.dispatch import job, local

PATCH = pytest.MonkeyPatch()
SLOW_S = 0.02
REAL_AGENT = local._agent


def none() -> None:
    """Nothing is wrong."""


def killed(where: str, count: str) -> None:
    """The process is killed when the count-th artifact is begun, worked on, or in its place."""
    build, left = artifact.build, itertools.count(1)

    def kill(at: str, number: int) -> None:
        if at == where and number == int(count):
            os.kill(os.getpid(), signal.SIGKILL)

    def killing(store: Any, stage: str, parts: Any, work: Callable[[Path], Any]) -> Any:
        number = 0

        def counted(out: Path) -> Any:
            nonlocal number
            number = next(left)
            kill("begun", number)
            facts = work(out)
            kill("worked", number)
            return facts

        found = build(store, stage, parts, counted)
        kill("placed", number)
        return found

    PATCH.setattr(artifact, "build", killing)


def nan(step: str) -> None:
    """A loss is not a number from some step on."""
    from torch.nn import functional

    right, steps = functional.cross_entropy, itertools.count()

    def wrong(*given: Any, **more: Any) -> Any:
        loss = right(*given, **more)
        return loss * float("nan") if next(steps) >= int(step) else loss

    PATCH.setattr(functional, "cross_entropy", wrong)


def clock(seconds: str) -> None:
    """The clock of the wall jumps to and fro at every look."""
    right, source = time.time, random.Random(0)
    PATCH.setattr(time, "time", lambda: right() + source.choice((-1, 1)) * float(seconds))
    PATCH.setattr(time, "time_ns", lambda: int(time.time() * 1e9))


def slow() -> None:
    """Every file takes its time to be opened, renamed and removed."""
    for name in ("open", "replace", "unlink", "mkdir", "write_text", "write_bytes"):
        right = getattr(Path, name)

        def wait(*given: Any, _right: Callable[..., Any] = right, **more: Any) -> Any:
            time.sleep(SLOW_S)
            return _right(*given, **more)

        PATCH.setattr(Path, name, wait)


def agent(script: str) -> None:
    """Another program in place of the agent: Python that has `real()`, which runs the true one, and its `out`."""
    prelude = (
        "import os, signal, subprocess, sys, time\n"
        "from pathlib import Path\n"
        "arguments = sys.argv[1:]\n"
        "out = Path(arguments[-1])\n"
        "def real():\n"
        "    return subprocess.run([sys.executable, '-m', 'edgekd.agent', *arguments]).returncode\n"
    )

    @contextmanager
    def other(python: str | None) -> Iterator[Any]:
        with REAL_AGENT(python) as found:
            changed = [sys.executable, "-c", f"{prelude}if arguments[0] != 'run': sys.exit(real())\n{script}"]
            yield replace(found, command=changed)

    PATCH.setattr(local, "_agent", other)


if __name__ == "__main__":
    job.QUICK = replace(job.QUICK, warmup_seconds=0.05, throughput_seconds=0.05)
    fault, *given = sys.argv[1].split("\x1f")
    globals()[fault](*given)
    sys.argv = ["edgekd", *sys.argv[2:]]
    cli.main()
