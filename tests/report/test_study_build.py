from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edgekd.errors import EdgekdError, UsageError
from edgekd.report.study import build, table

from .study_synthetic import write_study

GAINS = {"kd": 0.3, "dkd": 0.05, "far": -0.5}
FAILED = {"status": "failed", "error": "loss is NaN in term dkd", "seconds": None, "validation": None}
PENDING = {"status": "pending", "seconds": None, "validation": None, "artifact": None}


def shown(results: dict[str, Any], width: int = 80, encoding: str = "utf-8", **options: Any) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    table.render(results, Console(file=file, width=width, **options))
    return raw.getvalue().decode(encoding)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study", GAINS, trials={("dkd", 1): FAILED, ("far", 4): PENDING})


def test_the_figures_are_those_of_the_scores(study: Path) -> None:
    results = build.write(study)
    with np.load(study / "scores.npz") as scores:
        baseline = np.array([scores[f"baseline/{seed}"].mean() for seed in range(5)])
        kd = np.array([scores[f"kd/{seed}"].mean() for seed in range(5)])
        teacher = float(scores["teacher"].mean())
    row = results["methods"][0]
    assert (row["name"], row["verdict"], row["changes"]) == ("kd", "BEATS", {"distill.losses": ["kd"]})
    assert (row["mean"], row["std"]) == pytest.approx((kd.mean(), kd.std(ddof=1)))
    assert row["by_seed_pp"] == pytest.approx(100 * (kd - baseline))
    assert row["difference_pp"] == pytest.approx(100 * (kd - baseline).mean())
    assert row["verdict_ci_pp"][0] < row["ci_pp"][0] < row["difference_pp"] < row["ci_pp"][1] < row["verdict_ci_pp"][1]
    assert (row["wins"], row["ties"], row["losses"], row["seconds"]) == (5, 0, 0, 62.0)
    assert results["baseline"]["mean"] == pytest.approx(baseline.mean())
    assert results["teacher"] == {"name": "resnet", "test": teacher, "parameters": 308_000, "macs": 41_200_000}
    assert (results["items"], results["verdict_confidence"]) == (1000, pytest.approx(1 - 0.05 / 3))
    assert [row["name"] for row in results["methods"]] == ["kd", "dkd", "far"]
    assert json.loads((study / "results.json").read_text()) == results
    assert sorted(path.name for path in study.iterdir()) == [
        *("results.csv", "results.json", "scores.npz", "study.html", "study.json", "study.svg")
    ]


def test_missing_trials_are_said_and_only_common_seeds_compared(study: Path) -> None:
    results = build.write(study)
    dkd, far = results["methods"][1:]
    assert (dkd["seeds"], far["seeds"]) == ([0, 2, 3, 4], [0, 1, 2, 3])
    assert results["remarks"][:4] == [
        "dkd is compared on seeds 0, 2, 3, 4 only",
        "far is compared on seeds 0, 1, 2, 3 only",
        "dkd failed on seed 1: loss is NaN in term dkd",
        "not done yet: 1 of 20 trials; run the same study again to go on",
    ]
    assert [trial["test"] is None for trial in results["trials"]].count(True) == 2


@pytest.mark.parametrize(
    ("gains", "options", "expected"),
    [
        ({"kd": 0.3}, {}, "kd beats the student without a teacher by "),
        ({"kd": -0.5}, {}, "kd does not beat the student without a teacher: it is worse by "),
        ({"kd": 0.0}, {}, "Inconclusive: kd differs from the student without a teacher by "),
        ({"kd": 0.3}, {"seeds": 1}, "pp on one seed; so few say nothing."),
        ({"kd": 0.3, "far": -0.5}, {}, "1 of 2 methods beats the student without a teacher: kd, by "),
        (
            {"kd": 0.3, "at": 0.4},
            {},
            "All 2 methods beat the student without a teacher; the largest gain is that of at",
        ),
        ({"kd": 0.3, "at": 0.4, "far": -1}, {}, "2 of 3 methods beat the student without a teacher; the largest gain"),
        ({"kd": 0.0, "far": -0.5}, {}, "None of 2 methods is shown to beat the student without a teacher: 1 do not"),
        ({"far": -1, "kd": -0.5}, {}, "None of 2 methods beats the student without a teacher; the best of them, kd,"),
        ({}, {}, "Nothing is compared yet: no seed has both a method and the student without a teacher."),
    ],
)
def test_the_answer_in_a_sentence(
    tmp_path: Path, gains: dict[str, float], options: dict[str, int], expected: str
) -> None:
    results = build.write(write_study(tmp_path / "study", gains, **options))  # type: ignore[arg-type]
    assert expected in results["headline"]


def test_a_study_of_which_nothing_is_done_is_a_page_too(tmp_path: Path) -> None:
    trials = {(name, seed): PENDING for name in ("baseline", "kd") for seed in range(5)}
    results = build.write(write_study(tmp_path / "study", {"kd": 0.0}, trials=trials))
    assert (results["methods"][0]["mean"], results["methods"][0]["verdict"]) == (None, "INCONCLUSIVE")
    assert "no seed has both it and the baseline" in shown(results)


