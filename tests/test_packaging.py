"""What is shipped, and that every place says the same about how it is installed."""

from __future__ import annotations

import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from tiny import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_wheel_has_everything_that_is_needed_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in ("pipelines", "devices"):
            files = sorted((ROOT / name).glob("*.yaml"))
            assert files
            for path in files:
                assert archive.read(f"edgekd/_data/{name}/{path.name}") == path.read_bytes()
    own = {path.relative_to(ROOT).as_posix() for path in (ROOT / "edgekd").rglob("*") if path.is_file()}
    own = {name for name in own if "__pycache__" not in name}
    assert {"edgekd/py.typed", "edgekd/report/template.html.jinja", "edgekd/report/assets/chart.umd.min.js"} <= own
    assert own <= names
    others = {name for name in names - own if not name.startswith(("edgekd/_data/", wheel.name.split("-py3")[0]))}
    assert others == set()


def _packages(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ;]", requirement)[0].lower() for requirement in requirements}


def test_the_base_has_no_framework_and_each_extra_what_it_is_for():
    extras = PROJECT["optional-dependencies"]
    base = _packages(PROJECT["dependencies"])
    assert {"numpy", "click", "pydantic", "pyyaml", "rich", "jinja2", "matplotlib", "onnx", "onnxruntime"} <= base
    train = {"torch", "torchao", "torch-pruning", "accelerate", "safetensors", "onnxscript", "scikit-learn"}
    assert _packages(extras["train"]) == train
    assert not base & train
    assert _packages(extras["openvino"]) == {"openvino"}
    assert _packages(extras["search"]) == {"optuna"}
    assert _packages(extras["postgresql"]) == {"psycopg"}
    assert _packages(extras["mlflow"]) == {"mlflow-skinny", "sqlalchemy", "alembic"}
    assert _packages(extras["tensorboard"]) == {"tensorboard"}
    assert extras["all"] == ["edgekd[train,openvino,search,postgresql,mlflow,tensorboard]"]
    assert {"edgekd[all]", "edgekd[docs]"} <= set(extras["dev"])


def test_every_requirement_has_one_exact_version():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.lower().split("==") for line in lines)
    assert len(pinned) == len(lines)
    asked = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    assert _packages(asked) - {"edgekd"} <= {*pinned, *(name.replace("_", "-") for name in pinned)}
    assert pinned["torch"] == "2.13.0"


@pytest.mark.parametrize("target", ["demo", "test", "check", "docs", "soak"])
def test_the_makefile_has_its_targets_and_each_sets_itself_up(target):
    rules = re.findall(rf"^{target}: (.*)$", MAKEFILE, re.MULTILINE)
    assert any("$(VENV)/." in rule for rule in rules)


def test_continuous_integration_calls_the_targets():
    script = (ROOT / ".ci" / "run").read_text()
    assert [line.split()[1] for line in script.splitlines() if line.startswith("make ")] == [
        "check",
        "docs",
        "test",
        "soak",
    ]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def _copies() -> list[str]:
    return [source for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]]


def test_what_the_image_copies_is_there_and_not_ignored():
    sources = _copies()
    assert {"edgekd", "pipelines", "devices", "pyproject.toml", "constraints.txt"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) <= allowed


def test_the_image_installs_as_the_makefile_does():
    pip = re.search(r"^PIP\s*=\s*\$\(VENV\)/bin/(.*)$", MAKEFILE, re.MULTILINE)
    assert pip is not None
    full_host = MAKEFILE[MAKEFILE.index("$(VENV)/.all:") : MAKEFILE.index("$(VENV)/.dev:")]
    wanted = [f"{pip[1]} {arguments}" for arguments in re.findall(r"^\t\$\(PIP\) (.*)$", full_host, re.MULTILINE)]
    assert len(wanted) == 2
    assert [line for line in re.findall(r"^RUN (.*)$", DOCKERFILE, re.MULTILINE) if " pip " in line] == wanted


def test_the_image_runs_as_nobody_special_and_is_the_command():
    assert re.findall(r"^FROM (.*)$", DOCKERFILE, re.MULTILINE) == ["python:3.11-slim"]
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["edgekd"]
    assert re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE) == ['["edgekd"]']
    assert "useradd" in DOCKERFILE


def test_what_the_project_links_to_is_there():
    assert (ROOT / PROJECT["readme"]).is_file()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
    for name in ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))):
        text = (ROOT / name).read_text()
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}"


def test_no_file_is_long_without_a_reason():
    long = {
        path.relative_to(ROOT).as_posix(): count
        for path in (ROOT / "edgekd").rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 300
    }
    assert long == {}


def test_folders_of_leftovers_do_not_exist():
    assert not {path.stem for path in Path(ROOT / "edgekd").rglob("*.py")} & {"utils", "helpers", "common", "manager"}
