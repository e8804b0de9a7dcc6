from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgekd.report import build, html, units, views

from .synthetic import BASELINE, CHAIN, CHOICE, INT8, STUDENT, TEACHER, TERMS

Make = Callable[..., Path]
LAYERS = [{"name": "conv", "type": "Conv", "precision": "int8"}]
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements, attributes and texts of a page; an element that is closed out of order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def visible(self) -> str:
        return " ".join(text for tag, text in self.texts if tag not in ("script", "style"))


@pytest.fixture
def run(make_run: Make) -> Path:
    variants = {**CHAIN, "int8": replace(INT8, layers=LAYERS)}
    pending = {"jetson": {"kind": "pending", "message": "run the bundle"}}
    return make_run(variants, gates={"max_drop_pp": 1.0, "min_speedup": 4}, devices=("cpu", "jetson"), errors=pending)


def test_the_embedded_data_is_report_json(run: Path) -> None:
    build.write(run)
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    embedded = next(text for tag, text in page.texts if tag == "script" and text.startswith('{"schema"'))
    assert json.loads(embedded) == json.loads((run / "report.json").read_text(encoding="utf-8"))


def test_nothing_is_fetched(run: Path) -> None:
    text = html.render(build.build(run))
    for tag, attributes in Page(text).tags:
        for key, value in attributes.items():
            if key in ("src", "href", "action", "data", "poster", "srcset"):
                assert value is not None
                assert value.startswith(("#", "data:")), (tag, key, value)
    assert "@import" not in text
    assert not re.search(r"url\(", text.split("</style>")[0])
    assert "sourceMappingURL" not in text
    assert "default-src 'none'" in text


def test_the_page_is_small_and_whole(run: Path) -> None:
    text = html.render(build.build(run))
    assert len(text.encode()) < 1_000_000
    assert text.startswith("<!doctype html>")
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("main") == 1
    assert [tag for tag, _ in page.tags].count("h1") == 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = [attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes]
    assert set(labels) <= set(ids)


def test_the_verdict_comes_first_and_the_figures_are_the_reports(run: Path) -> None:
    report = build.build(run)
    text = Page(html.render(report)).visible()
    assert text.index("Passed") < text.index("Accuracy against latency")
    int8 = report["devices"]["cpu"]["variants"]["int8"]
    for expected in (
        units.times(int8["speedup"]),
        units.duration(int8["latency_ns"]["p99"]),
        "98.50 %",
        "97.54 to 99.09 %",
        "30.0 kB",
        "drop 0.50 pp [0.02, 0.98] <= 1 pp",
        "computing layers: 9 int8, 2 float32",
        "jetson ? Pending run the bundle No figures of this device. What was made for it is kept: teacher (1.00 MB),",
        "Energy not measured: no readable RAPL domain",
        "edgekd pipeline digits --device cpu",
    ):
        assert expected in re.sub(r"\s+", " ", text), expected


@pytest.mark.parametrize(
    "name", ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"onload="x', "a&b"]
)
def test_hostile_names_are_text(make_run: Make, name: str) -> None:
    safe = {"teacher": TEACHER, "student": INT8}
    report = build.build(make_run(safe))
    hostile = json.loads(
        json.dumps(report).replace("student", json.dumps(name)[1:-1]).replace("digits", "<b>recipe</b>")
    )
    text = html.render(hostile)
    page = Page(text)
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3
    assert not [tag for tag, attributes in page.tags if tag in ("img", "b") and attributes]
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert name in page.visible()
    embedded = next(data for tag, data in page.texts if tag == "script" and data.startswith('{"schema"'))
    assert json.loads(embedded) == hostile


def test_a_run_without_any_measurement_still_renders(make_run: Make) -> None:
    error = {"cpu": {"kind": "failed", "message": "the agent stopped"}}
    report = build.build(make_run(errors=error, run={"stages": [], "provenance": {}, "recipe": None}))
    assert "the agent stopped" in Page(html.render(report)).visible()


