"""The numbers that a reader of report.html sees are those of report.json, parsed back from the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgekd.report import build

from .synthetic import CHAIN

UNITS = {
    **{"%": 0.01, "pp": 1, "x": 1, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "/s": 1, "k/s": 1e3, "M/s": 1e6},
    **{"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9, "B": 1, "kB": 1e3, "MB": 1e6, "J": 1, "mJ": 1e-3, "µJ": 1e-6},
}
FIGURES = {
    "Accuracy": ("accuracy",), "Drop, pp": ("drop_pp",), "Agreement": ("agreement_with_teacher",),
    "Latency p50": ("latency_ns", "p50"), "p90": ("latency_ns", "p90"), "p99": ("latency_ns", "p99"),
    "Speed-up": ("speedup",), "Size": ("size_bytes",), "Compressed": ("compressed_bytes",), "MACs": ("macs",),
    "Parameters": ("parameters",), "Energy": ("energy_j",), "Throughput": ("throughput_per_s",),
    "Peak memory": ("peak_memory_bytes",), "Cold start": ("cold_start_ns",), "Zero weights": ("zero_share",),
}  # fmt: skip
INTERVALS = {
    "Accuracy": ("accuracy_ci",), "Drop, pp": ("drop_pp_ci",), "Agreement": ("agreement_ci",),
    "Latency p50": ("latency_ns", "p50_ci"), "Speed-up": ("speedup_ci",), "Energy": ("energy_j_ci",),
}  # fmt: skip


class Page(HTMLParser):
    """The texts in the cells of a page's tables, and what the cards of the verdict say."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tables: list[list[list[list[str]]]] = []  # tables of rows of cells of texts
        self.keys: dict[str, list[str]] = {}  # of the cards, by term
        self.term = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "input"):
            self.stack.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append([])

    def handle_endtag(self, tag: str) -> None:
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        text = data.strip()
        if text and "table" in self.stack and ("td" in self.stack or "th" in self.stack):
            self.tables[-1][-1][-1].append(text)
        elif text and "dt" in self.stack:
            self.term = text
        elif text and "dd" in self.stack and "article" in self.stack:
            self.keys.setdefault(self.term, []).append(text)


def numbers(text: str) -> Iterator[tuple[float, float]]:
    """Yield each number of a text in the report's unit, and half of its last digit; the unit may stand once, last."""
    found = re.findall(r"([-+]?\d+(?:\.(\d+))?)\s?([^\d\s]*)", text.replace(" to ", "  "))
    last = found[-1][2]
    for number, decimals, unit in found:
        scale = UNITS[unit or last]
        yield float(number) * scale, 0.5001 * 10.0 ** -len(decimals) * scale


def value(variant: dict[str, Any], path: tuple[str, ...]) -> Any:
    for key in path:
        variant = variant[key]
    return variant


def is_shown(text: str, expected: list[float]) -> bool:
    """Whether a text is these numbers, each rounded to the digits that it shows."""
    found = list(numbers(text))
    return len(found) == len(expected) and all(
        abs(number - other) <= half for (number, half), other in zip(found, expected, strict=True)
    )


@pytest.fixture
def written(make_run: Callable[..., Path]) -> tuple[dict[str, Any], Page]:
    metered = {name: replace(fake, joules=0.01 * (1 + k)) for k, (name, fake) in enumerate(CHAIN.items())}
    run = make_run(metered, gates={"max_drop_pp": 1.0, "min_speedup": 4})
    return build.write(run), Page((run / "report.html").read_text(encoding="utf-8"))


def test_every_cell_of_the_variants_is_the_reports_figure(written: tuple[dict[str, Any], Page]) -> None:
    report, page = written
    variants = report["devices"]["cpu"]["variants"]
    heads, *rows = page.tables[0]
    columns = [" ".join(head) for head in heads]
    assert set(columns[1:]) == {name for name in FIGURES if name not in ("Zero weights", "Compressed")}
    assert [row[0][0] for row in rows] == list(variants)
    seen = 0
    for row in rows:
        variant = variants[row[0][0]]
        for head, cell in zip(columns[1:], row[1:], strict=True):
            assert is_shown(cell[0], [value(variant, FIGURES[head])]), (head, cell)
            if len(cell) > 1:
                assert is_shown(cell[1], value(variant, INTERVALS[head])), (head, cell)
                seen += 1
    assert seen >= 4 * 3


def test_the_card_of_the_verdict_is_the_reports(written: tuple[dict[str, Any], Page]) -> None:
    report, page = written
    device = report["devices"]["cpu"]
    best = device["variants"][device["verdict"]["recommended"]]
    teacher = device["variants"]["teacher"]
    expected = {
        "Speed-up": [[best["speedup"]], best["speedup_ci"]],
        "Latency p50": [[best["latency_ns"]["p50"]], [best["latency_ns"]["p99"]]],
        "Accuracy": [[best["accuracy"]], [-best["drop_pp"]]],
        "Size": [[best["size_bytes"]], [teacher["size_bytes"] / best["size_bytes"]]],
    }
    assert set(page.keys) == set(expected)
    for term, texts in page.keys.items():
        for text, values in zip(texts, expected[term], strict=True):
            assert is_shown(text.removeprefix("p99 ").removesuffix(" smaller"), values), (term, text)


def test_the_energy_table_is_the_reports(written: tuple[dict[str, Any], Page]) -> None:
    report, page = written
    (table,) = [table for table in page.tables if ["Above idling"] in table[0]]
    for row in table[1:]:
        variant = report["devices"]["cpu"]["variants"][row[0][0]]
        detail = variant["energy_detail"]
        assert is_shown(row[1][0], [variant["energy_j"]])
        assert is_shown(row[1][1], variant["energy_j_ci"])
        assert is_shown(row[2][0], [detail["low_j"], detail["high_j"]])
        assert is_shown(row[3][0], [detail["dynamic_j"]])


def test_what_is_shown_is_told_from_what_is_not() -> None:
    assert is_shown("98.50 %", [0.98504])
    assert not is_shown("98.50 %", [0.9851])
    assert is_shown("97.54 to 99.09 %", [0.97541, 0.99094])
    assert is_shown("1.02 ms", [1_019_700])
    assert not is_shown("203 µs", [203_600])


def test_the_page_is_under_two_megabytes(written: tuple[dict[str, Any], Page], make_run: Callable[..., Path]) -> None:
    layers = [{"name": f"/a/b/Conv_{n}", "type": "Conv", "precision": "int8"} for n in range(100)]
    many = {f"variant-{k}": replace(CHAIN["int8"], layers=layers) for k in range(12)}
    run = make_run({"teacher": CHAIN["teacher"], **many}, name="many", processes=5)
    build.write(run)
    assert (run / "report.html").stat().st_size < 2_000_000
