from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.report import junit
from edgekd.report.cases import STATUSES, Case

CASES = [
    Case("opset", "model.onnx", "passed", "18"),
    Case("top-1", "model.onnx", "failed", "97.0 % < 98 %", "the worst class:\n  3"),
    Case("latency", "int8.onnx", "skipped", "not asked for"),
    Case("accuracy", "int8.onnx", "error", "no labels"),
]
ELEMENTS = {"passed": "system-out", "failed": "failure", "skipped": "skipped", "error": "error"}


def test_a_suite_for_each_group_with_its_counts() -> None:
    root = ElementTree.fromstring(junit.render(CASES, title="edgekd validate"))
    assert (root.tag, root.attrib) == (
        "testsuites",
        {"name": "edgekd validate", "tests": "4", "failures": "1", "errors": "1", "skipped": "1"},
    )
    first, second = root
    assert first.attrib == {"name": "model.onnx", "tests": "2", "failures": "1", "errors": "0", "skipped": "0"}
    assert second.attrib == {"name": "int8.onnx", "tests": "2", "failures": "0", "errors": "1", "skipped": "1"}
    assert [case.attrib for case in first] == [
        {"classname": "edgekd validate.model_onnx", "name": "opset"},
        {"classname": "edgekd validate.model_onnx", "name": "top-1"},
    ]
    failure = first[1][0]
    assert (failure.tag, failure.attrib) == ("failure", {"message": "97.0 % < 98 %"})
    assert failure.text == "97.0 % < 98 %\nthe worst class:\n  3"
    assert [case[0].tag for case in second] == ["skipped", "error"]


def test_no_cases_are_a_whole_file() -> None:
    root = ElementTree.fromstring(junit.render([], title="t"))
    assert root.attrib["tests"] == "0"
    assert list(root) == []


@settings(max_examples=200)
@given(st.lists(st.builds(Case, st.text(), st.text(), st.sampled_from(STATUSES), st.text(), st.text())), st.text())
def test_whatever_the_texts_the_file_is_xml_and_every_case_is_in_it(cases: list[Case], title: str) -> None:
    root = ElementTree.fromstring(junit.render(cases, title=title).encode())
    found = root.findall("testsuite/testcase")
    assert len(found) == len(cases) == int(root.attrib["tests"])
    outcomes = sorted(child.tag for case in found for child in case if child.tag != "system-out")
    assert outcomes == sorted(ELEMENTS[case.status] for case in cases if case.status != "passed")


def test_a_name_is_kept_as_it_is_but_for_what_xml_cannot_hold() -> None:
    root = ElementTree.fromstring(junit.render([Case('<a> & "b"\x1b[31m', "g", "passed")], title="t"))
    assert root.findall("testsuite/testcase")[0].attrib["name"] == '<a> & "b"?[31m'
