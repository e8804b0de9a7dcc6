"""Killed at random moments and started again, a search for a budget ends with the networks that it would have found."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.soak.test_kills import KILLS, SEED, assert_clean, digests, no_orphans, start

pytestmark = pytest.mark.soak

SOME = max(2, KILLS // 6)
LIMIT_S = 900.0
SHORT = [
    "data={source: digits, validation: 0.2, train_samples: 300, test_samples: 100}", "quantize=false",
    "teacher={model: resnet, width: 24, blocks: [1, 1], epochs: 1}", "measure.quick=true", "measure.processes=1",
    "student={model: resnet, width: 16, blocks: [1, 1], epochs: 1}", "measure.seconds=0.05",
    "budget={points: {small: {max_size_mb: 0.06}}, networks: 20, finalists: 2, epochs: 2, trial_epochs: 1, depth: 1}",
]  # fmt: skip
"""A limit on the size decides the same in every run; how long networks take does not."""


def _begin(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    return start(folder, "fashion-mnist-budget", SHORT)


def test_a_search_that_is_killed_again_and_again_finds_the_same(tmp_path):
    started = time.monotonic()
    assert _begin(tmp_path / "undisturbed").wait(LIMIT_S) == 0, (tmp_path / "undisturbed" / "log").read_text()
    seconds, expected = time.monotonic() - started, digests(tmp_path / "undisturbed")
    assert {"small/prune", "small/baseline"} <= expected.keys()
    moments, folder = random.Random(SEED), tmp_path / "disturbed"
    print(f"\nundisturbed: {seconds:.1f} s; seed {SEED}")
    for kill in range(SOME):
        run, after = _begin(folder), moments.uniform(0.1, seconds * 0.6)
        try:
            assert run.wait(after) == 0, (folder / "log").read_text()
            print(f"done after {kill} kills")
            break
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            print(f"kill {kill + 1} after {after:.1f} s")
            assert no_orphans() == []
    assert _begin(folder).wait(LIMIT_S) == 0, (folder / "log").read_text()
    assert digests(folder) == expected
    assert_clean(folder)
