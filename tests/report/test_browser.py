"""The pages in a real browser: plots have their points; mouse, keys, phone and paper work; nothing is reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekd.report import build, palette
from edgekd.report.study import build as study

from .browser import PHONE, PROGRAM, Page, browser
from .study_synthetic import write_study
from .synthetic import CHAIN, TERMS, write_run
from .test_budget import NETWORKS, POINTS, described
from .test_metered import altered

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")
PAPER = (700, 1000)  # A4 within its margins, at 96 pixels an inch
HOSTILE = "<img src=x onerror=console.log(1)>"
CHART = "Chart.getChart(document.querySelector('[data-chart={}]'))"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Write a run with every kind of plot, some of whose names are hostile."""
    chain = {(HOSTILE if name == "pruned" else name): fake for name, fake in CHAIN.items()}
    fakes = {name: replace(fake, joules=0.01 * (1 + k)) for k, (name, fake) in enumerate(chain.items())}
    run = write_run(tmp_path_factory.mktemp("metered") / "run", fakes, gates={"max_drop_pp": 1.0})
    altered(run, lambda energy: energy["windows"][2].update(rejected="the device throttled"))
    content = json.loads((run / "run.json").read_text())
    hostile = {"</script><script>throw 1</script>": TERMS["kd"], "__proto__": TERMS["labels"]}
    single = {name: {kind: values[:1] for kind, values in kinds.items()} for name, kinds in TERMS.items()}
    content["stages"] += [{"name": "<b>a", "facts": {"terms": hostile}}, {"name": "b", "facts": {"terms": single}}]
    (run / "run.json").write_text(json.dumps(content))
    report = build.write(run)
    return SimpleNamespace(file=run / "report.html", device=report["devices"]["cpu"])


def is_quiet(page: Page, file: Path) -> bool:
    """Whether nothing was written to the console, and nothing but the page itself asked for."""
    return page.reported == [] and {address for address in page.asked if address[:5] != "data:"} == {file.as_uri()}


def points(page: Page, chart: str) -> dict[str, Any]:
    """Return the points of a plot by the name of their series."""
    found: dict[str, Any] = page.run(
        f"Object.fromEntries({CHART.format(chart)}.data.datasets.map((set) => [set.label, set.data]))"
    )
    return found


def test_every_plot_has_its_points_and_nothing_is_reported(page: Page, metered: SimpleNamespace):
    page.open(metered.file)
    drawn = page.run("Object.values(Chart.instances).map((c) => [c.canvas.dataset.chart, c.canvas.height])")
    assert len(drawn) == metered.file.read_text().count("<canvas data-chart")
    assert {kind for kind, _ in drawn} == {"plane", "distribution", "power", "joules", "curve", "shares", "norms"}
    assert all(height > 0 for _, height in drawn)
    variants = metered.device["variants"]
    assert points(page, "plane") == {
        name: [{"x": variant["latency_ns"]["p50"], "y": variant["accuracy"]}] for name, variant in variants.items()
    }
    below_one = [p for p in metered.device["distribution"]["probabilities"] if p < 1]
    assert {name: len(line) for name, line in points(page, "distribution").items()} == dict.fromkeys(
        variants, len(below_one)
    )
    joules = points(page, "joules")
    known = {name: v["energy_j"] for name, v in variants.items() if v["energy_j"] is not None}
    assert {name: joules[name][0]["x"] for name in known} == known
    assert [point["y"] for point in points(page, "power")["total"]] == metered.device["energy"]["trace"]["power_w"]
    assert is_quiet(page, metered.file)
    assert page.run("document.querySelectorAll('img').length") == 0


def test_the_mouse_over_a_point_tells_its_figures(page: Page, metered: SimpleNamespace):
    page.open(metered.file)
    page.run("document.querySelector('[data-chart=plane]').scrollIntoView()")
    x, y = page.run(f"""(() => {{
        const chart = {CHART.format("plane")}, box = chart.canvas.getBoundingClientRect();
        const {{ x, y }} = chart.getDatasetMeta(3).data[0];
        return [box.x + x, box.y + y];
    }})()""")
    page.point_at(x, y)
    page.run("new Promise((done) => setTimeout(done, 100))")
    title, lines = page.run(f"""(() => {{
        const {{ title, body, opacity }} = {CHART.format("plane")}.tooltip;
        return [opacity > 0 ? title : [], body.flatMap(({{ lines }}) => lines)];
    }})()""")
    assert title == ["int8"]
    assert lines[0].startswith("accuracy 98.50 %  (97.54 % to 99.09 %)")
    assert len(lines) == 3  # accuracy, latency, speed-up
    assert is_quiet(page, metered.file)


