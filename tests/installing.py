"""Installing packages, where a package index can be reached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT


def pip(*arguments: str | Path, python: Path | str = sys.executable) -> None:
    """Run pip with the constraints, for what it builds too; skip where it finds no package index."""
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    environment = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    offline = ("Could not find a version", "No matching distribution", "NewConnectionError", "NameResolutionError")
    if done.returncode and any(sign in done.stderr for sign in offline):
        pytest.skip(f"pip reaches no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