def test_without_a_teachers_scores_its_known_score_stands(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", {"kd": 0.1})
    with np.load(folder / "scores.npz") as scores:
        kept = {name: scores[name] for name in scores.files if name != "teacher"}
    np.savez(folder / "scores.npz", **kept)
    assert build.write(folder)["teacher"]["test"] == 0.9


def test_csv_has_a_row_per_method_and_full_precision(study: Path) -> None:
    results = build.write(study)
    rows = list(csv.DictReader(io.StringIO((study / "results.csv").read_text())))
    assert [row["method"] for row in rows] == ["baseline", "kd", "dkd", "far"]
    assert float(rows[1]["difference_pp"]) == results["methods"][0]["difference_pp"]
    assert float(rows[1]["verdict_ci_low_pp"]) == results["methods"][0]["verdict_ci_pp"][0]
    assert (rows[0]["verdict"], rows[1]["verdict"], rows[2]["seeds"]) == ("", "BEATS", "0 2 3 4")
    assert rows[1]["changes"] == 'distill.losses=["kd"]'


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_no_line_is_wider_than_the_terminal(study: Path, width: int, encoding: str) -> None:
    results = build.build(study)
    lines = shown(results, width, encoding).splitlines()
    assert lines[0].startswith("1 of 3 methods beats the student without a teacher")
    assert max(map(len, lines)) <= width
    assert any(line.split()[0] == "kd" and "BEATS" in line for line in lines if line.split())
    assert "98.33 % CI" in " ".join(lines)


def test_a_log_has_no_escape_sequences_and_a_terminal_has_colour(study: Path) -> None:
    results = build.build(study)
    assert "\x1b" not in shown(results)
    assert "\x1b[1;32m" in shown(results, force_terminal=True, color_system="standard")


def test_names_are_neither_markup_nor_escape_sequences(tmp_path: Path) -> None:
    text = shown(build.write(write_study(tmp_path / "study", {"[bold red]x[/]\x1b[31m": 0.3})), 120)
    assert "[bold red]x[/]?[31m" in text
    assert "\x1b" not in text


def test_a_name_that_is_no_text_does_not_stop_the_report(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", {"kd": 0.3}, study={"provenance": {"command": ["a\udcff"]}})
    build.write(folder)
    assert "a?" in (folder / "study.html").read_text()


@pytest.mark.parametrize("content", [None, "{}", "[1]", '{"schema": 2}'])
def test_a_folder_that_is_no_study_is_wrong_input(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(UsageError, match=r"is not a study|reads schema 1"):
        build.write(tmp_path)


def drop_key(content: dict[str, Any], scores: dict[str, Any]) -> None:
    del content["seeds"]


def unknown_method(content: dict[str, Any], scores: dict[str, Any]) -> None:
    content["trials"][0]["method"] = "other"


def same_trial_twice(content: dict[str, Any], scores: dict[str, Any]) -> None:
    content["trials"].append(content["trials"][0])


def same_method_twice(content: dict[str, Any], scores: dict[str, Any]) -> None:
    content["methods"].append(content["methods"][0])


def unknown_status(content: dict[str, Any], scores: dict[str, Any]) -> None:
    content["trials"][0]["status"] = "running"


def without_scores(content: dict[str, Any], scores: dict[str, Any]) -> None:
    del scores["kd/0"]


def other_items(content: dict[str, Any], scores: dict[str, Any]) -> None:
    scores["kd/0"] = scores["kd/0"][:-1]


def two_axes(content: dict[str, Any], scores: dict[str, Any]) -> None:
    scores["kd/0"] = scores["kd/0"][None]


def texts(content: dict[str, Any], scores: dict[str, Any]) -> None:
    scores["kd/0"] = scores["kd/0"].astype(str)


def not_a_number(content: dict[str, Any], scores: dict[str, Any]) -> None:
    scores["kd/0"][3] = np.nan


def objects(content: dict[str, Any], scores: dict[str, Any]) -> None:
    scores["kd/0"] = np.array([{}, 1], object)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_key, "'seeds' is missing or malformed"),
        (unknown_method, "'other/0' is of no method or seed"),
        (same_trial_twice, "lists trial 'baseline/0' twice"),
        (same_method_twice, "lists a method twice"),
        (unknown_status, "statuses are done, pending, failed"),
        (without_scores, "no 'kd/0', though that trial is done"),
        (other_items, "scored on the same items"),
        (two_axes, "one number per test item"),
        (texts, "one number per test item"),
        (not_a_number, "between 0 and 1"),
        (objects, "cannot be read as an npz"),
    ],
)
def test_a_damaged_study_is_refused_by_name(tmp_path: Path, damage: Callable[..., None], message: str) -> None:
    folder = write_study(tmp_path / "study", {"kd": 0.1}, items=50)
    content = json.loads((folder / "study.json").read_text())
    with np.load(folder / "scores.npz") as archive:
        scores = {name: archive[name] for name in archive.files}
    damage(content, scores)
    (folder / "study.json").write_text(json.dumps(content))
    np.savez(folder / "scores.npz", **scores)
    with pytest.raises(EdgekdError, match=message):
        build.write(folder)
    assert not (folder / "results.json").exists()


def test_figures_that_are_not_finite_are_unknown(tmp_path: Path) -> None:
    results = build.write(write_study(tmp_path / "s", {"kd": 0.1}, trials={("kd", 0): {"validation": float("nan")}}))
    assert results["trials"][5]["validation"] is None
