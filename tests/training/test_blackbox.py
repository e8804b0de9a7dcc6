"""A teacher that is known by its ONNX file alone: it answers as the network it was exported from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tiny import Chain, tiny
from torch import nn

from edgekd import Recipe, models, run, tasks
from edgekd import data as datasets
from edgekd.artifact import Artifact
from edgekd.compress.exporting import export
from edgekd.errors import StageError
from edgekd.graph.export import export_onnx
from edgekd.graph.lint import inspect
from edgekd.options import Data
from edgekd.stage import Inputs
from edgekd.stages.export import Options as Export
from edgekd.stages.teacher import Options
from edgekd.stages.validate import Options as Validate
from edgekd.training import blackbox
from edgekd.training.blackbox import BlackBox
from edgekd.training.engine import accelerate
from edgekd.training.evaluation import evaluate
from edgekd.training.teacher import train
from edgekd.validation.export import validate

ARGUMENTS = {"input_shape": [1, 8, 8], "classes": 10, "width": 4, "blocks": [1, 1]}
IMAGES = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = models.create(models.Description("edgekd.models.convnet:build", ARGUMENTS, (1, 8, 8))).train()
    model(torch.randn(32, 1, 8, 8) + 1)  # statistics of its own
    return model.eval()


@pytest.fixture(scope="module")
def file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    export_onnx(
        network, (models.example((1, 8, 8)),), path, input_names=["pixels"], output_names=["scores"],
        metadata={"edgekd": "old"}, max_opset=17, quantized_layers=None,
    )  # fmt: skip
    return path


def with_batch(source: Path, target: Path, batch: int) -> Path:
    """Write a copy of a file that takes so many samples and no other number."""
    proto = onnx.load(source)
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del proto.graph.value_info[:]
    onnx.save(proto, target)
    return target


def given(artifacts: dict[str, Artifact] | None = None, **changes: Any) -> Inputs:
    known = {"artifacts": artifacts or {}, "blocks": {}, "data_dir": None, "task": "classification", "seed": 0}
    known |= {"data_seed": 0, "compute": "cpu", "variant": "teacher", "context": {"max_opset": 20}}
    return Inputs(**(known | {"data": Data(source="digits", validation=0.3, train_samples=200)} | changes))


def adopted(path: Path, folder: Path) -> Artifact:
    folder.mkdir()
    return Artifact(folder, "teacher", "", "digest", train(Options(onnx=path), given(), folder))


# ---- answers


@pytest.mark.parametrize("batch", [None, 1, 3, 7, 50])
def test_it_answers_as_the_network(network, file, tmp_path, batch):
    path = file if batch is None else with_batch(file, tmp_path / "fixed.onnx", batch)
    with torch.no_grad():
        expected = network(IMAGES)
    found = BlackBox(path)(IMAGES)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found.dtype, found.requires_grad) == (torch.float32, False)
    assert not list(BlackBox(path).parameters())


def test_another_memory_layout_is_the_same_image(file):
    model = BlackBox(file)
    channels_last = IMAGES.expand(-1, 1, -1, -1).contiguous(memory_format=torch.channels_last)
    assert torch.equal(model(channels_last), model(IMAGES))


def test_no_gradient_passes_through(file):
    inputs = IMAGES.clone().requires_grad_(True)
    assert not BlackBox(file)(inputs).requires_grad


def test_what_it_does_not_take_is_told(file, tmp_path):
    with pytest.raises(StageError, match=r"the ONNX teacher fails on inputs of shape \(2, 1, 9, 9\)"):
        BlackBox(file)(torch.zeros(2, 1, 9, 9))
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(StageError, match="ONNX Runtime does not take it"):
        BlackBox(tmp_path / "text.onnx")


# ---- as an artifact


@pytest.mark.parametrize("batch", [None, 1])
def test_it_becomes_a_teacher_without_training(network, file, tmp_path, batch):
    path = file if batch is None else with_batch(file, tmp_path / "fixed.onnx", batch)
    found = adopted(path, tmp_path / "teacher")
    assert [entry.name for entry in found.path.iterdir()] == ["model.onnx"]
    assert blackbox.is_black_box(found)
    assert blackbox.input_shape(found) == (1, 8, 8)
    data = datasets.of(given())
    score = evaluate(network, data.validation, tasks.load("classification"), accelerate("cpu", "fp32"))
    assert found.facts["validation"] == score
    torch.testing.assert_close(blackbox.load(found)(IMAGES), BlackBox(path)(IMAGES), rtol=0, atol=0)
    # BatchNorm was folded into the convolutions: 9 weights and a bias for each filter.
    assert found.facts["parameters"] == (9 + 1) * 4 + (9 * 4 + 1) * 8 + 9 * 10
    assert found.facts["macs"] == 9 * 4 * 64 + 9 * 4 * 8 * 16 + 8 * 10
    assert "curves" not in found.facts


def test_weights_in_a_file_beside_it_come_along(network, file, tmp_path):
    onnx.save(onnx.load(file), tmp_path / "split.onnx", save_as_external_data=True, location="w.bin", size_threshold=99)
    found = adopted(tmp_path / "split.onnx", tmp_path / "teacher")
    (tmp_path / "w.bin").unlink()
    torch.testing.assert_close(blackbox.load(found)(IMAGES), BlackBox(file)(IMAGES), rtol=0, atol=0)


def test_an_artifact_of_a_network_is_no_black_box(network, tmp_path):
    models.save(tmp_path, models.Description("edgekd.models.convnet:build", ARGUMENTS, (1, 8, 8)), network.state_dict())
    found = Artifact(tmp_path, "teacher", "", "", {})
    assert not blackbox.is_black_box(found)
    assert blackbox.input_shape(found) == (1, 8, 8)
    torch.testing.assert_close(blackbox.load(found)(IMAGES), network(IMAGES))


@pytest.mark.parametrize(("outputs", "told"), [(7, "teacher: the network has 7 outputs, the data have 10 classes")])
def test_other_classes_are_refused(tmp_path, outputs, told):
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs]),
    ]
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [64, outputs], [0.1] * 64 * outputs)
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "x.onnx")
    with pytest.raises(StageError) as error:
        train(Options(onnx=tmp_path / "x.onnx"), given(), tmp_path)
    assert told in str(error.value)


@pytest.mark.parametrize("batch", [None, 1])
def test_it_is_exported_under_the_names_of_all_variants_and_validated(file, tmp_path, batch):
    path = file if batch is None else with_batch(file, tmp_path / "fixed.onnx", batch)
    source = adopted(path, tmp_path / "teacher")
    (tmp_path / "export").mkdir()
    facts = export(Export(), given({"model": source}), tmp_path / "export")
    graph = inspect(tmp_path / "export" / "model.onnx")
    assert ([port.name for port in graph.inputs], [port.name for port in graph.outputs]) == (["input"], ["logits"])
    assert graph.metadata["variant"] == "teacher"
    assert graph.metadata["edgekd"] != "old"
    assert (facts["parameters"], facts["macs"], facts["opset"]) == (graph.parameters, graph.macs, 17)
    exported = Artifact(tmp_path / "export", "export", "", "", facts)
    (tmp_path / "validate").mkdir()
    found = validate(Validate(), given({"model": source, "onnx": exported}), tmp_path / "validate")
    assert found["parity"]["logits"]["max_abs"] == 0


# ---- the whole chain


def run_with(chain: Chain, teacher: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Run the tiny recipe with a teacher that was exported before, and return its report's device."""
    result = run(
        Recipe.of(**tiny(teacher={"onnx": str(teacher)}, **changes)), out=folder / "run", store=folder / "store"
    )
    assert result.exit_code in (0, 1)
    before = chain.result.report["devices"]["cpu"]["variants"]["teacher"]
    device = result.report["devices"]["cpu"]
    assert device["error"] is None
    found = device["variants"]["teacher"]
    assert (found["accuracy"], found["macs"]) == (before["accuracy"], before["macs"])
    answers = [
        np.load(path / "measurements" / "cpu" / "outputs" / "teacher.test.npz")["logits"]
        for path in (chain.path, result.path)
    ]
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-4, atol=1e-5)
    assert all(figures["latency_ns"]["p50"] > 0 for figures in device["variants"].values())
    assert device["variants"]["student"]["agreement_with_teacher"] > 0.2  # chance is 0.1
    return device["variants"]


def test_the_whole_chain_with_a_teacher_that_is_an_onnx_file(chain, tmp_path):
    variants = run_with(chain, chain.path / "models" / "teacher.onnx", tmp_path)
    assert list(variants) == ["teacher", "student", "pruned", "int8"]


def test_a_teacher_that_takes_one_sample_at_a_time_is_measured_too(chain, tmp_path):
    fixed = with_batch(chain.path / "models" / "teacher.onnx", tmp_path / "one.onnx", 1)
    variants = run_with(chain, fixed, tmp_path, prune=False, quantize=False)
    assert list(variants) == ["teacher", "student"]
