"""The plots of report.html as files: for each a PNG and an SVG, from the same figures of report.json."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.report.drawing import save
from edgekd.report.learning import lessons
from edgekd.report.palette import places
from edgekd.report.pictures import learned, measured
from edgekd.report.pictures.form import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
_LONGEST = 60  # characters of a device or stage in a file's name


def pictures(report: Mapping[str, Any]) -> Iterator[Picture]:
    """Yield every plot that the report has figures for, in the page's order."""
    colours = places(report)
    for name, device in report["devices"].items():
        if not device["error"]:
            yield from measured.pictures(report, name, device, colours)
    for lesson in lessons(report):
        yield from learned.pictures(lesson)


def write(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every picture of a report into a folder, which is made; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for picture in pictures(report):
        stem = _stem(picture, taken={path.stem for path in written})
        paths = [folder / f"{stem}{suffix}" for suffix in SUFFIXES]
        save(_painter(picture), picture.size, paths)
        written += paths
    return written


def _painter(picture: Picture) -> Any:
    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(color="#dfe1e4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(f"{picture.of}: {picture.title}", loc="left", fontsize=10, parse_math=False)
        picture.paint(axes)

    return paint


def _stem(picture: Picture, taken: set[str]) -> str:
    """A file's name from those of the device or stage and of the plot: letters that every file system takes."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", picture.of).strip("-.")[:_LONGEST] or "unnamed"
    stem, count = f"{plain}-{picture.kind}", 1
    while stem in taken:
        count += 1
        stem = f"{plain}-{picture.kind}-{count}"
    return stem
