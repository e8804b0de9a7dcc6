"""JUnit as GitHub, GitLab and Jenkins read it; Markdown and JSON that nothing in a model can break."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from edgekd import validate
from edgekd.report import junit, markdown
from edgekd.validation.checks import CHECKS
from edgekd.validation.results import cases, verdict
from validation.nets import classifier, samples, save
from validation.zoo import _odd_names


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sound file and a stale one, with real inputs and too few samples to tell."""
    folder = tmp_path_factory.mktemp("forms")
    reference, stale = save(classifier(), folder / "reference.onnx"), save(classifier(seed=5), folder / "stale.onnx")
    np.savez(folder / "data.npz", x=samples(40), labels=np.arange(40) % 5)
    result = validate([reference, stale], reference, data=str(folder / "data.npz"), max_drop_pp=1.0, bisect=True)
    assert result.exit_code == 1
    return dict(result.content)


def test_every_check_is_told_once_or_for_each_subject(found: dict[str, Any]):
    for model in found["models"]:
        told = [(check["id"], check["subject"]) for check in model["checks"]]
        assert len(set(told)) == len(told)
        assert [id for id, _ in told] == sorted((id for id, _ in told), key=list(CHECKS).index)
        assert {id for id, _ in told} == set(CHECKS)


def _junit(content: Any) -> str:
    return junit.render(cases(content), title="edgekd validate")


def _markdown(content: Any) -> str:
    return markdown.render(cases(content), title="edgekd validate", lead="")


def test_junit_has_a_suite_for_each_model_and_a_case_for_each_check(found: dict[str, Any]):
    """Counts that add up, which GitLab and GitHub show; what makes the exit code 1 is a failure or an error."""
    root = ET.fromstring(_junit(found))
    assert [suite.tag for suite in root] == ["testsuite", "testsuite"]
    for suite, model in zip(root, found["models"], strict=True):
        assert suite.attrib["name"] == model["model"]
        tests = suite.findall("testcase")
        assert int(suite.attrib["tests"]) == len(tests) == len(model["checks"])
        for case, check in zip(tests, model["checks"], strict=True):
            failing = [child for child in case if child.tag in ("failure", "error")]
            assert bool(failing) == check["fails"]
            assert all("To do:" in (child.text or "") for child in failing)
        names = [(case.attrib["classname"], case.attrib["name"]) for case in tests]
        assert len(set(names)) == len(names)
    told = [failure.text or "" for failure in root.iter("failure")]
    assert any("bisect: c1 (Conv) is the first that departs" in text for text in told)


def test_the_first_model_is_inconclusive_and_says_how_many_samples_would_tell(found: dict[str, Any]):
    (check,) = (check for check in found["models"][0]["checks"] if check["fails"])
    assert (check["id"], check["status"], check["value"], check["limit"]) == ("accuracy-drop", "inconclusive", 0.0, 1.0)
    assert "samples" in check["remedy"]


def test_markdown_tells_every_check(found: dict[str, Any]):
    text = _markdown(found)
    assert text.startswith("## ❌ edgekd validate")
    assert "bisect: c1 (Conv)" in text
    for check in found["models"][0]["checks"]:
        assert check["id"] in text


def test_json_holds_numbers_or_null(found: dict[str, Any]):
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again["models"][0]["status"] == "failed"
    values = [check["value"] for model in again["models"] for check in model["checks"]]
    assert all(value is None or math.isfinite(value) for value in values)
    (sqnr,) = (check for check in again["models"][0]["checks"] if check["id"] == "parity-sqnr")
    assert (sqnr["status"], sqnr["value"]) == ("passed", None)  # equal: infinite


def test_random_inputs_are_called_so_in_every_form(tmp_path: Path):
    path = save(classifier(), tmp_path / "model.onnx")
    content = validate([path], path).content
    assert content["inputs"] == "random"
    accuracy = next(check for check in content["models"][0]["checks"] if check["id"] == "accuracy-drop")
    assert (accuracy["status"], accuracy["message"]) == ("not_measured", "random inputs have no labels")
    assert "64 RANDOM inputs, accuracy not measured" in verdict(content)
    root = ET.fromstring(_junit(content))
    case = root.find(".//testcase[@name='accuracy-drop']/skipped")
    assert case is not None
    assert case.attrib["message"] == "random inputs have no labels"


def test_a_limit_that_cannot_be_judged_fails(tmp_path: Path):
    path = save(classifier(), tmp_path / "model.onnx")
    found = validate([path], path, max_drop_pp=1.0)
    assert found.exit_code == 1
    assert [check["id"] for check in found.content["models"][0]["checks"] if check["fails"]] == ["accuracy-drop"]
    assert 'errors="1"' in _junit(found.content)


def test_names_in_a_model_break_no_form(tmp_path: Path):
    folder = tmp_path / "<b>|`model\x07"
    folder.mkdir()
    path = save(_odd_names(), folder / "m&m.onnx")
    content = validate([path], save(classifier(seed=3), tmp_path / "r.onnx"), bisect=True).content
    ET.fromstring(_junit(content))
    text = _markdown(content)
    assert not re.search(r"(?<!\\)<(?!/?details>|/?summary>)", text)
    assert all(char.isprintable() or char == "\n" for char in text)
