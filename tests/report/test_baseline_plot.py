from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from edgekd.report.baseline import plot
from edgekd.report.baseline.comparing import compare
from edgekd.report.baseline.snapshot import Figure

from .baselines import ratio, snapshot


def test_the_picture_names_every_variant_and_figure_and_is_the_same_again(tmp_path: Path) -> None:
    before = snapshot({"$int8 <b>_{x}$": {"size": Figure(value=10), "speedup": ratio(5, 0.01)}})
    worse = snapshot({"$int8 <b>_{x}$": {"size": Figure(value=20), "speedup": ratio(4, 0.01)}})
    compared = {"tuesday": compare(before, worse), "$wednesday$": compare(before, before)}
    for name in ("a.svg", "b.svg"):
        plot.draw(compared, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert (tmp_path / "b.svg").read_text() == text
    texts = {
        "".join(found.itertext()).strip() for found in ElementTree.fromstring(text).iter() if found.tag.endswith("text")
    }
    assert {"$int8 <b>_{x}$", "tuesday", "$wednesday$"} <= texts
    assert "size: change in %; right of 0 is larger" in texts
    assert "speed-up: change in %; right of 0 is more time" in texts
    assert "accuracy" not in " ".join(texts)


def test_noise_is_grey_and_what_is_worse_is_red(tmp_path: Path) -> None:
    red, grey = (179, 38, 30), (138, 143, 152)
    before = snapshot({"int8": {"speedup": ratio(5, 0.02)}})
    for value, there, absent in ((4.0, red, grey), (4.99, grey, red)):
        plot.draw({"run": compare(before, snapshot({"int8": {"speedup": ratio(value, 0.02)}}))}, tmp_path / "p.png")
        with Image.open(tmp_path / "p.png") as image:
            colours = {colour[:3] for _, colour in image.convert("RGB").getcolors(maxcolors=2**24) or ()}
        assert there in colours
        assert absent not in colours


def test_nothing_to_compare_is_a_picture_too(tmp_path: Path) -> None:
    plot.draw({"run": compare(snapshot({"a": {}}), snapshot({"a": {}}))}, tmp_path / "p.svg")
    assert "nothing to compare" in (tmp_path / "p.svg").read_text()
