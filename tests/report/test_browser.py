"""The page in a real browser: its script runs without an error, and every plot is drawn."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.report import build
from edgekd.report.study import build as study

from .study_synthetic import write_study
from .synthetic import CHAIN, TERMS
from .test_budget import NETWORKS, POINTS, described
from .test_metered import altered

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"),
]


pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


def opened(page: Path, profile: Path, *flags: str) -> str:
    """Return a page as the browser built it; whatever it reports is an error."""
    command = [str(BROWSER), *FLAGS, *flags, f"--user-data-dir={profile}", page.as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert [line for line in found.stderr.splitlines() if "CONSOLE" in line] == []
    return found.stdout


def test_every_plot_is_drawn_and_nothing_is_reported(make_run, tmp_path: Path):
    metered = {name: replace(fake, joules=0.01 * (1 + k)) for k, (name, fake) in enumerate(CHAIN.items())}
    run = altered(make_run(metered), lambda energy: energy["windows"][2].update(rejected="the device throttled"))
    content = json.loads((run / "run.json").read_text())
    hostile = {"</script><script>throw 1</script>": TERMS["kd"], "__proto__": TERMS["labels"]}
    single = {name: {kind: values[:1] for kind, values in kinds.items()} for name, kinds in TERMS.items()}
    content["stages"] += [{"name": "<b>a", "facts": {"terms": hostile}}, {"name": "b", "facts": {"terms": single}}]
    (run / "run.json").write_text(json.dumps(content))
    build.write(run)
    canvases = re.findall(r"<canvas [^>]*data-chart[^>]*>", opened(run / "report.html", tmp_path / "profile"))
    written = (run / "report.html").read_text().count("<canvas data-chart")
    assert len(canvases) == written > 0
    assert {"plane", "distribution", "power", "joules"} <= {
        re.findall(r'data-chart="(\w+)"', one)[0] for one in canvases
    }
    for canvas in canvases:  # Chart.js gives a canvas its size when it draws on it
        height = re.search(r' height="(\d+)"', canvas)
        assert height is not None, canvas
        assert int(height[1]) > 0


def test_the_page_of_a_study_is_read_as_written_and_nothing_is_reported(tmp_path: Path):
    folder = write_study(tmp_path / "study", {"kd": 0.3, "<b>far</b>": -0.5})
    study.write(folder)
    page = opened(folder / "study.html", tmp_path / "profile")
    assert page.count('<circle class="dot"') == 2 * 2 * 5  # methods, layouts, seeds
    assert "kd, by 3." in page
    assert "<b>far</b>" not in page
    drawn = opened(folder / "study.svg", tmp_path / "profile")
    assert drawn.count('<circle class="dot"') == 2 * 5
    assert "parsererror" not in drawn


def test_the_front_of_a_budget_is_drawn_and_nothing_is_reported(make_run, tmp_path: Path):
    run = make_run(NETWORKS, run=described(POINTS))
    build.write(run)
    page = opened(run / "report.html", tmp_path / "profile")
    (canvas,) = re.findall(r'<canvas [^>]*data-chart="front"[^>]*>', page)
    height = re.search(r' height="(\d+)"', canvas)
    assert height is not None
    assert int(height[1]) > 0
