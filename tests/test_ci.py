"""What continuous integration is given works: its steps are run by a shell, in a git repository with a model in it.

Green at first, then red after a regression: by validation, before anything is measured, and where that lets a small
loss pass, by the baseline.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from tiny import ROOT

WORKFLOW = yaml.safe_load((ROOT / "examples" / "ci" / "github.yml").read_text())
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
GITLAB = yaml.safe_load((ROOT / "examples" / "ci" / "gitlab.yml").read_text())
LOCAL = "./.github/actions/edgekd"
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}

EDGEKD = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(ROOT)!r})
from dataclasses import replace
from edgekd import cli
from edgekd.dispatch import job
shortest = replace(job.QUICK, warmup_seconds=0.05, throughput_seconds=0.05, seconds=0.05, inferences=20)
job.method = lambda options: replace(shortest, processes=1)
cli.main()
"""
PYTHON = f"""#!/bin/bash
if [ "$1 $2" = "-m pip" ]; then echo "$@" >> "$PIP_LOG"; else exec {sys.executable} "$@"; fi
"""
RNG = np.random.default_rng(0)
CENTRES = RNG.standard_normal((4, 16)).astype(np.float32)
LABELS = np.arange(4200) % 4
INPUTS = (CENTRES[LABELS] + 0.8 * RNG.standard_normal((4200, 16))).astype(np.float32)


def _network(
    path: Path, *, layers: int = 0, scale: float = 1.0, classes: tuple[int, ...] = (0, 1, 2, 3), noise: float = 0.0
) -> None:
    """Write a classifier by the nearest centre, after `layers` that change nothing, and an input that is scaled.

    Args:
        noise: of the centres; 0.3 costs half a percentage point, 1 thirteen.
    """
    centres = CENTRES[list(classes)]
    centres = centres + noise * np.random.default_rng(1).standard_normal(centres.shape).astype(np.float32)
    names = ["input", *(f"h{k}" for k in range(layers + 1))]
    weights = {f"e{k}": np.eye(16, dtype=np.float32) * (scale if k == 0 else 1) for k in range(layers + 1)}
    nodes = [helper.make_node("MatMul", [names[k], f"e{k}"], [names[k + 1]]) for k in range(layers + 1)]
    nodes.append(helper.make_node("Gemm", [names[-1], "w", "b"], ["logits"]))
    weights |= {"w": 2 * centres.T, "b": -(centres**2).sum(axis=1)}
    _save(path, nodes, weights)


def _quantized(path: Path, kind: type[np.uint8] | type[np.int8]) -> None:
    """Write the classifier with 8-bit weights: stored as unsigned integers, 128 being 0, and read as `kind`."""
    scale = np.float32(np.abs(2 * CENTRES).max() / 127)
    stored = (np.round(2 * CENTRES.T / scale) + 128).astype(np.uint8)
    zero = kind(128 if kind is np.uint8 else 0)
    weights = {"q": stored.view(kind), "s": scale, "z": zero, "b": -(CENTRES**2).sum(axis=1)}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"]),
        helper.make_node("Gemm", ["input", "w", "b"], ["logits"]),
    ]
    _save(path, nodes, weights)


