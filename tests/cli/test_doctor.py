"""`edgekd doctor`: what it prints, and its exit code."""

from __future__ import annotations

import json

import pytest

from edgekd import doctor
from edgekd.doctor import Finding

OK = Finding("packages", "base", "ok", "click 8")
MISSING = Finding("packages", "train", "missing", "not installed: torch", "training", "pip install 'edgekd[train]'")
BROKEN = Finding("runtimes", "openvino", "broken", "no libtbb", "measuring", "install it again")


@pytest.fixture
def found(monkeypatch):
    """Return the list of what doctor finds."""
    findings: list[Finding] = [OK, MISSING]
    monkeypatch.setattr(doctor, "examine", lambda data_dir: findings)
    return findings


def test_what_is_missing_is_no_failure_and_says_how_to_get_it(edgekd, found):
    outcome = edgekd("doctor")
    assert outcome.code == 0
    assert outcome.out.startswith("what is installed works; 1 optional parts are missing\n")
    for part in ("+ base", "- train", "not installed: torch", "gives: training", "mend: pip install 'edgekd[train]'"):
        assert part in outcome.out


def test_what_is_broken_fails(edgekd, found):
    found.append(BROKEN)
    outcome = edgekd("doctor")
    assert outcome.code == 1
    assert outcome.out.startswith("1 broken: openvino; 1 optional parts are missing\n")


def test_json_is_one_document(edgekd, found):
    found.append(BROKEN)
    outcome = edgekd("doctor", "--json")
    assert (outcome.code, outcome.err) == (1, "")
    content = json.loads(outcome.out)
    assert content["ok"] is False
    assert [Finding(**one) for one in content["findings"]] == found


def test_this_installation(edgekd, workplace):
    """All of it, for real: nothing is changed, and every part that is missing says what it would give."""
    outcome = edgekd("doctor", "--json")
    found = [Finding(**one) for one in json.loads(outcome.out)["findings"]]
    assert {one.area for one in found} == {
        "packages", "processor", "runtimes", "power", "room", "devices", "store", "data", "programs",
    }  # fmt: skip
    assert outcome.code == (1 if any(one.state == "broken" for one in found) else 0)
    for one in found:
        assert one.told
        assert one.state in ("ok", "note") or (one.gives and one.mend), one
    assert list(workplace.iterdir()) == []
