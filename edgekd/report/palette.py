"""The colours of variants and series, in pages and pictures: Okabe and Ito's, which colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LIGHT = ("#4d5157", "#0072b2", "#d55e00", "#009e73", "#b0528c", "#9a6b00", "#2f8fc4", "#7a4fbf")
DARK = ("#b4bac2", "#56b4e9", "#f58a4b", "#3fc79c", "#e59bc4", "#e6b31e", "#8ecdf0", "#b79cf0")


def places(report: Mapping[str, Any]) -> dict[str, int]:
    """Return each variant's place in the palette: the reference is grey wherever it stands."""
    names = dict.fromkeys(name for device in report["devices"].values() for name in device["variants"])
    reference = [report["reference"]] if report["reference"] in names else []
    ordered = dict.fromkeys([*reference, *names])
    return {name: index % len(LIGHT) for index, name in enumerate(ordered)}
