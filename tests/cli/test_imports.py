"""What a command loads: help is instant because it loads next to nothing, and what is cached needs no framework."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tiny import ROOT, tiny

HEAVY = {
    "torch",
    "torchao",
    "accelerate",
    "onnx",
    "onnxruntime",
    "openvino",
    "sklearn",
    "scipy",
    "matplotlib",
    "pandas",
    "optuna",
    "sqlalchemy",
}


def _loaded(*arguments: str, before: str = "", home: str | None = None) -> set[str]:
    """Run the command line in a fresh interpreter and return the top-level modules that it loaded."""
    code = f"""
import atexit, json, sys
{before}
atexit.register(lambda: print(json.dumps(sorted(name for name in sys.modules if "." not in name)), file=sys.__stdout__))
sys.argv = ["edgekd", *{list(arguments)!r}]
from edgekd.cli import main
main()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({"EDGEKD_HOME": home} if home else {})
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_loads_nothing_but_the_command_line():
    loaded = _loaded("--help")
    assert not loaded & {*HEAVY, "numpy", "pydantic", "yaml", "rich", "jinja2", "filelock"}


@pytest.mark.parametrize("arguments", [("recipe", "list"), ("device", "list"), ("recipe", "show", "--resolved")])
def test_looking_at_recipes_and_devices_loads_no_framework(arguments):
    assert not _loaded(*arguments) & {*HEAVY, "rich", "jinja2"}


def test_checking_a_recipe_loads_no_framework(tmp_path):
    path = tmp_path / "searched.yaml"
    path.write_text(json.dumps({"version": 1, **tiny(), "search": {"space": {"distill.alpha": [0.5]}}}))
    assert not _loaded("recipe", "check", "digits", str(path)) & HEAVY


def test_doctor_loads_no_framework():
    assert not _loaded("doctor") & {
        "torch",
        "torchao",
        "torch_pruning",
        "accelerate",
        "sklearn",
        "matplotlib",
        "pandas",
    }


def test_a_cached_run_loads_no_framework(chain, tmp_path):
    """All but the measurement: that is the agent's, in processes of its own."""
    (tmp_path / "tiny.yaml").write_text(json.dumps({"version": 1, **tiny()}))
    fail = """
from edgekd.dispatch import local
def measure(*_, **__): raise local.MeasurementError("no measurement in this test")
local.measure = measure
"""
    arguments = ("pipeline", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "run"))
    loaded = _loaded(*arguments, before=fail, home=str(chain.store))
    stages = json.loads((tmp_path / "run" / "report.json").read_text())["stages"]
    assert [row["name"] for row in stages if not row["cached"]] == ["measure[cpu]"]
    assert not loaded & {
        "torch",
        "torchao",
        "torch_pruning",
        "accelerate",
        "openvino",
        "matplotlib",
        "pandas",
        "optuna",
    }