def _save(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, Any]) -> None:
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("input", 16), ("logits", 4))
    ]
    kept = [numpy_helper.from_array(np.asarray(value, order="C"), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


# ---- the least of GitHub's runner


def _bash(script: str, folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub does."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "EDGEKD_HOME")}
    done = subprocess.run(
        command, cwd=folder, env={**environment, **variables}, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def _inputs(given: dict[str, Any]) -> dict[str, str]:
    known = ACTION["inputs"]
    assert set(given) <= set(known)
    assert {name for name, one in known.items() if one.get("required")} <= set(given)
    return {name: str(given.get(name, one.get("default"))) for name, one in known.items()}


def _steps(inputs: dict[str, str] | None = None) -> Iterator[tuple[str, dict[str, str]]]:
    """The shell of each step of the workflow, with its variables; what is somebody else's action is left out.

    Args:
        inputs: Added to those that the workflow gives the action, or in their place.
    """
    for step in WORKFLOW["jobs"]["model"]["steps"]:
        if "run" in step:
            yield step["run"], {}
        elif step["uses"] == LOCAL:
            yield from _action(_inputs({**step["with"], **(inputs or {})}))


def _action(values: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The steps of the action that these inputs make it run."""
    for own in ACTION["runs"]["steps"]:
        assert own["shell"] == "bash"
        assert "${{" not in own["run"], "values must not be pasted into a script"
        if _holds(own["if"], values):
            found = {
                key: re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", text) for key, text in own.get("env", {}).items()
            }
            yield own["run"], {key: values[match[1]] for key, match in found.items() if match}


def _holds(condition: str, values: dict[str, str]) -> bool:
    """Whether a condition holds: inputs that are, or are not, empty, joined by `&&`."""
    parts = [re.fullmatch(r"inputs\.([\w-]+) (==|!=) ''", part) for part in condition.split(" && ")]
    return all((values[part[1]] == "") == (part[2] == "==") for part in parts if part or pytest.fail(condition))


def _job(folder: Path, variables: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the workflow in a checkout until a step fails; return the last one."""
    done = None
    for script, own in _steps(**options):
        done = _bash(script, folder, {**variables, **own})
        if done.returncode:
            break
    assert done is not None
    return done


# ---- a repository


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Put `edgekd` and `python` on the path: this checkout's, with the shortest measurement, and without installing."""
    folder = tmp_path_factory.mktemp("bin")
    for name, text in (("edgekd", EDGEKD), ("python", PYTHON)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}", "PIP_LOG": str(folder / "pip.log"), "COLUMNS": "100",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"), "HOME": str(folder),
    }  # fmt: skip


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]) -> Path:
    """Make the repository that docs/ci.md describes; time is left out of its baseline: no test is about speed.

    Its first commit has a student that had not learned enough.
    """
    folder = tmp_path_factory.mktemp("repository")
    for name in ("model", "ci", LOCAL):
        (folder / name).mkdir(parents=True)
    (folder / "ci" / "edgekd-1.0-py3-none-any.whl").write_text("pip is a stand-in here")
    shutil.copy(ROOT / "action.yml", folder / LOCAL)
    (folder / ".gitignore").write_text("run\n.edgekd\nedgekd-reports\n*.xml\n")
    _network(folder / "model" / "teacher.onnx", layers=4)
    _network(folder / "model" / "student.onnx", noise=1.0)
    _git(folder, "init")
    _git(folder, "add", ".")
    _git(folder, "commit", "-m", "a first student")
    _network(folder / "model" / "student.onnx")
    halves = {"x_train": INPUTS[:200], "y_train": LABELS[:200], "x_test": INPUTS[200:], "y_test": LABELS[200:]}
    np.savez(folder / "model" / "test.npz", **halves)
    measure = next(script for script, _ in _steps() if "edgekd bench" in script)
    done = _bash(
        f"{measure}\nedgekd baseline write run model/baseline.json --tolerance speedup=1000", folder, variables
    )
    assert done.returncode == 0, done.stderr
    _git(folder, "add", ".")
    _git(folder, "commit", "-m", "a better student, and its baseline")
    return folder


@pytest.fixture
def checkout(repository: Path, tmp_path: Path, variables: dict[str, str]) -> Path:
    """Return a fresh checkout; the summary of the job is empty."""
    Path(variables["GITHUB_STEP_SUMMARY"]).write_text("")
    _git(tmp_path, "clone", str(repository), "checkout")
    return tmp_path / "checkout"


def _tests(path: Path) -> dict[str, list[str]]:
    """The names of the cases of a JUnit file, by what became of them."""
    found: dict[str, list[str]] = {"passed": [], "failure": [], "error": [], "skipped": []}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        outcome = next((child.tag for child in case if child.tag != "system-out"), "passed")
        found[outcome].append(case.attrib["name"])
    return found


def test_the_workflow_is_green_and_so_is_the_script_for_gitlab(checkout, variables):
    done = _job(checkout, variables)
    assert done.returncode == 0, done.stdout + done.stderr
    validation, gates, baseline = (
        _tests(checkout / "edgekd-reports" / f"{name}.xml") for name in ("validate", "gates", "baseline")
    )
    assert {"file", "checker", "session", "outputs", "accuracy-drop"} <= set(validation["passed"])
    assert not validation["failure"] + validation["error"]
    assert gates == {"passed": ["measured"], "failure": [], "error": [], "skipped": []}
    assert {"student: accuracy", "student: agreement", "student: size", "student: speed-up"} <= set(baseline["passed"])
    assert not baseline["failure"] + baseline["error"]
    summary = Path(variables["GITHUB_STEP_SUMMARY"]).read_text()
    titles = ["edgekd validate", "edgekd report", "edgekd baseline check"]
    assert re.findall(r"^## ✅ (edgekd [a-z ]+)", summary, re.MULTILINE) == titles
    assert "edgekd validate: exit code 0\n" in summary
    assert summary.endswith("edgekd report: exit code 0; edgekd baseline check: exit code 0\n")
    assert "-m pip install --quiet ci/edgekd-1.0-py3-none-any.whl" in Path(variables["PIP_LOG"]).read_text()
    job, done_already = GITLAB["model"], {script for script, _ in _steps()}
    assert len(done_already & set(job["script"])) == 2  # the install and the measurement
    left = [line for line in job["script"] if line not in done_already]
    assert _bash("\n".join(left), checkout, variables).returncode == 0
    for name in job["artifacts"]["reports"]["junit"]:
        assert _tests(checkout / name)["passed"]
    assert [(checkout / name).is_file() for name in job["artifacts"]["paths"]] == [True]


def _stale(checkout: Path) -> None:
    _git(checkout, "checkout", "HEAD~1", "--", "model/student.onnx")


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(lambda folder: _network(folder / "model" / "student.onnx", scale=0.1), id="normalisation"),
        pytest.param(lambda folder: _network(folder / "model" / "student.onnx", classes=(1, 0, 2, 3)), id="classes"),
        pytest.param(lambda folder: _quantized(folder / "model" / "student.onnx", np.int8), id="s8 for u8"),
        pytest.param(_stale, id="stale weights"),
    ],
)
def test_validation_is_red_after_a_regression_and_nothing_is_measured(checkout, variables, plant):
    plant(checkout)
    _git(checkout, "commit", "-am", "a change that nobody wanted")
    done = _job(checkout, variables)
    assert done.returncode == 1
    assert not (checkout / "run").exists()
    found = _tests(checkout / "edgekd-reports" / "validate.xml")
    assert (found["failure"], found["error"]) == (["accuracy-drop"], [])
    assert {"file", "checker", "session", "outputs"} <= set(found["passed"])
    summary = Path(variables["GITHUB_STEP_SUMMARY"]).read_text()
    assert "## ❌ edgekd validate" in summary
    assert re.search(r"\| ❌ \| model/student\.onnx \| accuracy-drop \| [\d.]+ pp .*limit 1 pp", summary)
    assert summary.endswith("edgekd validate: exit code 1\n")


