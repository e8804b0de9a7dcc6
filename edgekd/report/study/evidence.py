"""What a study left behind, read back and checked: study.json and the score of every test item in scores.npz."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import EdgekdError, UsageError
from edgekd.report.reading import read_arrays
from edgekd.report.statistics import FloatArray

STUDY_FILE = "study.json"
SCORES_FILE = "scores.npz"
SCHEMA = 1
TEACHER = "teacher"
_STATES = ("done", "pending", "failed")
_NEEDED: Mapping[str, Callable[[Any], bool]] = {
    "task": lambda value: isinstance(value, str),
    "metric": lambda value: isinstance(value, str),
    "baseline": lambda value: isinstance(value, str),
    "seeds": lambda value: _list_of(int, value),
    "methods": lambda value: _list_of(dict, value) and all(isinstance(one.get("name"), str) for one in value),
    "trials": lambda value: _list_of(dict, value),
}


@dataclass(frozen=True)
class Study:
    """A study as read: study.json, and the test score of every item [N] per method and seed that is done.

    Args:
        content: study.json; a number that is not finite is None.
        scores: By method (the baseline's first), then seed.
        teacher: The teacher's scores of the same items, where it has some.
    """

    content: dict[str, Any]
    scores: dict[str, dict[int, FloatArray]]
    teacher: FloatArray | None


def read_study(folder: Path) -> Study:
    """Read and verify a study's folder.

    Raises:
        UsageError: The folder holds no study, or one of another schema version.
        EdgekdError: A file is incomplete, damaged or contradicts the other; the message names it.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise UsageError(f"{folder} is not a study: it has no {STUDY_FILE}. Give the folder that `edgekd study` wrote.")
    content = _read_content(path)
    names = [content["baseline"], *(one["name"] for one in content["methods"] if one["name"] != content["baseline"])]
    if len(set(names)) < len(names):
        raise EdgekdError(f"{path} lists a method twice: {', '.join(names)}.")
    scores: dict[str, dict[int, FloatArray]] = {name: {} for name in names}
    seen = set()
    arrays = read_arrays(folder / SCORES_FILE) if (folder / SCORES_FILE).is_file() else {}
    for trial in content["trials"]:
        label = _check_trial(path, trial, names, content["seeds"])
        if label in seen:
            raise EdgekdError(f"{path} lists trial {label!r} twice.")
        seen.add(label)
        if trial["status"] == "done":
            scores[trial["method"]][trial["seed"]] = _scores(folder / SCORES_FILE, arrays, label)
    teacher = _scores(folder / SCORES_FILE, arrays, TEACHER) if TEACHER in arrays else None
    found = [*(one for by_seed in scores.values() for one in by_seed.values()), *([] if teacher is None else [teacher])]
    if len({len(one) for one in found}) > 1:
        counts = ", ".join(f"{label}: {len(array)}" for label, array in arrays.items())
        raise EdgekdError(f"{folder / SCORES_FILE}: all trials must be scored on the same items; items are {counts}.")
    return Study(content, scores, teacher)


def _read_content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError) as error:
        raise EdgekdError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        schema = content.get("schema") if isinstance(content, dict) else None
        raise UsageError(f"{path} has schema {schema!r}; this edgekd reads schema {SCHEMA}. Run the study again.")
    for key, fits in _NEEDED.items():
        if not fits(content.get(key)):
            raise EdgekdError(f"{path}: {key!r} is missing or malformed. Run the study again.")
    return content


def _list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, kind) and not isinstance(one, bool) for one in value)


def _check_trial(path: Path, trial: Mapping[str, Any], names: list[str], seeds: list[int]) -> str:
    """Return a trial's name in scores.npz."""
    method, seed, status = trial.get("method"), trial.get("seed"), trial.get("status")
    label = f"{method}/{seed}"
    if method not in names or seed not in seeds:
        raise EdgekdError(f"{path}: trial {label!r} is of no method or seed of the study.")
    if status not in _STATES:
        raise EdgekdError(f"{path}: trial {label!r} has status {status!r}; statuses are {', '.join(_STATES)}.")
    return label


def _scores(path: Path, arrays: Mapping[str, Any], label: str) -> FloatArray:
    """Return a trial's scores, which must be one number in [0, 1] per item."""
    array = arrays.get(label)
    if array is None:
        raise EdgekdError(
            f"{path} has no {label!r}, though that trial is done. Run the same study again to complete it."
        )
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.size == 0 or array.dtype.kind not in "fiub":
        raise EdgekdError(f"{path}: {label!r} must hold one number per test item.")
    scores = array.astype(np.float64)
    if not ((scores >= 0) & (scores <= 1)).all():  # False for NaN too
        raise EdgekdError(f"{path}: {label!r} must hold scores between 0 and 1.")
    return scores
