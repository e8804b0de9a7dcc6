"""What makes the agent able to live on a device: old syntax, few imports, one version."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgekd.agent
from edgekd.version import __version__

from .command import agent

PACKAGE = Path(edgekd.agent.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FOREIGN = ["torch", "onnx", "click", "pydantic", "yaml", "rich", "jinja2", "matplotlib", "filelock"]


def test_there_are_files() -> None:
    assert len(FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_python_3_8_reads_it(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 8))
    # Annotations such as `list[int]` are harmless only while nobody evaluates them.
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert futures or not any(isinstance(node, ast.FunctionDef | ast.AnnAssign) for node in ast.walk(tree))


def test_the_command_line_imports_nothing_foreign() -> None:
    code = "import edgekd.agent.__main__, sys, json; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parents[1]
    )
    loaded = set(json.loads(ran.stdout))
    assert loaded.isdisjoint([*FOREIGN, "onnxruntime", "openvino"])


def test_version() -> None:
    assert edgekd.agent.__version__ == __version__


def test_probe_prints_json() -> None:
    told = json.loads(agent("probe", "--json").stdout)
    assert told["protocol"] == edgekd.agent.PROTOCOL
    assert set(told["isa"]) >= {"arch", "vnni"}
    assert {"onnxruntime", "openvino", "tensorrt"} <= set(told["backends"])
    assert told["backends"]["onnxruntime"]["version"]
    assert (told["meters"]["rapl"]["scope"] is None) == (told["meters"]["rapl"]["reason"] is not None)
    assert told["environment"]["python"] == sys.version.split()[0]
    assert told["sections"]["software"]["onnxruntime"]["value"] == told["backends"]["onnxruntime"]