def test_integers_that_are_read_as_they_were_written_are_let_through(checkout, variables):
    _quantized(checkout / "model" / "student.onnx", np.uint8)
    script, own = next(one for one in _steps() if "edgekd validate" in one[0])
    assert _bash(script, checkout, {**variables, **own}).returncode == 0


def test_the_baseline_is_red_after_a_loss_that_validation_lets_pass(checkout, variables):
    _network(checkout / "model" / "student.onnx", noise=0.3)
    _git(checkout, "commit", "-am", "a little worse")
    done = _job(checkout, variables)
    assert done.returncode == 1
    assert not _tests(checkout / "edgekd-reports" / "validate.xml")["failure"]
    baseline = _tests(checkout / "edgekd-reports" / "baseline.xml")
    assert baseline["failure"] == ["student: accuracy", "student: agreement"]
    assert {"student: size", "student: speed-up", "reference: accuracy"} <= set(baseline["passed"])
    summary = Path(variables["GITHUB_STEP_SUMMARY"]).read_text()
    assert "## ❌ edgekd baseline check" in summary
    assert re.search(r"\| ❌ \| cpu \| student: accuracy \| \d+\.\d+ % -\\> \d+\.\d+ %: .* 0 pp allowed \|", summary)
    assert summary.endswith("edgekd baseline check: exit code 1\n")


