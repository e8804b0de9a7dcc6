"""What a look at the networks shows before hours of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tiny import tiny

from edgekd import Recipe
from edgekd import data as datasets
from edgekd.distill.rehearsal import listing, rehearse
from edgekd.errors import StageError

DATA = datasets.load("digits", validation=0.2, train_samples=50)
CONV = {"model": "convnet", "width": 4, "blocks": [1, 1], "epochs": 1}
RES = {"model": "resnet", "width": 4, "blocks": [1, 1], "epochs": 1}
MLP = {"model": "mlp", "widths": [8], "epochs": 1}


def recipe(**changes: Any) -> Recipe:
    return Recipe.of(**tiny(**({"teacher": RES, "student": CONV} | changes)))


def box(path: Path, outputs: int, shape: tuple[int, ...] = (1, 8, 8)) -> dict[str, str]:
    """Write an ONNX file that sums what it is shown, as a teacher's block."""
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs]),
    ]
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    size = shape[0] * shape[1] * shape[2]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [size, outputs], [0.01] * (size * outputs))
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return {"onnx": str(path)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"distill": {"losses": ["kd", "at", "hint", "crd", "reviewkd", "mmd", "rkd_angle"]}},
        {"distill": {"losses": ["hint"]}, "assistants": [CONV, RES]},
        {"distill": {"losses": ["at"], "fusion": "confidence"}, "teacher": None, "teachers": {"a": RES, "b": CONV}},
        {"distill": {"losses": ["at"]}, "teacher": "auto", "teachers": {"a": RES, "b": CONV}},
        {"distill": False, "student": None},
        {"distill": {"losses": ["pkt"]}, "student": MLP},
    ],
)
def test_what_fits_is_silent(changes):
    rehearse(recipe(**changes), DATA)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"distill": {"losses": [{"at": {"layers": {"student": "5", "teacher": "stage.1"}}}]}},
            "the teacher has no layer 'stage.1'; did you mean \"stages.1\"?",
        ),
        (
            {"distill": {"losses": [{"at": {"layers": {"student": "stages", "teacher": "stages"}}}]}},
            "the student has no layer 'stages'",
        ),
        (
            {"distill": {"losses": [{"hint": {"layers": {"student": "1", "teacher": "stages"}}}]}, "student": MLP},
            "hint on student 1, teacher stages: no adapter from the student's features (8,) to the teacher's (8, 4, 4)",
        ),
        ({"distill": {"losses": ["attention"]}, "student": MLP}, "student: attention needs"),
        (
            {"distill": {"losses": ["at"]}, "teacher": "auto", "teachers": {"a": RES, "flat": MLP}},
            "student: attention needs",
        ),
        (
            {
                "distill": {"losses": [{"at": {"layers": {"student": "5", "teacher": "stages"}}}]},
                "teacher": None,
                "teachers": {"a": RES, "b": CONV},
            },
            "the teacher b has no layer 'stages'",
        ),
        (
            {"distill": {"losses": [{"at": {"layers": {"student": "5", "teacher": "stages"}}}]}, "assistants": [CONV]},
            "the teacher assistant-1 has no layer 'stages'",
        ),
    ],
)
def test_what_does_not_fit_is_told(changes, told):
    with pytest.raises(StageError) as error:
        rehearse(recipe(**changes), DATA)
    assert str(error.value).startswith("distill.losses: ")
    assert told in str(error.value)


def test_a_black_box_is_asked_too(tmp_path):
    rehearse(recipe(teacher=box(tmp_path / "ten.onnx", 10)), DATA)
    for name, shape, outputs, told in (
        ("seven", (1, 8, 8), 7, "teacher: the network has 7 outputs, the data have 10 classes"),
        ("wide", (1, 9, 9), 10, "the ONNX teacher fails on inputs of shape (2, 1, 8, 8)"),
    ):
        with pytest.raises(StageError) as error:
            rehearse(recipe(teacher=box(tmp_path / f"{name}.onnx", outputs, shape)), DATA)
        assert told in str(error.value)
    with pytest.raises(StageError, match="the teacher is an ONNX file, of which only the answers are known"):
        rehearse(recipe(teacher=box(tmp_path / "ten.onnx", 10), distill={"losses": ["at"]}), DATA)


def test_the_listing_has_every_network(tmp_path):
    several = {"teacher": None, "teachers": {"a": RES, "box": box(tmp_path / "b.onnx", 10)}, "assistants": [CONV]}
    found = listing(recipe(**several), DATA)
    assert list(found) == ["teacher-a", "teacher-box", "assistant-1", "student"]
    assert found["teacher-box"] == []
    assert found["assistant-1"] == found["student"]
    assert {layer.name: layer.shape for layer in found["teacher-a"]}["stages.1"] == (8, 4, 4)


def test_a_layer_to_leave_in_float_that_does_not_exist_is_told_before_any_training():
    changes = {"student": {"model": "resnet", "width": 4, "epochs": 1}, "quantize": {"exclude": ["hed"]}}
    with pytest.raises(StageError, match=r"quantize: no layer 'hed' to exclude; did you mean \"head\"\?"):
        rehearse(recipe(**changes), DATA)
    rehearse(recipe(**changes | {"quantize": {"exclude": ["head"]}}), DATA)
    rehearse(recipe(**changes, factorize={}), DATA)  # whose layers have names of their own
