"""A study's folder -> results.json, results.csv, study.html, study.svg. Needs nothing but the folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import write_text
from edgekd.report.plain import clean
from edgekd.report.statistics import FloatArray
from edgekd.report.study import page, table
from edgekd.report.study.comparing import MARGIN_PP, RESAMPLES, Compared, Comparison, compare
from edgekd.report.study.evidence import Study, read_study
from edgekd.report.study.wording import headline

SCHEMA = 1


def build(folder: Path) -> dict[str, Any]:
    """Compute the content of results.json from the scores of a study.

    Raises:
        UsageError: The folder holds no study, or one of another schema version.
        EdgekdError: A file is incomplete, damaged or contradicts the other; the message names it.
    """
    study = read_study(folder)
    content = study.content
    margin = float(content.get("margin_pp", MARGIN_PP))
    compared = compare(study.scores, content["baseline"], margin_pp=margin)
    methods = [_method(study, name, compared.methods[name]) for name in study.scores if name != content["baseline"]]
    methods.sort(key=lambda row: (row["difference_pp"] is None, -(row["difference_pp"] or 0.0)))
    results = {
        "schema": SCHEMA,
        **{key: content.get(key) for key in ("edgekd", "recipe", "task", "metric", "seeds")},
        "items": _items(study),
        "margin_pp": margin,
        "confidence": 0.95,
        "verdict_confidence": compared.verdict_confidence,
        "resamples": RESAMPLES,
        "baseline": _summary(study, content["baseline"]),
        "methods": methods,
        "teacher": _network(content.get("teacher"), study.teacher),
        "student": _network(content.get("student"), None),
        "budget": content.get("budget") or {},
        "trials": [_trial(study, trial) for trial in content["trials"]],
        "remarks": _remarks(study, compared),
        "provenance": content.get("provenance") or {},
    }
    return {**results, "headline": headline(results)}


def write(folder: Path) -> dict[str, Any]:
    """Write results.json, results.csv, study.html and study.svg into a study's folder, and return the results."""
    results = build(folder)
    texts = {
        "results.json": json.dumps(results, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        "results.csv": table.csv_text(results),
        "study.svg": page.svg(results),
        "study.html": page.render(results),
    }
    for name, text in texts.items():  # a name given in broken UTF-8 is no text that a file can hold
        write_text(folder / name, text.encode("utf-8", "replace").decode())
    return results


def _items(study: Study) -> int:
    """How many test items there are; 0 where no trial is done."""
    found = [len(one) for by_seed in study.scores.values() for one in by_seed.values()]
    return found[0] if found else 0


def _summary(study: Study, name: str) -> dict[str, Any]:
    """What a method's finished trials say of it alone."""
    means = [float(one.mean()) for one in study.scores[name].values()]
    seconds = [
        trial["seconds"]
        for trial in study.content["trials"]
        if trial["method"] == name and trial["status"] == "done" and trial.get("seconds") is not None
    ]
    return {
        "name": name,
        "mean": float(np.mean(means)) if means else None,
        "std": float(np.std(means, ddof=1)) if len(means) > 1 else None,
        "seconds": float(np.mean(seconds)) if seconds else None,
    }


def _method(study: Study, name: str, one: Comparison) -> dict[str, Any]:
    """A row of the results: the method alone, then against the baseline."""
    listed = next(method for method in study.content["methods"] if method["name"] == name)
    found = asdict(one)
    return {
        **_summary(study, name),
        "changes": listed.get("changes") or {},
        "verdict": one.verdict,
        "why": one.why,
        "difference_pp": one.difference,
        "ci_pp": found["ci"] and list(found["ci"]),
        "verdict_ci_pp": found["verdict_ci"] and list(found["verdict_ci"]),
        "seeds": list(one.seeds),
        "by_seed_pp": list(one.by_seed),
        "wins": one.wins,
        "ties": one.ties,
        "losses": len(one.seeds) - one.wins - one.ties,
    }


def _network(known: Mapping[str, Any] | None, scores: FloatArray | None) -> dict[str, Any] | None:
    """What is known of a teacher or student; its score is that of its scores, where there are some."""
    if known is None:
        return None
    return {**known, **({} if scores is None else {"test": float(scores.mean())})}


def _trial(study: Study, trial: Mapping[str, Any]) -> dict[str, Any]:
    scores = study.scores[trial["method"]].get(trial["seed"])
    known = ("method", "seed", "status", "validation", "seconds", "artifact", "terms", "error")
    return {**{key: trial.get(key) for key in known}, "test": None if scores is None else float(scores.mean())}


def _remarks(study: Study, compared: Compared) -> list[str]:
    """What a reader must know to trust the table: what is missing, and what few seeds mean."""
    content = study.content
    remarks = []
    for name, one in compared.methods.items():
        if 0 < len(one.seeds) < len(content["seeds"]):
            which = f"seed{'s' if len(one.seeds) > 1 else ''} {', '.join(map(str, one.seeds))}"
            remarks.append(f"{clean(name)} is compared on {which} only")
    failed = [trial for trial in content["trials"] if trial["status"] == "failed"]
    remarks += [f"{clean(one['method'])} failed on seed {one['seed']}: {_short(one.get('error'))}" for one in failed]
    planned = len(study.scores) * len(content["seeds"])
    done = sum(len(by_seed) for by_seed in study.scores.values())
    if missing := planned - done - len(failed):
        remarks.append(f"not done yet: {missing} of {planned} trials; run the same study again to go on")
    fewest = min((len(one.seeds) for one in compared.methods.values() if len(one.seeds) > 1), default=0)
    if 1 < fewest < 5:
        remarks.append(
            f"{fewest} seeds tell little of their own spread, and the intervals allow for it; more are sharper"
        )
    return remarks


def _short(message: str | None) -> str:
    text = clean(message or "no message")
    return text if len(text) <= 200 else f"{text[:199]}…"
