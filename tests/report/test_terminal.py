from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgekd.report import build, terminal

from .synthetic import BASELINE, CHAIN, CHOICE, INT8, STUDENT, TEACHER

Make = Callable[..., Path]


def shown(report: dict[str, Any], width: int = 80, encoding: str = "utf-8", **options: Any) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    terminal.render(report, Console(file=file, width=width, **options))
    return raw.getvalue().decode(encoding)


@pytest.fixture
def report(make_run: Make) -> dict[str, Any]:
    metered = {name: replace(fake, joules=0.01) for name, fake in CHAIN.items()}
    return build.build(make_run(metered, gates={"max_drop_pp": 1.0, "min_speedup": 4}))


def test_the_first_line_is_the_answer(report: dict[str, Any]) -> None:
    first = shown(report).splitlines()[0]
    assert first.startswith("✓ PASSED  cpu  use int8: 5.0")
    assert first.endswith("x faster, 0.50 pp lost, 30.0 kB")


def test_gates_follow_with_limits_and_values(report: dict[str, Any]) -> None:
    second = shown(report).splitlines()[1]
    assert second == "  ✓ drop 0.50 pp [0.02, 0.98] <= 1 pp"


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_no_line_is_wider_than_the_terminal(report: dict[str, Any], width: int, encoding: str) -> None:
    lines = shown(report, width, encoding).splitlines()
    assert max(len(line) for line in lines) <= width
    rows = [line for line in lines if line.strip().startswith(tuple(CHAIN))]
    assert all(any(name in row and "x" in row for row in rows) for name in CHAIN)  # name and speed-up on one line


def test_a_row_has_its_figures(report: dict[str, Any]) -> None:
    lines = shown(report, 100).splitlines()
    row = next(k for k, line in enumerate(lines) if line.split()[:1] == ["int8"])
    assert lines[row].split()[:6] == ["int8", "98.50", "%", "0.50", "99.5", "%"]
    assert lines[row].split()[-2:] == ["10.0", "mJ"]
    assert "● recommended" in lines[row + 1]
    assert "97.5..99.1" in lines[row + 1]


def test_a_narrow_terminal_keeps_accuracy_and_speed(report: dict[str, Any]) -> None:
    text = shown(report, 60)
    assert "accuracy" in text
    assert "speed-up" in text
    assert "agrees" not in text


def test_ascii_when_the_output_cannot_show_more(report: dict[str, Any]) -> None:
    assert shown(report, encoding="ascii").startswith("+ PASSED  cpu")


def test_a_log_has_no_escape_sequences_and_a_terminal_has_colour(report: dict[str, Any]) -> None:
    assert "\x1b" not in shown(report)
    assert "\x1b[1;32m" in shown(report, force_terminal=True, color_system="standard")


def test_what_was_not_measured_is_said_with_its_reason(make_run: Make) -> None:
    text = shown(build.build(make_run()))
    assert "energy not measured: no readable RAPL domain" in text
    assert "noise floor" in text
    assert "energy   " not in text.split("variant")[1].split("teacher")[0]


def test_a_failed_run_says_what_was_missed(make_run: Make) -> None:
    text = shown(build.build(make_run(gates={"min_speedup": 50})), 120)
    assert text.startswith("✗ FAILED  cpu  no variant to recommend; best so far: int8")
    assert "✗ speed-up" in text


def test_a_device_that_was_not_reached(make_run: Make) -> None:
    error = {"jetson": {"kind": "unreachable", "message": "ssh: no route to host"}}
    text = shown(build.build(make_run(devices=("jetson",), errors=error)))
    assert text.splitlines()[:4] == [
        "? NOT REACHED  jetson  no figures of this device; what was made is kept",
        "  ssh: no route to host",
        "  once it can be reached, give the same command again: all that was made is",
        "  cached, and only measuring is left",
    ]


def test_what_is_only_compared_with_has_its_tag(make_run: Make) -> None:
    other = replace(TEACHER, role="teacher")
    run = make_run({"teacher": other, "teacher-b": other, "baseline": BASELINE, "student": STUDENT})
    lines = shown(build.build(run)).splitlines()
    rows = {name: next(k for k, line in enumerate(lines) if line.split()[:1] == [name])
            for name in ("teacher", "teacher-b", "baseline")}  # fmt: skip
    assert lines[rows["teacher"] + 1].strip().startswith("reference")
    assert lines[rows["teacher-b"] + 1].strip().startswith("another teacher")
    assert lines[rows["baseline"] + 1].strip().startswith("without a teacher")


def test_what_the_teacher_is_worth_is_one_sentence(make_run: Make) -> None:
    run = make_run({"teacher": TEACHER, "baseline": BASELINE, "student": STUDENT})
    worth = next(line for line in shown(build.build(run), 120).splitlines() if "worth" in line)
    assert worth.startswith("  the teacher is worth +0.80 pp [0.")
    assert worth.endswith("to the student (one seed; `edgekd study` tells more)")
    same = make_run(
        {"teacher": TEACHER, "baseline": replace(STUDENT, role="baseline"), "student": STUDENT}, name="same"
    )
    assert "no difference shown between the student with and without a teacher: +0.00 pp" in shown(
        build.build(same), 120
    )


def test_recall_by_class_is_silent_until_a_class_is_lost(make_run: Make) -> None:
    assert "recall" not in shown(build.build(make_run()))
    lost = replace(INT8, wrong={"test": list(range(3, 300, 10)), "validation": 0})
    lines = shown(build.build(make_run({"teacher": TEACHER, "int8": lost}, name="lost")), 120).splitlines()
    assert "  ! recall of a class falls by more than 20 pp against teacher: digit 3 (int8 29.0 pp)" in lines


def test_a_chosen_teacher_is_named_once(make_run: Make) -> None:
    stages = [{"name": "choose", "facts": CHOICE}]
    text = shown(build.build(make_run(devices=("cpu", "other"), rounds=5, run={"stages": stages})))
    assert text.splitlines().count("teacher: wide, chosen from 3 by short trials") == 1


def test_names_are_neither_markup_nor_escape_sequences(make_run: Make) -> None:
    hostile = {"teacher": TEACHER, "[bold red]x[/]\x1b[31m": replace(INT8, latency_us=100.0)}
    text = shown(build.build(make_run(hostile)), 120)
    assert "[bold red]x[/]?[31m" in text
    assert "\x1b" not in text
