"""Every command of the documentation is executed, in the order of the pages; the files that they name are small ones.

What takes hours is executed up to its first training: `edgekd pipeline` by `--plan`, a study and a search until they
would train. What cannot be executed here stands in `ELSEWHERE`, with the reason.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from test_docs import COMMANDS, commands_of_others
from tiny import SHARED_DATA, Chain

from edgekd import data
from edgekd.dispatch import job
from edgekd.errors import StageError

ELSEWHERE = {
    "--at jetson=": "a board at an address; tests/test_over_ssh.py measures over ssh",
    "--device my-orin": "a board of the reader's",
    "--add result.zip": "what a board gave; tests/dispatch completes runs",
    "--power ": "what a meter gave; tests/report/test_external.py adds readings",
    "postgresql://": "a server; tests/tuning starts one",
}
OTHERS = {
    "torchrun": "several processes; tests/training starts them",
    "EDGEKD_STORAGE=": "a server; tests/tuning starts one",
}
NO_TRAINING = "nothing is trained in this test"
CODES = {"study": {3}, "search": {3}, "validate": {0, 1}}
"""Of what is stopped at its first training, and of what judges models that hardly learned; all else is 0."""
BOUGHT = ("mnist", "fashion")  # recipes whose data are looked for in a folder


@pytest.fixture
def world(chain: Chain, store: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fill a working directory with small files of the names that the documentation uses."""
    monkeypatch.setenv("EDGEKD_HOME", str(store))
    monkeypatch.setenv("EDGEKD_DATA", str(SHARED_DATA))
    shortest = replace(
        job.QUICK, processes=1, seconds=0.05, inferences=20, warmup_seconds=0.05, throughput_seconds=0.05
    )
    monkeypatch.setattr(job, "method", lambda options: shortest)

    def stop(*_: Any, **__: Any) -> None:
        raise StageError(NO_TRAINING)

    for module in ("edgekd.study", "edgekd.tuning.search"):
        monkeypatch.setattr(f"{module}.pipeline", SimpleNamespace(open_workshop=stop))
    _models(chain, workplace)
    for name in ("report", "run-monday", "run-tuesday", "run-a", "run-b", "run-c"):
        shutil.copytree(chain.path, workplace / name)
    recipe = yaml.safe_dump({**chain.recipe.resolved(), "search": {"space": {"distill.temperature": [2, 4]}}})
    for name in ("my.yaml", "best.yaml"):
        (workplace / name).write_text(recipe)
    return workplace


def _models(chain: Chain, folder: Path) -> None:
    """Copy the models of the tiny run under every name, with inputs and labels for them."""
    made = chain.path / "models"
    names = {"teacher": "teacher.onnx", "reference": "teacher.onnx", "student": "pruned.onnx", "a": "student.onnx"}
    names |= {"b": "pruned.onnx", "student.int8": "int8*.onnx"}
    for name, source in names.items():
        shutil.copy(next(made.glob(source)), folder / f"{name}.onnx")
    broken = onnx.load(folder / "student.onnx")
    weights = max(broken.graph.initializer, key=lambda one: len(one.raw_data))
    weights.raw_data = bytes(len(weights.raw_data))
    onnx.save(broken, folder / "broken.onnx")
    name = broken.graph.input[0].name
    test = data.load("digits", validation=0.1, test_samples=64).test
    inputs, labels = np.asarray(test.inputs, np.float32), np.asarray(test.targets)
    np.savez(folder / "test.npz", **{name: inputs, "labels": labels})
    (folder / "samples").mkdir()
    np.save(folder / "samples" / f"{name}.npy", inputs)
    for other in ("model", "models", "tests"):
        (folder / other).mkdir()
    for other in ("model", "models"):
        shutil.copy(folder / "student.onnx", folder / other)
        shutil.copy(folder / "teacher.onnx", folder / other)
    shutil.copy(folder / "test.npz", folder / "tests" / "samples.npz")
    halves = {"x_train": inputs[:32], "y_train": labels[:32], "x_test": inputs[32:], "y_test": labels[32:]}
    np.savez(folder / "model" / "test.npz", **halves)


def _executed() -> list[list[str]]:
    """Return the commands that this test executes, each once."""
    found = {}
    for _, words in COMMANDS:
        text = " ".join(words)
        if any(there in text for there in ELSEWHERE):
            continue
        if any(name in text for name in BOUGHT) and not SHARED_DATA.is_dir():
            continue
        short = [*words, *(["--plan"] if words[0] == "pipeline" and "--plan" not in words else [])]
        short = ["my.yaml" if words[0] == "validate" and word == "digits" else word for word in short]
        found[" ".join(short)] = short
    return list(found.values())


def test_every_command_does_what_the_page_says(world: Path, edgekd) -> None:
    wrong = []
    mine = (world / "my.yaml").read_text()
    commands = _executed()
    for words in commands:
        if words[:2] == ["recipe", "copy"]:
            Path(words[-1]).unlink(missing_ok=True)
        outcome = edgekd(*words)
        (world / "my.yaml").write_text(mine)
        if "found" in words:  # what the search would have left
            (world / "found").mkdir()
            (world / "found" / "best.yaml").write_text(mine)
        if outcome.code not in CODES.get(words[0], {0}):
            wrong.append(f"{' '.join(words)}: exit code {outcome.code}: {outcome.text[-600:]}")
        elif outcome.code == 3 and NO_TRAINING not in outcome.err:
            wrong.append(f"{' '.join(words)}: {outcome.err[-600:]}")
        elif not outcome.out and outcome.code != 3:
            wrong.append(f"{' '.join(words)}: said nothing")
    assert not wrong, "\n".join(wrong)
    assert len(commands) > 60
    for name in ("out.xml", "out.md", "out.json", "baseline.json", "changes.svg", "gates.xml", "plots/cpu-plane.png"):
        assert (world / name).stat().st_size > 0


def test_what_is_executed_elsewhere_is_a_short_list() -> None:
    texts = [" ".join(words) for _, words in COMMANDS]
    assert all(any(there in text for text in texts) for there in ELSEWHERE)
    left = {text for text in texts if any(there in text for there in ELSEWHERE)}
    assert len(left) <= 12
    assert all(line.startswith(tuple(OTHERS)) for line in commands_of_others())
