"""Several processes train one recipe: what one process gives, and what is left when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import ROOT, SHARED_DATA

pytestmark = pytest.mark.soak

SHORT = [
    "prune=false", "quantize=false", "validate=false", "measure.quick=true", "measure.seconds=0.05",
    "measure.processes=1", "gates={}",
]  # fmt: skip
LIMIT_S = 600.0


def command(folder: Path, recipe: str, processes: int, *changes: str) -> subprocess.Popen[str]:
    """Start a run in a folder: by `torchrun` where there are several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    arguments = ["-m", "edgekd", "pipeline", recipe, "--out", str(folder / "out")]
    overrides = [part for change in [*SHORT, *changes] for part in ("--set", change)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EDGEKD_HOME": str(folder / "store")}
    environment.setdefault("EDGEKD_DATA", str(SHARED_DATA))
    return subprocess.Popen(
        [sys.executable, *launcher, *arguments, *overrides], cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finished(run: subprocess.Popen[str], folder: Path) -> dict:
    """Return the report of a run that ends well."""
    said, _ = run.communicate(timeout=LIMIT_S)
    assert run.returncode == 0, said
    return json.loads((folder / "out" / "report.json").read_text())


def test_two_processes_give_what_one_gives(tmp_path):
    """The same batches, divided: on 10,000 images the accuracies agree within 0.3 percentage points."""
    if not (Path(os.environ.get("EDGEKD_DATA", SHARED_DATA)) / "mnist").is_dir():
        pytest.skip(f"mnist is not in {os.environ.get('EDGEKD_DATA', SHARED_DATA)}")
    changes = ("teacher.epochs=2", "student.epochs=3", "data.train_samples=20000")
    found = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        started = time.monotonic()
        report = finished(command(folder, "mnist-mlp", processes, *changes), folder)
        variants = report["devices"]["cpu"]["variants"]
        found[processes] = {name: variants[name]["accuracy"] for name in ("teacher", "student")}
        facts = {row["name"]: row["facts"] for row in report["stages"]}
        assert facts["teacher"]["processes"] == facts["distill"]["processes"] == processes
        print(f"{processes} processes: {found[processes]}, {time.monotonic() - started:.1f} s")
    for name in ("teacher", "student"):
        assert abs(found[1][name] - found[2][name]) <= 0.003


def _second_process(launcher: int) -> int | None:
    """Return the process of rank 1 that a launcher started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and b"\0RANK=1\0" in b"\0" + (entry / "environ").read_bytes():
                return int(entry.name)
        except (OSError, ValueError):
            continue  # ended meanwhile
    return None


def test_a_process_that_is_killed_ends_the_run_which_then_goes_on(tmp_path):
    changes = ("teacher.epochs=12", "student.epochs=4")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected = finished(command(whole, "digits", 2, *changes), whole)
    run = command(cut, "digits", 2, *changes)
    deadline = time.monotonic() + LIMIT_S
    while not list((cut / "store").glob("partial/teacher-*/checkpoint/*.pt")) and time.monotonic() < deadline:
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.05)
    victim = _second_process(run.pid)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    said, _ = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "another process of this training ended" in said or "run the same command again to go on" in said
    assert list((cut / "store").glob("partial/teacher-*/checkpoint/*.pt"))
    assert not (cut / "out").exists()
    again = finished(command(cut, "digits", 2, *changes), cut)
    digests = [{row["name"]: row["artifact"] for row in report["stages"]} for report in (expected, again)]
    assert digests[0] == digests[1]
