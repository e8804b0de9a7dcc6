"""What zeros gained is told as measured: bytes when compressed, and time, or that there was none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.report import build, html, views
from edgekd.report.sparse import sentences
from tests.report.synthetic import CHAIN, STUDENT, TEACHER, Fake, write_run

FACTS = {"teacher": (0.0, 900_000), "student": (0.001, 180_000), "pruned": (0.5, 95_000), "int8": (0.512, 21_000)}


def device(folder: Path, pruned: Fake, facts: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the report of a run whose files were looked into, and its device."""
    run = write_run(folder, {**CHAIN, "pruned": pruned})
    content = json.loads((run / "run.json").read_text())
    for name, (share, packed) in (FACTS if facts is None else facts).items():
        content["devices"]["cpu"]["models"][name] |= {"zero_share": share, "compressed_bytes": packed}
    (run / "run.json").write_text(json.dumps(content))
    report = build.build(run)
    return report, report["devices"]["cpu"]


def test_size_and_no_time(tmp_path: Path) -> None:
    same = Fake(400.0, STUDENT.wrong, size=200_000, precision={"float32": 11})
    report, found = device(tmp_path, same)
    told = sentences(found, "teacher")
    assert told[0] == (
        "pruned: 50.0 % of the weights are zero; 200 kB as a file, 95.0 kB compressed (student: 180 kB); "
        "no time gained: no difference from student was measured"
    )
    assert told[1].startswith(
        "int8: 51.2 % of the weights are zero; 30.0 kB as a file, 21.0 kB compressed (pruned: 95.0"
    )
    assert len(told) == 2
    heads = [figure.head for figure in views.figures(found)]
    begin = heads.index("Size")
    assert heads[begin : begin + 3] == ["Size", "Compressed", "Zero weights"]
    assert "no time gained: no difference from student was measured." in html.render(report)


@pytest.mark.parametrize(
    ("us", "macs", "told"),
    [
        (200.0, 40_000_000, "2.00x faster than student"),
        (800.0, 40_000_000, "0.50x the speed of student"),
        (200.0, 10_000_000, "2.00x faster than student, with 25 % of its multiply-accumulates"),
    ],
)
def test_time_and_what_else_may_have_gained_it(us: float, macs: int, told: str, tmp_path: Path) -> None:
    _, found = device(tmp_path, Fake(us, STUDENT.wrong, size=200_000, macs=macs))
    assert sentences(found, "teacher")[0].endswith(f"; {told}")


def test_the_teacher_itself_is_compared_by_its_speedup(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"teacher": TEACHER, "pruned": Fake(500.0)})
    content = json.loads((run / "run.json").read_text())
    content["devices"]["cpu"]["models"]["pruned"] |= {"zero_share": 0.75, "compressed_bytes": 300_000}
    (run / "run.json").write_text(json.dumps(content))
    (told,) = sentences(build.build(run)["devices"]["cpu"], "teacher")
    assert told.endswith("; 1.00 MB as a file, 300 kB compressed; 2.00x faster than teacher")


def test_a_run_that_looked_for_no_zeros_says_nothing(tmp_path: Path) -> None:
    _, found = device(tmp_path, CHAIN["pruned"], facts={})
    assert sentences(found, "teacher") == []
    assert not {"Compressed", "Zero weights"} & {figure.head for figure in views.figures(found)}