def test_a_table_sorts_by_keys_with_the_focus_seen(page: Page, metered: SimpleNamespace):
    page.open(metered.file)
    names = (
        "[...document.querySelectorAll('table.sortable')[0].tBodies[0].rows].map((r) => r.cells[0].innerText.trim())"
    )
    heads = "[...document.querySelectorAll('table.sortable')[0].tHead.rows[0].cells]"
    size = page.run(f"{heads}.findIndex((head) => head.innerText.trim() == 'Size')")
    before = page.run(names)
    for _ in range(200):  # by the tabulator alone
        page.press("Tab", 9)
        if page.run(f"document.activeElement == {heads}[{size}].querySelector('button')"):
            break
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    variants = metered.device["variants"]
    by_size = sorted(variants, key=lambda name: -variants[name]["size_bytes"])
    for state, expected in (("descending", by_size), ("ascending", by_size[::-1])):
        page.press("Enter", 13, "\r")
        assert page.run(f"{heads}[{size}].ariaSort") == state
        assert [name.split("\n")[0] for name in page.run(names)] == expected
    page.press(" ", 32, " ")
    assert page.run(names) == before


def test_the_page_fits_a_phone_is_dark_at_night_and_light_on_paper(page: Page, metered: SimpleNamespace):
    shade = "getComputedStyle(document.body).backgroundColor"
    colours = f"{CHART.format('plane')}.data.datasets.map((set) => set.borderColor)"
    page.open(metered.file, size=PHONE)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    light = page.run(shade)
    assert page.run(colours) == list(palette.LIGHT[:4])
    page.resize(PHONE, prefers_color_scheme="dark")
    assert page.run(shade) != light
    assert page.run(colours) == list(palette.DARK[:4])
    page.resize(PAPER, kind="print", prefers_color_scheme="dark")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert page.run(shade) == "rgb(255, 255, 255)"
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.printed().startswith(b"%PDF")
    assert is_quiet(page, metered.file)


def test_the_front_of_a_budget_is_drawn_and_its_names_sort(page: Page, tmp_path: Path):
    run = write_run(tmp_path / "run", NETWORKS, run=described(POINTS))
    variants = build.write(run)["devices"]["cpu"]["variants"]
    page.open(run / "report.html")
    front = points(page, "front")
    assert len(front.pop("finalists, predicted")) == len(POINTS)
    assert front == {name: [{"x": v["speedup"], "y": v["drop_pp"]}] for name, v in variants.items()}
    table = "document.querySelector('[aria-label=\"Points of the budget\"]')"
    names = f"[...{table}.querySelectorAll('tbody th')].map((cell) => cell.innerText)"
    assert page.run(names) == ["small", "near"]
    page.run(f"(() => {{ for (const _ of [1, 2]) {table}.querySelector('button').click() }})()")
    assert page.run(names) == ["near", "small"]
    assert is_quiet(page, run / "report.html")


def test_the_page_of_a_study_is_read_as_written_and_nothing_is_reported(page: Page, tmp_path: Path):
    folder = write_study(tmp_path / "study", {"kd": 0.3, "<b>far</b>": -0.5})
    study.write(folder)
    page.open(folder / "study.html")
    assert page.run("document.querySelectorAll('circle.dot').length") == 2 * 2 * 5  # methods, layouts, seeds
    assert "kd, by 3." in page.run("document.body.innerText")
    assert page.run("[...document.querySelectorAll('b')].filter((one) => one.innerText == 'far').length") == 0
    assert is_quiet(page, folder / "study.html")
    page.open(folder / "study.svg")
    assert page.run("document.querySelectorAll('circle.dot').length") == 2 * 5
    assert page.run("document.querySelectorAll('parsererror').length") == 0
