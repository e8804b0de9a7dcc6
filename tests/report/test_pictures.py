from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image

from edgekd.report import build, drawing, html, palette, pictures

from .synthetic import CHAIN, TERMS
from .test_budget import NETWORKS, POINTS, described

Make = Callable[..., Path]


def painted(report: dict, kind: str):
    """Return the axes of a picture."""
    (picture,) = [one for one in pictures.pictures(report) if one.kind == kind]
    axes = Figure().subplots()
    picture.paint(axes)
    return axes


def canvases(report: dict) -> list[tuple[str, str]]:
    found = re.findall(r'<canvas data-chart="(\w+)" data-(?:device|stage)="([^"]*)"', html.render(report))
    return [(kind, of) for kind, of in found if kind != "front"] + [one for one in found if one[0] == "front"]


def test_the_pictures_are_the_plots_of_the_page(make_run: Make) -> None:
    metered = {name: replace(fake, joules=0.01) for name, fake in CHAIN.items()}
    for run in (make_run(metered), make_run(NETWORKS, run=described(POINTS), name="budget")):
        report = build.build(run)
        assert sorted((one.kind, one.of) for one in pictures.pictures(report)) == sorted(canvases(report))


def test_the_points_are_the_figures_of_the_report(make_run: Make) -> None:
    report = build.build(make_run(NETWORKS, run=described(POINTS)))
    variants = report["devices"]["cpu"]["variants"]
    axes = painted(report, "plane")
    assert {
        one.get_label(): tuple(one.lines[0].get_xydata()[0]) for one in axes.containers
    } == {name: (v["latency_ns"]["p50"], v["accuracy"]) for name, v in variants.items()}  # fmt: skip
    ends = axes.containers[3].lines[2][1].get_segments()[0][:, 1]
    assert list(ends) == pytest.approx(variants["small-int8"]["accuracy_ci"])
    front = painted(report, "front")
    finalist = POINTS["small"]["finalists"][0]
    drop = 100 * (variants["teacher"]["validation"]["accuracy"] - finalist["validation"])
    assert front.lines[0].get_xydata()[0] == pytest.approx([3.2, drop])
    share = painted(report, "shares")
    assert [bar.get_height() for bar in share.containers[1]] == pytest.approx(TERMS["kd"]["share"])


def test_each_is_a_png_and_an_svg_whose_names_are_text(make_run: Make, tmp_path: Path) -> None:
    hostile = {"$x_{<b>}$": CHAIN["teacher"], "_hidden": CHAIN["int8"]}
    curves = {"../a/b": {"loss": [1.0]}, "a b": {"loss": [2.0]}, "a.b": {"validation": [0.5]}}
    stages = [{"name": name, "facts": {"curves": kept}} for name, kept in curves.items()]
    run = make_run(hostile, reference="$x_{<b>}$", run={"stages": stages})
    files = pictures.write(build.build(run), tmp_path / "plots")
    assert [path.name for path in files[::2]] == [
        "cpu-plane.png", "cpu-distribution.png", "a-b-curve.png", "a-b-curve-2.png", "a.b-curve.png",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(path.name for path in files)
    for path in files[::2]:
        with Image.open(path) as image:
            assert image.size == (960, 630)
    texts = ["".join(one.itertext()) for one in ElementTree.parse(files[1]).iter() if one.tag.endswith("text")]
    assert {"$x_{<b>}$", "hidden", "cpu: accuracy against latency"} <= {text.strip() for text in texts}


def test_the_same_figures_give_the_same_bytes(make_run: Make, tmp_path: Path) -> None:
    report = build.build(make_run({"teacher": CHAIN["teacher"]}))
    one = next(pictures.pictures(report))
    for name in ("a.svg", "b.svg"):
        drawing.save(lambda figure: one.paint(figure.subplots()), one.size, [tmp_path / name])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_reference_is_grey_wherever_it_stands() -> None:
    report = {"reference": "t", "devices": {"a": {"variants": {"x": 0, "t": 0}}, "b": {"variants": {"y": 0, "x": 0}}}}
    assert palette.places(report) == {"t": 0, "x": 1, "y": 2}


def test_a_file_is_no_folder_for_them(make_run: Make, edgekd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = edgekd("report", make_run(), "--plots", tmp_path / "file", "--json")
    assert refused.code == 2
    assert "is a file; name a folder" in json.loads(refused.out)["error"]["message"]
