"""Cases as JUnit XML, in the form that GitHub's reporters, GitLab and Jenkins all read.

There is no standard of it; what the three have in common is `testsuites/testsuite/testcase` with `failure`, `error` or
`skipped` inside. Times are left out where nothing was timed: all three take that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from edgekd.report.cases import Case, counted, grouped

# What XML 1.0 cannot hold, not even escaped (section 2.2 of the recommendation).
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS = {"failed": "failure", "error": "error", "skipped": "skipped"}


def render(cases: Sequence[Case], *, title: str) -> str:
    """Return the text of a JUnit file: a suite for each group, and a case for each case.

    Args:
        title: What was done, such as "edgekd validate"; it becomes the name of the whole, and the package of the cases.
    """
    root = ElementTree.Element("testsuites", {"name": _text(title), **_counts(cases)})
    for group, own in grouped(cases).items():
        suite = ElementTree.SubElement(root, "testsuite", {"name": _text(group), **_counts(own)})
        for case in own:
            _add(suite, case, f"{_undotted(title)}.{_undotted(group)}")
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, "unicode")}\n'


def _add(suite: ElementTree.Element, case: Case, classname: str) -> None:
    added = ElementTree.SubElement(suite, "testcase", {"classname": _text(classname), "name": _text(case.name)})
    told = "\n".join(part for part in (case.message, case.detail) if part)
    if case.status in _ELEMENTS:
        outcome = ElementTree.SubElement(added, _ELEMENTS[case.status], {"message": _text(case.message)})
        outcome.text = _text(told)
    elif told:
        ElementTree.SubElement(added, "system-out").text = _text(told)


def _counts(cases: Sequence[Case]) -> dict[str, str]:
    found = counted(cases)
    return {
        "tests": str(len(cases)),
        "failures": str(found["failed"]),
        "errors": str(found["error"]),
        "skipped": str(found["skipped"]),
    }


def _undotted(name: str) -> str:
    """A name as one part of a class's: Jenkins takes what stands before the last dot for a package."""
    return name.replace(".", "_")


def _text(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
