"""A search with real networks, one of whose workers is killed: nothing finished is lost, and the total is reached."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tiny import ROOT
from tuning.postgresql import server

pytestmark = pytest.mark.soak

TRIALS = 10
LIMIT_S = 900.0
SPACE = {
    "distill.temperature": [1, 2, 4, 8],
    "distill.alpha": {"low": 0.1, "high": 0.95},
    "student.learning_rate": {"low": 0.001, "high": 0.03, "log": True},
    "student.width": {"low": 8, "high": 24, "step": 8},
}
SHORT = ["teacher.epochs=3", "student.epochs=9", "data.train_samples=600"]


@contextmanager
def storage(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'trials.db'}"
    else:
        with server() as url:
            yield url


def _start(folder: Path, url: str) -> subprocess.Popen[str]:
    search = {"space": SPACE, "trials": TRIALS, "startup": 3, "seeds": 2}
    changes = [part for change in [*SHORT, f"search={json.dumps(search)}"] for part in ("--set", change)]
    return subprocess.Popen(
        [sys.executable, "-m", "edgekd", "search", "digits", "--workers", "2", "--out", "out", *changes], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "EDGEKD_HOME": str(folder / "store"), "EDGEKD_STORAGE": url},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def _workers(parent: int) -> list[int]:
    """Return the processes that a search started, but for the one that keeps track of them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found += [int(entry.name)] if b"spawn_main" in (entry / "cmdline").read_bytes() else []
        except OSError:
            continue  # ended meanwhile
    return found


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_killed_worker_loses_no_trial(kind, tmp_path):
    generator = random.Random(int(os.environ.get("EDGEKD_SOAK_SEED", "0")))
    with storage(kind, tmp_path) as url, _start(tmp_path, url) as run:
        assert run.stdout is not None
        said, victim = [], None
        deadline = time.monotonic() + LIMIT_S
        finished = 0
        for line in run.stdout:
            said.append(line)
            finished += line.startswith("trial ") and (" done " in line or " stopped " in line)
            if finished >= 3 and victim is None:
                time.sleep(generator.uniform(0, 1))
                workers = _workers(run.pid)
                assert len(workers) == 2, said
                victim = generator.choice(workers)
                before = finished
                os.kill(victim, signal.SIGKILL)
            assert time.monotonic() < deadline, said
        assert run.wait() == 0, "".join(said)
    assert any("a worker was killed (SIGKILL); the others try its trial again" in line for line in said), said
    results = json.loads((tmp_path / "out" / "search.json").read_text())
    assert len(results["trials"]) == TRIALS
    assert results["counts"]["failed"] == 0
    assert sum(row["state"] in ("done", "stopped") for row in results["trials"]) == TRIALS > before
    told = {int(line.split()[1]) for line in said if line.startswith("trial ") and " done " in line}
    assert told <= {row["number"] for row in results["trials"] if row["state"] == "done"}
    assert any(row["as_it_is"] for row in results["trials"])
    assert not list((tmp_path / "store" / "partial").iterdir())
    if kind == "sqlite":
        with closing(sqlite3.connect(tmp_path / "trials.db")) as database:
            numbers = [row[0] for row in database.execute("select number from trials order by number")]
        assert numbers == list(range(len(numbers)))
    else:
        assert "s3cret" not in (tmp_path / "out" / "search.json").read_text() + "".join(said)