def test_steps_say_what_each_changed(run: Path) -> None:
    steps = views.steps(build.build(run)["devices"]["cpu"], "teacher")
    assert [step["name"] for step in steps] == list(CHAIN)
    assert steps[0]["change"] is None
    int8 = steps[3]["change"]
    assert int8["accuracy_pp"] == pytest.approx(-0.1)
    assert int8["smaller"] == pytest.approx(100_000 / 30_000)
    assert int8["faster"] == pytest.approx(1.5, rel=0.01)
    assert steps[1]["change"]["faster"] == pytest.approx(2.5, rel=0.01)
    assert (steps[0]["size_share"], steps[3]["size_share"]) == (1.0, 0.03)


def test_steps_are_those_that_were_made_one_from_the_other(make_run: Make) -> None:
    other = replace(TEACHER, role="teacher")
    run = make_run({"teacher": other, "teacher-b": other, "baseline": BASELINE, "student": STUDENT, "int8": INT8})
    steps = views.steps(build.build(run)["devices"]["cpu"], "teacher")
    assert [step["name"] for step in steps] == ["teacher", "student", "int8"]
    assert steps[1]["change"]["accuracy_pp"] == pytest.approx(-0.2)


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", Page(text).visible())


def test_recall_by_class_is_a_folded_table(make_run: Make) -> None:
    lost = replace(INT8, wrong={"test": list(range(3, 300, 10)), "validation": 0})
    text = html.render(build.build(make_run({"teacher": TEACHER, "int8": lost})))
    before = text[: text.index("<summary>Recall by class</summary>")]
    assert before.rstrip().endswith("<details>")
    # Wilson's interval of 70 of 100, by its formula: 60.4 to 78.1 %.
    assert "70.0 % -29.00 pp 60.4 to 78.1 %" in flat(text)
    assert text.count('<td class="num worst"') == 1
    bare = html.render(build.build(make_run(name="bare", run={"provenance": {}})))
    assert "Recall by class" not in bare


def test_what_is_only_compared_with_has_its_tag(make_run: Make) -> None:
    other = replace(TEACHER, role="teacher")
    variants = {"teacher": other, "teacher-b": other, "baseline": BASELINE, "student": STUDENT, "int8": INT8}
    text = flat(html.render(build.build(make_run(variants))))
    for expected in (
        "teacher reference",
        "teacher-b another teacher",
        "baseline without a teacher",
        "The teachers are worth +0.80 pp [",
        "to the student. This is one seed; edgekd study tells more.",
    ):
        assert expected in text, expected


def test_the_terms_of_the_loss_are_plots_and_a_table(run: Path) -> None:
    text = html.render(build.build(run))
    assert re.findall(r'<canvas data-chart="(shares|norms)" data-stage="(\w+)"', text) == [
        ("shares", "distill"), ("norms", "distill"),
    ]  # fmt: skip
    assert "kd: gradient norm" in flat(text)
    assert "2 1 0.8 0.1 0.2 0.25 0.4 0.8 2" in flat(text)  # the second epoch of the distill stage


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_hostile_terms_and_candidates_are_text(make_run: Make, name: str) -> None:
    chosen = json.loads(json.dumps(CHOICE).replace("wide", json.dumps(name)[1:-1]))
    stages = [{"name": "choose", "facts": chosen}, {"name": name, "facts": {"terms": {name: TERMS["kd"]}}}]
    text = html.render(build.build(make_run(run={"stages": stages})))
    page = Page(text)
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert f"{name}: gradient norm" in page.visible()


def test_how_the_teacher_was_chosen_is_a_folded_table(make_run: Make) -> None:
    text = html.render(build.build(make_run(run={"stages": [{"name": "choose", "facts": CHOICE}]})))
    assert "<details><summary>Teacher: wide, chosen from 3 by short trials</summary>" in text
    shown = flat(text)
    assert "wide chosen 90.00 % 95.00 % 99.00 % 1.23 % 1.00 M 20.0 M" in shown
    assert "small 80.00 % – 97.00 % – – –" in shown


def test_state_rows_show_what_differs() -> None:
    rows = views.state_rows({"before": {"a": {"b": 1}, "c": "x"}, "after": {"a": {"b": 2}, "c": "x"}, "changes": []})
    assert rows == [("a.b", "1", "2", True), ("c", "x", "x", False)]


def test_absences_are_grouped_by_reason(run: Path) -> None:
    found = views.absences(build.build(run)["devices"]["cpu"])
    assert ("Energy", "no readable RAPL domain", list(CHAIN)) in found
