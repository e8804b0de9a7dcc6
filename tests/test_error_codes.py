"""Every error has one code, which docs/errors.md explains, with an example that happens."""

from __future__ import annotations

import ast
import pkgutil
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import ROOT
from torch import nn

import edgekd as package
from edgekd import cli, data, error_codes, making, models, recipe, tasks
from edgekd.compress import factorization, quantize
from edgekd.errors import EdgekdError, StageError, UsageError
from edgekd.graph import half, lint
from edgekd.stages.quantize import Options as Quantization
from edgekd.stages.validate import Options as Validation
from edgekd.training import ranks
from edgekd.validation import export

PAGE = (ROOT / "docs" / "errors.md").read_text()
SECTION = re.compile(r"^## (E-[A-Z]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
SECTIONS = dict(SECTION.findall(PAGE))
EXAMPLE = re.compile(r"```text\n\$ (.*)\n(.*?)\n```", re.DOTALL)
SPECIAL = {error_codes.BUG, error_codes.DISK, error_codes.INTERRUPTED, error_codes.USAGE}
CODES = {*error_codes.AREAS.values(), *SPECIAL}


def _classes() -> set[str]:
    """Return the names of edgekd's classes of errors, wherever they are defined."""
    texts = [path.read_text() for path in (ROOT / "edgekd").rglob("*.py")]
    found = {"EdgekdError"}
    while True:
        below = "|".join(found)
        more = {name for text in texts for name in re.findall(rf"^class (\w+)\((?:{below})\):", text, re.MULTILINE)}
        if more <= found:
            return found
        found |= more


MAKERS = {*_classes(), "storage_error"}


def _modules() -> list[str]:
    found = [one.name for one in pkgutil.walk_packages(package.__path__, "edgekd.")]
    return [name for name in found if not name.startswith("edgekd.agent")]  # a program of its own, on the device


def _raising(module: str) -> bool:
    """Return whether a module makes errors of edgekd's classes."""
    path = ROOT / (module.replace(".", "/") + ".py")
    path = path if path.is_file() else path.with_suffix("") / "__init__.py"
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return any(isinstance(call.func, ast.Name) and call.func.id in MAKERS for call in calls)


def test_the_classes_of_errors_are_found():
    assert _classes() >= {"EdgekdError", "UsageError", "StageError", "DeviceError", "LostError", "MeasurementError"}


@pytest.mark.parametrize("module", [name for name in _modules() if _raising(name)])
def test_what_a_module_raises_has_a_code(module):
    """A module that raises errors for the first time may need a line in `edgekd.error_codes.AREAS`."""
    assert error_codes.area(module) in CODES, module


def test_every_area_is_a_module_and_raises_something():
    modules = _modules()
    for area in error_codes.AREAS:
        below = [name for name in modules if name == area or name.startswith(f"{area}.")]
        own = [name for name in below if error_codes.area(name) == error_codes.AREAS[area]]
        assert any(_raising(name) for name in own), area


def test_a_code_is_that_of_the_module_that_raised_it_not_of_those_that_it_came_through(tmp_path):
    with pytest.raises(UsageError) as failed:
        recipe.find("digitz")
    assert error_codes.code(failed.value) == "E-RECIPE"
    with pytest.raises(UsageError) as failed:
        recipe.Recipe.load(str(tmp_path / "none.yaml"))
    assert error_codes.code(failed.value) in ("E-RECIPE", "E-YAML")
    with pytest.raises(UsageError) as failed:
        data.load("digitz")
    assert error_codes.code(failed.value) == "E-DATA"
    assert error_codes.code(StageError("never raised")) == "E-BUG"
    assert error_codes.area("edgekd.compress.pruning") == "E-PRUNE"
    assert error_codes.area("edgekd.compress.bucketing") == "E-QUANTIZE"
    assert error_codes.area("edgekd.compression") is None


# ---- the page


def test_the_page_explains_each_code_once_and_no_other():
    assert sorted(SECTION.findall(PAGE)) == sorted(SECTIONS.items())
    assert set(SECTIONS) == CODES
    assert list(SECTIONS) == sorted(SECTIONS)
    for code, text in SECTIONS.items():
        assert re.search(r"^\*\*Cause\.\*\* ", text, re.MULTILINE), code
        assert re.search(r"^\*\*Cure\.\*\* ", text, re.MULTILINE), code
        assert f"error[{code}]: " in text or code == error_codes.INTERRUPTED, code


@pytest.fixture
def files(workplace, chain, write_recipe):
    """Make the files that the examples name."""
    (workplace / "text.onnx").write_text("not a network")
    (workplace / "folder").mkdir()
    (workplace / "folder" / "notes.txt").write_text("mine")
    (workplace / "typo.yaml").write_text("version: 1\ndata: digits\nteacher: {model: mlp, epoch: 3}\ndistill: false\n")
    (workplace / "half.zip").write_bytes(b"PK")
    (workplace / "meter.csv").write_text("no numbers\n")
    (workplace / "nets.py").write_text("def small():\n    raise ValueError('no luck')\n")
    (workplace / "run").symlink_to(chain.path)
    (workplace / "student.onnx").symlink_to(chain.path / "models" / "student.onnx")
    (workplace / "teacher.onnx").symlink_to(chain.path / "models" / "teacher.onnx")
    write_recipe()
    return workplace


EXAMPLES = {code: EXAMPLE.search(text) for code, text in SECTIONS.items()}


@pytest.mark.parametrize("code", [code for code, found in EXAMPLES.items() if found])
def test_an_example_of_the_page_says_what_it_says_there(edgekd, files, monkeypatch, code):
    found = EXAMPLES[code]
    assert found is not None
    words = shlex.split(found[1])
    for setting in words[: words.index("edgekd")]:
        monkeypatch.setenv(*setting.split("=", 1))
    outcome = edgekd(*words[words.index("edgekd") + 1 :])
    assert outcome.code in (2, 3, 4)
    _check(code, found[2], outcome.err[outcome.err.index("error[") :])


def _check(code: str, shown: str, told: str) -> None:
    """Check what is told against the page; three dots there stand for whatever a machine adds."""
    parts = " ".join(shown.split()).split("...")
    assert shown.startswith(f"error[{code}]: ")
    assert re.fullmatch(".*?".join(map(re.escape, parts)) + ".*", " ".join(told.split())), told


def _small_scale() -> None:
    """A quantized file with a scale that float16 rounds to nothing."""
    scale, zero = numpy_helper.from_array(np.float32(1e-9), "s"), numpy_helper.from_array(np.uint8(0), "z")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["i"], name="q"),
        helper.make_node("DequantizeLinear", ["i", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [scale, zero])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), "small.onnx")
    half.to_half(Path("small.onnx"), Path("half.onnx"))


