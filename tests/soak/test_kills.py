"""Killed at random moments and started again, a run ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

pytestmark = pytest.mark.soak

KILLS = int(os.environ.get("EDGEKD_KILLS", "20"))
SEED = int(os.environ.get("EDGEKD_SOAK_SEED", "0"))
SHORT = [
    "teacher.epochs=6", "student.epochs=8", "prune.epochs=6", "measure.seconds=0.05", "measure.processes=2",
    "gates.max_drop_pp=100", "gates.min_speedup=0.01", "gates.min_compression=1",
]  # fmt: skip
TOKEN = f"soak-{uuid.uuid4().hex}"
LIMIT_S = 300.0


def start(folder: Path, recipe: str = "digits", changes: Sequence[str] = tuple(SHORT)) -> subprocess.Popen[bytes]:
    """Start a run whose store and report lie in a folder, in a process group of its own."""
    command = [sys.executable, "-m", "edgekd", "pipeline", recipe, "--out", str(folder / "out")]
    for change in changes:
        command += ["--set", change]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "EDGEKD_HOME": str(folder / "store"), "EDGEKD_SOAK": TOKEN},
        )  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    report = json.loads((folder / "out" / "report.json").read_text())
    return {row["name"]: row["artifact"] for row in report["stages"] if row["artifact"]}


def _orphans() -> list[str]:
    """Return the processes that carry the token of these runs."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if TOKEN in (process / "environ").read_text(errors="replace"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # ended meanwhile
    return found


def no_orphans() -> list[str]:
    for _ in range(50):
        if not _orphans():
            return []
        time.sleep(0.1)
    return _orphans()


def assert_clean(folder: Path) -> None:
    store = folder / "store"
    assert list((store / "partial").iterdir()) == []
    assert not (store / "set-aside").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["log", "out", "store"]
    for path in (store / "locks").glob("*.lock"):
        with FileLock(path, timeout=0):
            pass
    verify = [sys.executable, "-m", "edgekd", "cache", "verify"]
    subprocess.run(verify, check=True, capture_output=True, env={**os.environ, "EDGEKD_HOME": str(store)})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """Return the digests of a run that nobody disturbs, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    assert start(folder).wait(LIMIT_S) == 0, (folder / "log").read_text()
    return digests(folder), time.monotonic() - started


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_digests(undisturbed, tmp_path):
    expected, seconds = undisturbed
    moments = random.Random(SEED)
    print(f"\nundisturbed: {seconds:.1f} s; seed {SEED}")
    killed = completed = 0
    while killed < KILLS or not completed:
        folder = tmp_path / f"store-{completed}"
        folder.mkdir(exist_ok=True)
        run = start(folder)
        after = moments.uniform(0.1, seconds) if killed < KILLS else LIMIT_S
        try:
            code = run.wait(after)
        except subprocess.TimeoutExpired:
            assert killed < KILLS, f"not done after {LIMIT_S:.0f} s"
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            killed += 1
            made = sorted(path.name.rsplit("-", 1)[0] for path in (folder / "store" / "artifacts").glob("*"))
            print(f"kill {killed:3} after {after:5.1f} s, {len(made):2} artifacts made")
            assert no_orphans() == []
            continue
        assert code == 0, (folder / "log").read_text()
        completed += 1
        print(f"completed: run {completed}")
        assert digests(folder) == expected
        assert_clean(folder)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_goes_on(undisturbed, tmp_path, sent):
    expected, seconds = undisturbed
    run = start(tmp_path)
    time.sleep(seconds / 2)
    run.send_signal(sent)
    assert run.wait(60) == 130
    assert "run the same command again" in (tmp_path / "log").read_text()
    assert no_orphans() == []
    assert start(tmp_path).wait(LIMIT_S) == 0
    assert digests(tmp_path) == expected
    assert_clean(tmp_path)
