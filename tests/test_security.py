"""What no line of the project may do, whoever wrote it: docs/security.md promises it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import ROOT

from edgekd import Recipe

SOURCES = sorted((ROOT / "edgekd").rglob("*.py"))
MODULES_THAT_RUN_WHAT_THEY_READ = {"marshal", "shelve", "dill", "cloudpickle", "joblib"}
CALLS_THAT_RUN_WHAT_THEY_READ = {
    "eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "torch.jit.load",
    "pandas.read_pickle",
}  # fmt: skip
"""np.load as well: edgekd.agent.npy makes room for no more than is there, np.load for whatever a header says."""
OUR_OWN = {"edgekd/distill/targets.py": {"np.load"}, "edgekd/lessons.py": {"np.load"}}
"""Arrays of the store, whose digests have been checked."""


def test_nothing_that_is_read_is_run() -> None:
    found = []
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            found += [f"{name}:{getattr(node, 'lineno', 0)} {problem}" for problem in _problems(node, name)]
    assert found == []


def _problems(node: ast.AST, name: str) -> Iterator[str]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        modules = [str(node.module)] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        yield from (f"imports {one}" for one in modules if one.split(".")[0] in MODULES_THAT_RUN_WHAT_THEY_READ)
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in CALLS_THAT_RUN_WHAT_THEY_READ and called not in OUR_OWN.get(name, ()):
            yield f"calls {called}"
        if called == "np.load" and given.get("allow_pickle") != "False":
            yield "reads arrays that may be pickled"
        if called == "torch.load" and given.get("weights_only") != "True":
            yield "reads weights that may be pickled"
        if called.endswith((".extractall", ".unpack_archive")):
            yield "unpacks an archive without looking at it: use edgekd.dispatch.archive"
        if given.get("shell") == "True":
            yield "gives a shell what it may have read"


def test_a_recipe_is_read_without_running_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text(
        "open('it-ran', 'w').close()\ndef build(**_):\n    open('it-ran', 'w').close()\n"
    )
    recipe = "version: 1\ndata: digits\nteacher: {model: resnet}\nstudent: {model: 'theirs:build'}\n"
    (tmp_path / "theirs.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Recipe.load("theirs.yaml", ["data=theirs:build"]).student.model == "theirs:build"
    assert not (tmp_path / "it-ran").exists()


def test_what_the_documentation_names_as_its_proof_is_there() -> None:
    named = 0
    for row in (ROOT / "docs" / "security.md").read_text().splitlines():
        for reference in [part for part in row.split("`") if part.startswith("tests/")]:
            path, _, test = reference.partition("::")
            assert (ROOT / path).exists(), reference
            assert not test or f"def {test}(" in (ROOT / path).read_text(), reference
            named += 1
    assert named > 20