def _wrong_export() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.datasets, "of", lambda inputs: SimpleNamespace(validation=SimpleNamespace(inputs=[0] * 4)))
        for module, name in ((export.blackbox, "load"), (export, "_answers"), (export.parity, "run_onnx")):
            patch.setattr(module, name, lambda *_: None)
        ports = {"inputs": [SimpleNamespace(name="x")], "outputs": [SimpleNamespace(name="y")]}
        patch.setattr(export, "_sound", lambda *_: SimpleNamespace(**ports))
        patch.setattr(export.blackbox, "is_black_box", lambda source: False)
        patch.setattr(export.parity, "compare", lambda *_: {})
        patch.setattr(export.parity, "check", lambda *_: ["y is wrong"])
        artifact = SimpleNamespace(path=Path(), facts={"file": "x.onnx"})
        inputs = SimpleNamespace(artifacts={"model": artifact, "onnx": artifact}, variant="student")
        export.validate(Validation(), inputs, Path())


PROVOKED = {
    "E-EXPORT": _small_scale,
    "E-FACTORIZE": lambda: factorization.restore(nn.Flatten(), {"ranks": {"a": 1}, "layers": {"a": 1}}, None, {}),
    "E-INSTALL": lambda: making._require(["unheard-of"]),
    "E-NETWORK": lambda: models.describe(Path()),
    "E-ONNX": lambda: lint.inspect(Path("text.onnx")),
    "E-QUANTIZE": lambda: quantize.calibration_samples(
        Quantization(), SimpleNamespace(train=SimpleNamespace(inputs=[]))
    ),
    "E-RANKS": lambda: ranks.configure(Path("none.yaml")),
    "E-TASK": lambda: tasks.load("regresion"),
    "E-VALIDATE": _wrong_export,
}
"""What no quick command provokes."""


@pytest.mark.parametrize("code", PROVOKED)
def test_so_does_what_no_quick_command_provokes(workplace, code):
    (workplace / "text.onnx").write_text("not a network")
    with pytest.raises(EdgekdError) as failed:
        PROVOKED[code]()
    (shown,) = re.findall(r"```text\n(.*?)\n```", SECTIONS[code], re.DOTALL)
    _check(code, shown, f"error[{error_codes.code(failed.value)}]: {failed.value}")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("E-BUG", ZeroDivisionError("integer division or modulo by zero")),
        ("E-DISK", OSError(28, "No space left on device", "/data/x")),
    ],
)
def test_and_what_nothing_raises_on_purpose(monkeypatch, capsys, code, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("edgekd.recipe.find", fail)
    monkeypatch.setattr("sys.argv", ["edgekd", "recipe", "show"])
    with pytest.raises(SystemExit):
        cli.main()
    (shown,) = re.findall(r"```text\n(.*?)\n```", SECTIONS[code], re.DOTALL)
    _check(code, shown, capsys.readouterr().err)


def test_every_code_has_its_example():
    provoked = {code for code, found in EXAMPLES.items() if found} | set(PROVOKED)
    assert provoked | {error_codes.BUG, error_codes.DISK, error_codes.INTERRUPTED} == CODES
