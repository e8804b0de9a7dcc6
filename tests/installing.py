"""Installing packages, where a package index can be reached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT


def environment(folder: Path, *packages: str | Path) -> Path:
    """Make a virtual environment of packages and return its Python; this one's pip fills it, and compiles nothing."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    pip("--python", python, "install", "--no-compile", *packages)
    return python


def pip(*arguments: str | Path) -> None:
    """Run pip with the constraints, for what it builds too; skip where it finds no package index."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    variables = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    offline = ("Could not find a version", "No matching distribution", "NewConnectionError", "NameResolutionError")
    if done.returncode and any(sign in done.stderr for sign in offline):
        pytest.skip(f"pip reaches no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
