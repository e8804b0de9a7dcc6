from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from edgekd.report.study import build, forest, page

from .study_synthetic import write_study
from .test_html import Page

SVG = "{http://www.w3.org/2000/svg}"
GAINS = {"kd": 0.3, "dkd": 0.05, "attention": -0.1, "far": -0.5}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study", GAINS)


def test_the_page_is_small_and_whole_and_fetches_nothing(study: Path) -> None:
    build.write(study)
    text = (study / "study.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 500_000
    assert text.startswith("<!doctype html>")
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert "url(" not in text
    found = Page(text)
    tags = [tag for tag, _ in found.tags]
    assert (tags.count("main"), tags.count("h1"), tags.count("script")) == (1, 1, 0)
    for tag, attributes in found.tags:
        for key in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(key) or "#").startswith(("#", "data:")), (tag, key)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = " ".join(attributes.get("aria-labelledby") or "" for _, attributes in found.tags).split()
    assert set(labels) <= set(ids)


def test_the_answer_comes_first_then_the_plot_then_the_table(study: Path) -> None:
    results = build.write(study)
    text = re.sub(r"\s+", " ", Page((study / "study.html").read_text()).visible())
    places = [
        text.index(re.sub(r"\s+", " ", part)) for part in (results["headline"], "Differences", "distill.losses=kd")
    ]
    assert places == sorted(places)
    row = results["methods"][0]
    for expected in (
        f"{row['difference_pp']:+.2f}",
        f"{row['verdict_ci_pp'][0]:.2f} to {row['verdict_ci_pp'][1]:.2f}",
        f"{100 * row['mean']:.2f} %",
        "98.75 % interval",
        "All 25 trials",
        "edgekd study digits",
        "samples",
    ):
        assert expected in text, expected


def test_the_svg_stands_alone(study: Path) -> None:
    results = build.write(study)
    text = (study / "study.svg").read_text(encoding="utf-8")
    root = ET.fromstring(text)
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert title.text == results["headline"]
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert len(root.findall(f".//{SVG}circle[@class='dot']")) == 4 * 5
    assert {element.text for element in root.findall(f".//{SVG}text[@class='name']")} == set(GAINS)
    used = set(re.findall(r"var\((--\w+)\)", text))
    assert used <= set(re.findall(r"(--\w+):", text))
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize(
    "name",
    ["</svg></style><script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"onload="x', "a&b", "{{ 7 * 7 }}"],
)
def test_hostile_names_are_text(tmp_path: Path, name: str) -> None:
    recipe = {"recipe": name, "task": name, "provenance": {"command": [name], name: name}, "budget": {name: name}}
    trials = {(name, 0): {"status": "failed", "error": name, "artifact": name, "terms": {name: name}}}
    folder = write_study(tmp_path / "study", {name: 0.3, "b": 0.1}, study=recipe, trials=trials)
    build.write(folder)
    found = Page((folder / "study.html").read_text())
    assert not [tag for tag, _ in found.tags if tag in ("script", "img")]
    assert not any(key.startswith("on") for _, attributes in found.tags for key in attributes)
    assert name in found.visible()
    drawn = ET.fromstring((folder / "study.svg").read_text())
    assert name in [title.text for title in drawn.findall(f".//{SVG}text/{SVG}title")]
    assert not drawn.findall(f".//{SVG}script")


def test_control_characters_do_not_break_the_svg(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", {"a\x01b": 0.3}, study={"recipe": "x\x02"})
    build.write(folder)
    assert "a?b" in (folder / "study.svg").read_text()
    ET.parse(folder / "study.svg")


@pytest.mark.parametrize("layout", [forest.WIDE, forest.NARROW])
def test_everything_of_the_plot_lies_where_it_belongs(study: Path, layout: forest.Layout) -> None:
    drawn = forest.plot(build.build(study), layout)
    assert layout.left < drawn["zero"] < drawn["margin"] < layout.right
    assert drawn["ticks"][0][0] >= layout.left
    assert 3 <= len(drawn["ticks"]) <= layout.ticks + 1
    assert (drawn["zero"], "0") in drawn["ticks"]
    assert all(a[0] < b[0] for a, b in pairwise(drawn["ticks"]))
    kd = drawn["rows"][0]
    assert drawn["zero"] < kd["verdict_ci"][0] < kd["ci"][0] < kd["point"] < kd["ci"][1] < kd["verdict_ci"][1]
    assert [(row["y"] - layout.line) / layout.row for row in drawn["rows"]] == [0, 1, 2, 3]


def test_a_method_far_off_is_an_arrow_and_leaves_room_for_the_others(tmp_path: Path) -> None:
    results = build.write(write_study(tmp_path / "study", {"kd": 0.2, "dkd": 0.1, "hint": 0.05, "broken": -4.0}))
    drawn = forest.plot(results, forest.WIDE)
    broken = drawn["rows"][3]
    assert (broken["point"], broken["ci"], broken["seeds"]) == (None, None, [])
    assert (broken["cut_low"], broken["cut_high"]) == (True, False)
    assert not any(row["cut_low"] or row["cut_high"] for row in drawn["rows"][:3])
    first = drawn["rows"][0]["ci"]
    assert first[1] - first[0] > 0.05 * (forest.WIDE.right - forest.WIDE.left)


def test_a_long_name_is_cut_by_its_width(tmp_path: Path) -> None:
    results = build.write(write_study(tmp_path / "study", {"x" * 60: 0.2, "蒸留" * 20: 0.1}))
    rows = forest.plot(results, forest.WIDE)["rows"]
    assert [row["short"] for row in rows] == ["x" * 23 + "…", "蒸留" * 5 + "蒸" + "…"]


def test_words_for_changes_and_sentences_that_do_not_part_figures() -> None:
    assert (
        page.changes({"distill.losses": ["kd", "at"], "student.epochs": 3}) == "distill.losses=kd,at, student.epochs=3"
    )
    assert page.unbroken("by 0.42 pp [0.20, 0.64] on") == "by 0.42\u00a0pp [0.20,\u00a00.64] on"
