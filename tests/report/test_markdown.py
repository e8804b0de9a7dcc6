from __future__ import annotations

import pytest

from edgekd.report import markdown
from edgekd.report.cases import Case

from .test_junit import CASES


def test_what_did_not_pass_comes_first_and_all_is_there() -> None:
    text = markdown.render(CASES, title="edgekd validate", lead="A **lead**.")
    lines = text.splitlines()
    assert lines[0] == "## ❌ edgekd validate"
    assert lines[2] == "1 passed, 1 failed, 1 skipped, 1 not checked"
    assert lines[4:8] == [
        "|  | of | what | why |",
        "| --- | --- | --- | --- |",
        r"| ❌ | model.onnx | top-1 | 97.0 % \< 98 % |",
        "| ⚠️ | int8.onnx | accuracy | no labels |",
    ]
    assert lines[9] == "A **lead**."
    assert "<summary>model.onnx: top-1</summary>" in text
    assert "```text\nthe worst class:\n  3\n```" in text
    assert "<summary>model.onnx: all 2 checks</summary>" in text
    assert "| ✅ | opset | 18 |" in text
    assert text.count("<details>") == text.count("</details>") == 3
    assert text.endswith("</details>\n")


@pytest.mark.parametrize(
    ("statuses", "mark"),
    [(["passed", "skipped"], "✅"), (["skipped"], "⏭️"), (["error", "passed"], "⚠️"), ([], "⏭️")],
)
def test_the_heading_tells_the_worst(statuses, mark) -> None:
    cases = [Case(str(k), "g", status) for k, status in enumerate(statuses)]
    assert markdown.render(cases, title="t").startswith(f"## {mark} t\n")


def test_a_hostile_name_is_only_text() -> None:
    name = "a|b\n<img src=x onerror=alert(1)> [x](http://y) `c` **d** &lt;"
    text = markdown.render([Case(name, "</summary><script>", "failed", name, "```\n</details>")], title=name)
    rows = [line for line in text.splitlines() if line.startswith("| ❌")]
    assert len(rows) == 2  # the line break is gone, or there were more
    for row in rows:
        assert r"a\|b \<img src=x onerror=alert(1)\> \[x\](http://y) \`c\` \*\*d\*\* &amp;lt;" in row
    assert "<script>" not in text.replace(r"\<script\>", "")
    assert "&lt;/summary&gt;&lt;script&gt;" in text
    assert "````text\n```\n</details>\n````" in text  # a longer fence than the one inside


def test_details_are_bounded() -> None:
    cases = [Case(str(k), "g", "failed", "m", "x" * 40_000) for k in range(5)]
    text = markdown.render(cases, title="t")
    assert len(text) < 100_000
    assert "More details are in the JUnit file." in text
