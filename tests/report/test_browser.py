"""The page in a real browser: its script runs without an error, and every plot is drawn."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekd.report import build

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"),
]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_every_plot_is_drawn_and_nothing_is_reported(make_run, tmp_path: Path):
    run = make_run()
    build.write(run)
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", (run / "report.html").as_uri()]
    page = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert [line for line in page.stderr.splitlines() if "CONSOLE" in line] == []
    canvases = re.findall(r"<canvas [^>]*data-chart[^>]*>", page.stdout)
    written = (run / "report.html").read_text().count("<canvas data-chart")
    assert len(canvases) == written > 0
    for canvas in canvases:  # Chart.js gives a canvas its size when it draws on it
        height = re.search(r' height="(\d+)"', canvas)
        assert height is not None, canvas
        assert int(height[1]) > 0
