"""Whole runs with more than one teacher: chosen among several, helped by assistants, or all together."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tiny import Chain, tiny

from edgekd import Recipe, Result, run

NET = {"model": "mlp", "widths": [16], "epochs": 3, "batch_size": 32, "learning_rate": 0.01}
VIEWS = {"augment": {"crop": 1, "views": 2}}
SHORT = {"prune": False, "quantize": False, "validate": False}


def facts(result: Result) -> dict[str, dict[str, Any]]:
    return {row["name"]: row["facts"] for row in result.report["stages"]}


def parameters(width: int) -> int:
    """Of 8x8 pixels, a hidden layer and ten classes."""
    return (64 + 1) * width + (width + 1) * 10


def test_the_best_of_several_teaches_through_an_assistant(tmp_path):
    layers = {"student": "2", "teacher": "2"}
    recipe = Recipe.of(
        **tiny(
            teacher="auto",
            teachers={
                "big": {**NET, "widths": [32]},
                "untrained": {**NET, "epochs": 1, "learning_rate": 1e-6},
            },
            assistants=[{**NET, "widths": [20]}],
            student={**NET, "widths": [12], **VIEWS},
            distill={"losses": [{"kd": {"schedule": "warmup"}}, {"hint": {"layers": layers}}, "pkt"]},
            baseline=True,
            **SHORT,
        )
    )
    result = run(recipe, out=tmp_path / "run", store=tmp_path / "store")
    made = facts(result)
    assert list(made) == [
        "teacher[big]", "teacher[untrained]", "choose", "baseline", "distill[assistant-1]", "distill",
        "export[teacher]", "export[baseline]", "export[student]", "measure[cpu]",
    ]  # fmt: skip
    assert made["choose"]["chosen"] == "big"
    assert made["choose"]["candidates"].keys() == {"big", "untrained"}
    variants = result.report["devices"]["cpu"]["variants"]
    assert {name: figures["parameters"] for name, figures in variants.items()} == {
        "teacher": parameters(32), "baseline": parameters(12), "student": parameters(12),
    }  # fmt: skip
    assert made["distill[assistant-1]"]["parameters"] == parameters(20)
    for lesson in ("distill[assistant-1]", "distill"):
        assert made[lesson]["terms"].keys() == {"labels", "kd", "hint", "pkt"}
    assert "terms" not in made["baseline"]
    assert result.exit_code == 0
    json.dumps(result.report, allow_nan=False)


@pytest.mark.parametrize("fusion", ["confidence", "gradient"])
def test_several_teachers_at_once_one_of_them_an_onnx_file(chain: Chain, tmp_path, fusion):
    box = {"onnx": str(chain.path / "models" / "teacher.onnx")}
    changes = {**SHORT, "prune": {"ratio": 0.5, "epochs": 1}} if fusion == "confidence" else SHORT
    recipe = Recipe.of(
        **tiny(
            teacher=None, teachers={"own": NET, "box": box}, student={**NET, **VIEWS},
            distill={"losses": ["kd", "dkd"], "fusion": fusion}, **changes,
        )
    )  # fmt: skip
    result = run(recipe, out=tmp_path / "run", store=tmp_path / "store")
    made = facts(result)
    assert {"teacher[own]", "teacher[box]", "targets[own]", "targets[box]", "distill"} <= made.keys()
    assert made["targets[box]"]["views"] == 2
    variants = result.report["devices"]["cpu"]["variants"]
    assert list(variants)[:3] == ["teacher-own", "teacher-box", "student"]
    assert json.loads((result.path / "run.json").read_text())["reference"] == "teacher-own"
    before = chain.result.report["devices"]["cpu"]["variants"]["teacher"]
    assert variants["teacher-box"]["accuracy"] == before["accuracy"]
    assert variants["student"]["accuracy"] > 0.3  # chance is 0.1
