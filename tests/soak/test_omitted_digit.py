"""What only right distillation can teach: a student that never saw a 3 knows the 3s (Hinton et al. 2015, section 3)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny import SHARED_DATA

from edgekd import Recipe, run

pytestmark = pytest.mark.soak

DATA = Path(os.environ.get("EDGEKD_DATA", SHARED_DATA))
BRIEF = ["teacher.epochs=4", "student.epochs=4", "quantize=false", "validate=false", "measure.seconds=0.1"]


def test_the_omitted_digit_is_known_with_a_teacher_and_unknown_without(tmp_path):
    if not (DATA / "mnist").is_dir():
        pytest.skip(f"mnist is not in {DATA}")
    recipe = Recipe.load("mnist-omitted-digit", BRIEF)
    report = run(recipe, out=tmp_path / "out", store=tmp_path / "store", data_dir=DATA).report
    variants = report["devices"]["cpu"]["variants"]
    recall = {name: found["by_class"]["recall"][3] for name, found in variants.items()}
    assert recall["teacher"] >= 0.9
    assert recall["student"] >= 0.9
    assert recall["baseline"] < 0.2
    (lesson,) = [row for row in report["stages"] if row["name"] == "distill"]
    assert list(lesson["facts"]["bias_correction"]) == ["3"]
