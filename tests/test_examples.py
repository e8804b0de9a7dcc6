"""Every example runs as a user would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tiny import ROOT

EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


def test_there_are_examples_and_the_own_network_is_short():
    assert ROOT / "examples" / "own_network.py" in EXAMPLES
    assert len((ROOT / "examples" / "own_network.py").read_text().splitlines()) < 40


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EDGEKD_HOME": str(tmp_path / "store")}
    done = subprocess.run(
        [sys.executable, path, tmp_path / "run"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    verdict = report["devices"]["cpu"]["verdict"]
    assert verdict["status"] == "passed"
    assert done.stdout.splitlines()[-1].startswith(
        f"passed: use {verdict['recommended']}, report in {tmp_path / 'run'}"
    )
    assert report["devices"]["cpu"]["variants"]["teacher"]["accuracy"] > 0.9
