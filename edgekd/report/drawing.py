"""Pictures by matplotlib, which is loaded only when one is drawn: the same bytes again for the same figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png", ".pdf")


def save(paint: Callable[[Figure], None], size: tuple[float, float], paths: Iterable[Path]) -> None:
    """Draw a picture and write it whole, in the format of each file's name.

    Args:
        paint: Draws on an empty figure.
        size: Width and height in inches.
    """
    import matplotlib as mpl  # noqa: PLC0415 - takes longer to load than all else that a comparison does
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context({"svg.hashsalt": "edgekd", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        for path in paths:
            content = BytesIO()
            metadata = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(content, format=path.suffix.removeprefix("."), dpi=150, metadata=metadata)
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_bytes(content.getvalue())
            temporary.replace(path)
