"""The base install has no torch: from the wheel, in an environment of its own, all but training works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from installing import environment
from tiny import QUICK

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("base"), wheel)


@pytest.fixture
def base(python: Path, tmp_path: Path) -> Run:
    """Return the command line of the base install, run in an empty folder."""
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "EDGEKD_HOME")}

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python.with_name("edgekd"), *arguments],
            cwd=tmp_path, env=variables, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Return a recipe on an npz, which needs no extra."""
    labels = np.arange(60) % 3
    images = np.random.default_rng(0).standard_normal((60, 1, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "small.npz", x_train=images, y_train=labels, x_test=images[:30] + 1, y_test=labels[:30])
    network = {"model": "mlp", "epochs": 1}
    content = {"version": 1, "data": "small.npz", "teacher": network, "student": network, "measure": QUICK}
    (tmp_path / "small.yaml").write_text(json.dumps(content))
    return tmp_path / "small.yaml"


def test_there_is_no_framework(python):
    code = "from importlib.util import find_spec; print([n for n in ('torch', 'sklearn', 'openvino') if find_spec(n)])"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("recipe", "list"),
        ("recipe", "show", "--resolved"),
        ("recipe", "check", "mnist-mlp"),
        ("device", "show", "cpu", "--resolved"),
    ],
    ids=" ".join,
)
def test_looking_needs_none(base, arguments):
    done = base(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_doctor_says_what_the_extras_would_give(base):
    done = base("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    findings = json.loads(done.stdout)["findings"]
    found = {(one["area"], one["name"]): one for one in findings}
    for extra, package in (("train", "torch"), ("openvino", "openvino")):
        one = found["packages", extra]
        assert (one["state"], one["mend"]) == ("missing", f"pip install 'edgekd[{extra}]'")
        assert package in one["told"]
    assert found["packages", "base"]["state"] == found["devices", "cpu"]["state"] == "ok"
    assert ("packages", "tested set") not in found  # constraints.txt is in the wheel, and was installed from


def test_what_ships_is_found_in_the_wheel(base, python):
    listed = json.loads(base("recipe", "list", "--json").stdout)
    assert {"digits", "mnist-mlp", "fashion-mnist"} <= set(listed)
    assert yaml.safe_load(base("recipe", "show", "mnist-mlp").stdout)["version"] == 1
    assert {"cpu", "openvino"} <= set(json.loads(base("device", "list", "--json").stdout))


def test_planning_needs_none_and_training_names_the_extra(base, recipe):
    done = base("pipeline", recipe, "--plan")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()][:3] == ["teacher", "distill", "prune"]
    done = base("pipeline", recipe)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "torch" in done.stderr
    assert "pip install 'edgekd[train]'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"), [(("digits",), "train"), (("small.yaml", "--device", "openvino"), "openvino")]
)
def test_what_is_missing_is_named_before_any_work(base, recipe, arguments, extra):
    done = base("pipeline", *arguments, "--plan")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"pip install 'edgekd[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_benching_and_reporting_need_none(base, chain, tmp_path):
    student = chain.path / "models" / "student.onnx"
    done = base("bench", student, "--quick", "--out", "bench", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["devices"]["cpu"]["variants"]["student"]["latency_ns"]["p50"] > 0
    shutil.copytree(chain.path, tmp_path / "run")
    done = base("report", "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.json").read_bytes() == (chain.path / "report.json").read_bytes()