@pytest.mark.parametrize(
    ("tolerances", "message"),
    [("", "model/baseline.json is no baseline"), (" size=2  speed=1", "--tolerance speed=1: must be FIGURE=AMOUNT")],
)
def test_wrong_input_is_not_a_regression(checkout, variables, tolerances, message):
    (checkout / "model" / "baseline.json").write_text("{}")
    (script, own) = next(one for one in _steps(inputs={"tolerances": tolerances}) if "baseline check" in one[0])
    done = _bash(script, checkout, {**variables, **own})
    assert done.returncode == 2
    assert message in done.stderr
    assert Path(variables["GITHUB_STEP_SUMMARY"]).read_text() == (
        "edgekd report: exit code 2; edgekd baseline check: exit code 2\n"
    )


def test_the_action_wants_something_to_check_and_takes_several_models(checkout, variables):
    ((script, own),) = _action(_inputs({}))
    done = _bash(script, checkout, {**variables, **own})
    assert done.returncode == 2
    assert "name models to validate, or a run to check" in done.stderr
    given = {"models": "a b.onnx\nc.onnx\n", "reference": "model/teacher.onnx", "options": "--precision int8"}
    ((script, own),) = _action(_inputs(given))
    (checkout / "edgekd").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > arguments\nexit 3\n')
    (checkout / "edgekd").chmod(0o755)
    done = _bash(script, checkout, {**variables, **own, "PATH": f"{checkout}:{variables['PATH']}"})
    assert done.returncode == 3
    told = ["validate", "a b.onnx", "c.onnx", "--against", "model/teacher.onnx", "--precision", "int8", "--junit"]
    assert (checkout / "arguments").read_text().splitlines()[: len(told)] == told


def test_jenkins_runs_what_gitlab_runs():
    commands = re.findall(r"^\s+sh '(.*)'$", (ROOT / "examples" / "ci" / "Jenkinsfile").read_text(), re.MULTILINE)
    assert commands == GITLAB["model"]["script"]


def test_the_documentation_shows_the_files_as_they_are():
    text = (ROOT / "docs" / "ci.md").read_text()
    for name in ("github.yml", "gitlab.yml", "Jenkinsfile"):
        assert f"examples/ci/{name}" in text


def test_the_hooks_let_good_files_pass_and_stop_bad_ones(checkout, variables):
    (checkout / "pipelines").mkdir()
    (checkout / "pipelines" / "good.yaml").write_text(
        "version: 1\ndata: digits\nteacher: {model: mlp}\nstudent: {model: mlp}\n"
    )
    (checkout / "pipelines" / "bad.yaml").write_text("version: 1\ndata: digits\nteacher: {model: mlp, layers: 3}\n")
    (checkout / "model" / "baseline-bad.json").write_text("<<<<<<< ours\n{}\n")
    (checkout / "model" / "bad.onnx").write_bytes(b"no model")
    files = [str(path.relative_to(checkout)) for path in checkout.rglob("*") if ".git" not in path.parts]
    for name, bad, arguments in (
        ("edgekd-recipe", "pipelines/bad.yaml", ""),
        ("edgekd-baseline", "model/baseline-bad.json", ""),
        ("edgekd-validate", "model/bad.onnx", " --against model/teacher.onnx"),
    ):
        hook = HOOKS[name]
        assert hook["language"] == "python"
        good = [file for file in files if re.search(hook["files"], file) and file != bad]
        assert re.search(hook["files"], bad)
        assert good
        command = f"{hook['entry']}{arguments} {' '.join(good)}"
        assert _bash(command, checkout, variables).returncode == 0
        assert _bash(f"{command} {bad}", checkout, variables).returncode != 0
    assert len(HOOKS) == 3
