"""The public names, and a user's own functions given to them as they are."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest
from tiny import QUICK, ROOT

import edgekd
from edgekd import Recipe, bench, run
from edgekd.errors import EdgekdError, StageError, UsageError


def test_the_public_names_are_all_there_and_no_others():
    assert edgekd.__all__ == sorted(edgekd.__all__)
    assert set(edgekd.__all__) == {*edgekd._PUBLIC, "__version__"}
    assert all(getattr(edgekd, name) is not None for name in edgekd.__all__)
    modules = {path.stem for path in (ROOT / "edgekd").iterdir()}
    needed = {"annotations", "importlib", "os", "TYPE_CHECKING", "Any"}
    assert {name for name in vars(edgekd) if not name.startswith("_")} <= {*edgekd.__all__, *modules, *needed}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'edgekd' has no attribute 'distil'"):
        edgekd.distil  # noqa: B018


@pytest.mark.parametrize("function", [run, bench, Recipe.load, Recipe.of])
def test_public_functions_are_typed_and_documented(function):
    assert inspect.getdoc(function)
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "edgekd" / "py.typed").is_file()


def test_importing_the_package_loads_nothing():
    code = "import edgekd, sys; print(sorted({'torch', 'numpy', 'pydantic', 'onnx', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


MODULE = """
import numpy as np
from torch import nn

def splits():
    rng = np.random.default_rng(0)
    def split(n):
        labels = np.arange(n) % 2
        return (rng.standard_normal((n, 6)) + 3 * labels[:, None]).astype("float32"), labels
    return split(96), split(32), split(32)

def net(width):
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))
"""


@pytest.fixture
def mine(module, workplace):
    name = module(MODULE)
    sys.path.insert(0, str(workplace))
    return __import__(name)


def _recipe(mine, **changes) -> Recipe:
    return Recipe.of(
        data=mine.splits,
        teacher={"model": mine.net, "args": {"width": 32}, "epochs": 8, "batch_size": 16, "learning_rate": 0.01},
        student={"model": mine.net, "args": {"width": 16}, "epochs": 8, "batch_size": 16, "learning_rate": 0.01},
        prune=False,
        measure=QUICK,
        **changes,
    )


def test_functions_are_known_by_their_names(mine):
    recipe = _recipe(mine)
    assert recipe.data.source == f"{mine.__name__}:splits"
    assert recipe.teacher.model == recipe.student.model == f"{mine.__name__}:net"
    assert recipe == Recipe.of(**{key: value for key, value in recipe.resolved().items() if key != "version"})


def test_a_run_of_own_functions(mine, tmp_path):
    result = run(
        _recipe(mine, gates={"min_accuracy": 0.9}), devices=("cpu",), out=tmp_path / "run", store=tmp_path / "s"
    )
    assert (result.exit_code, result.path) == (0, tmp_path / "run")
    variants = result.report["devices"]["cpu"]["variants"]
    assert list(variants) == ["teacher", "student", "int8"]
    assert variants["teacher"]["parameters"] == 6 * 32 + 32 + 32 * 2 + 2
    # Two classes three standard deviations apart on each of six axes: hardly a mistake is possible.
    assert all(row["accuracy"] >= 0.95 for row in variants.values())
    assert result.report["provenance"]["data"]["counts"] == {"train": 96, "validation": 32, "test": 32}


def test_what_has_no_name_is_refused():
    with pytest.raises(UsageError, match="lambda"):
        Recipe.of(data=lambda: None, teacher={"model": "mlp"}, student={"model": "mlp"})


def test_errors_carry_the_exit_code_of_the_command_line():
    assert (EdgekdError.exit_code, UsageError.exit_code, StageError.exit_code) == (3, 2, 3)


def test_one_device_may_be_given_as_text(chain, store, unmeasured, tmp_path):
    result = run(chain.recipe, devices="cpu", out=tmp_path / "run", store=store)
    assert list(result.report["devices"]) == ["cpu"]


@pytest.mark.parametrize(("chosen", "seen"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
@pytest.mark.parametrize("package", ["edgekd", "edgekd.agent"])
def test_the_runtime_is_told_to_send_nothing_unless_its_user_says_otherwise(package, chosen, seen):
    here = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = f"import {package}, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=here | chosen, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert ran.stdout == f"{seen}\n"


@pytest.mark.parametrize(
    ("chosen", "seen"), [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_threads_that_wait_do_not_spin_for_long_unless_the_user_says_otherwise(chosen, seen):
    here = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import edgekd, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=here | chosen, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert ran.stdout == f"{seen}\n"


def test_the_runtime_keeps_nothing_to_be_sent(tmp_path):
    here = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    code = "import edgekd.graph.parity"  # which imports the runtime
    subprocess.run([sys.executable, "-c", code], env=here | {"HOME": str(tmp_path)}, cwd=ROOT, check=True)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
