from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd import data as datasets
from edgekd import models, tasks
from edgekd.artifact import Artifact
from edgekd.compress import qat, quantization, quantize
from edgekd.device import Scheme
from edgekd.distill.distill import learn
from edgekd.errors import StageError
from edgekd.graph import parity
from edgekd.graph.export import export_onnx
from edgekd.graph.lint import inspect
from edgekd.models import Description
from edgekd.options import Data, Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.quantize import Options
from edgekd.training import checkpoint, networks

SHAPE = (1, 8, 8)
NET = Network(model="convnet", epochs=2, batch_size=32, learning_rate=0.02)
ARGS = {"input_shape": list(SHAPE), "classes": 10, "width": 8, "blocks": [1, 1]}


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Inputs:
    """What the stage is given: a trained network that is its own teacher."""
    folder = tmp_path_factory.mktemp("source")
    inputs = Inputs(
        artifacts={}, blocks={"teacher": NET, "student": None, "distill": None}, data_dir=None, task="classification",
        seed=0, data_seed=0, data=Data(source="digits", train_samples=256), compute="cpu", variant="int8-u8",
        context={"scheme": Scheme(activations="u8").model_dump()},
    )  # fmt: skip
    description = Description("edgekd.models.convnet:build", ARGS, SHAPE)
    model = networks.build(NET, description, 0)
    facts = learn(model, Distillation(alpha=0), [], NET, datasets.of(inputs), inputs, folder)
    facts = networks.store(folder, description, model, facts)
    source = Artifact(folder, "teacher", "", "", facts)
    return replace(inputs, artifacts={"model": source, "teacher": source})


def run(options: Options, inputs: Inputs, out: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    out.mkdir(exist_ok=True)
    facts = quantize.quantize(options, inputs, out)
    return facts, models.load(out).state_dict()


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch) -> None:
    monkeypatch.setattr("edgekd.training.engine.threads", lambda: 1)


def test_the_stage_trains_with_its_teacher_stores_and_exports_as_post_training_does(given, tmp_path, monkeypatch):
    seen = []
    original = qat.learn
    monkeypatch.setattr(qat, "learn", lambda *args, **more: seen.append(args) or original(*args, **more))
    facts, _ = run(Options(mode="qat", epochs=3, samples=64), given, tmp_path / "qat")
    (arguments,) = seen
    assert arguments[1] == Distillation()
    assert [source.name for source in arguments[2]] == ["teacher"]
    assert (arguments[3].epochs, arguments[3].batch_size) == (3, 32)
    assert arguments[3].learning_rate == pytest.approx(0.006)
    assert facts["mode"] == "qat"
    assert facts["curves"]["epoch"] == [1, 2, 3]
    best = max(facts["calibrated_validation"], *facts["curves"]["validation"])
    assert facts["validation"] == pytest.approx(best, abs=1e-6)
    assert facts["quantized_layers"] == ["0", "3", "8"]

    plain, _ = run(Options(samples=64), given, tmp_path / "ptq")
    assert plain["mode"] == "ptq"
    assert "curves" not in plain
    trained, calibrated = models.load(tmp_path / "qat"), models.load(tmp_path / "ptq")
    assert [(n.op, str(n.target)) for n in trained.graph.nodes] == [
        (n.op, str(n.target)) for n in calibrated.graph.nodes
    ]
    for name in ("qat", "ptq"):
        export_onnx(
            models.load(tmp_path / name), (models.example(SHAPE),), tmp_path / f"{name}.onnx", input_names=["input"],
            output_names=["logits"], metadata={}, max_opset=20, quantized_layers=3,
        )  # fmt: skip
    assert inspect(tmp_path / "qat.onnx").nodes == inspect(tmp_path / "ptq.onnx").nodes

    split = datasets.of(given).validation
    with torch.no_grad():
        expected = trained(torch.from_numpy(split.inputs)).numpy()
    actual = parity.run_onnx(tmp_path / "qat.onnx", {"input": split.inputs}, 64)
    assert not parity.check(parity.compare({"logits": expected}, actual), parity.INT8_TOLERANCE)
    score = float(np.mean(tasks.load("classification").score({"outputs": expected}, split.targets)))
    assert score == pytest.approx(facts["validation"], abs=1.5 / len(split))


class KilledError(Exception):
    pass


def test_an_interrupted_training_ends_with_the_same_bits_and_features_are_taught(given, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", -1.0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", float("inf"))
    losses = [{"attention": {}}, {"kd": {}}]
    inputs = replace(given, blocks={**given.blocks, "distill": Distillation(losses=losses)})
    options = Options(mode="qat", epochs=2, samples=64, calibration="percentile", percentile=99)
    facts, whole = run(options, inputs, tmp_path / "whole")
    assert set(facts["terms"]) == {"labels", "attention", "kd"}

    def kill(done: int, total: int, text: str) -> None:
        if text.startswith("epoch 2"):
            raise KilledError

    with pytest.raises(KilledError):
        run(options, replace(inputs, progress=kill), tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoint").is_dir()
    again, resumed = run(options, inputs, tmp_path / "cut")
    assert again["curves"] == facts["curves"]
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("optimizer", "asked", "rate"), [("adamw", None, 0.03), ("sgd", None, 0.002), ("sgd", 0.5, 0.5)]
)
def test_the_learning_rate_is_a_part_of_the_students_that_depends_on_the_optimizer(optimizer, asked, rate):
    base = Network(model="mlp", optimizer=optimizer, learning_rate=0.1)
    assert qat.trained_as(base, Options(mode=("qat",), learning_rate=asked)).learning_rate == pytest.approx(rate)


def test_what_training_made_worse_is_not_kept(given, tmp_path):
    facts, state = run(Options(mode="qat", epochs=1, learning_rate=10, samples=64), given, tmp_path / "qat")
    _, calibrated = run(Options(samples=64), given, tmp_path / "ptq")
    assert facts["kept"] == "calibrated"
    assert facts["validation"] == facts["calibrated_validation"]
    assert all(torch.equal(state[name], calibrated[name]) for name in calibrated)


def test_a_class_that_no_student_sees_gets_its_bias_set_again(given, tmp_path):
    inputs = replace(given, data=given.data.model_copy(update={"omit": (3,)}))
    facts, _ = run(Options(mode="qat", epochs=1, samples=64), inputs, tmp_path / "qat")
    assert set(facts["bias_correction"]) == {datasets.of(given).classes[3]}
    last = qat.last_bias(quantization.prepare(models.load(given.artifacts["model"].path), (models.example(SHAPE),),
                                              Scheme(activations="u8")))  # fmt: skip
    assert torch.equal(last, models.load(given.artifacts["model"].path)[-1].bias)


def test_an_empty_training_split_is_refused_before_anything_is_captured(given, tmp_path, monkeypatch):
    data = datasets.of(given)
    empty = replace(data, train=replace(data.train, inputs=data.train.inputs[:0], targets=data.train.targets[:0]))
    monkeypatch.setattr(quantize.datasets, "of", lambda _: empty)
    with pytest.raises(StageError, match="training split is empty"):
        run(Options(), given, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": []}, "at least 1 item"),
        ({"mode": ["ptq", "ptq"]}, "each can be there once"),
        ({"mode": "pqt"}, "'ptq', 'qat', 'mixed' or 'dynamic'"),
        ({"mode": ["ptq", "qat"], "weights_bits": 2, "buckets": 64}, "no runtime has weights of 2 bits"),
        ({"epochs": 3}, "epochs goes with mode: qat"),
        ({"mode": "dynamic", "samples": 3}, "samples goes with mode: ptq or qat or mixed"),
        ({"mode": "dynamic", "weights_bits": 4}, "weights_bits goes with mode"),
        ({"minutes": 3}, "minutes goes with mode: mixed"),
        ({"mode": "qat", "max_drop_pp": 3}, "max_drop_pp goes with mode: mixed"),
        ({"learning_rate": 0.1}, "learning_rate goes with mode: qat"),
        ({"percentile": 99.0}, "percentile goes with calibration: percentile"),
        ({"buckets": 256}, "buckets goes with mode: qat"),
        ({"mode": "qat", "weights_bits": 2}, "no runtime has weights of 2 bits"),
        ({"weights_bits": 3}, "2, 4 or 8|8, 4 or 2"),
        ({"calibration": "percentile", "percentile": 40.0}, "greater than 50"),
        ({"mode": "qat", "buckets": 64, "improve": ["round"]}, "with buckets there are none"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


@pytest.mark.parametrize("bits", [2])
def test_quantized_distillation_stores_floats_on_the_grid_and_says_what_they_would_take(bits, given, tmp_path):
    facts, _ = run(Options(mode="qat", epochs=1, samples=64, weights_bits=bits, buckets=64), given, tmp_path / "out")
    assert (facts["weights_bits"], facts["buckets"], facts["quantized_layers"]) == (bits, 64, None)
    loaded = models.load(tmp_path / "out")
    weights = [p.detach() for p in loaded.parameters() if p.dim() > 1]
    assert len(weights) == 3
    for weight in weights:
        assert all(len(part.unique()) <= 2**bits for part in weight.flatten().split(64))
    floats = sum(p.numel() for p in loaded.parameters() if p.dim() == 1)
    expected = sum(bits * w.numel() + 64 * -(-w.numel() // 64) for w in weights) + 32 * floats
    assert facts["compressed_bytes"] == -(-expected // 8)
    split = datasets.of(given).validation
    with torch.no_grad():
        outputs = loaded(torch.from_numpy(split.inputs)).numpy()
    score = float(np.mean(tasks.load("classification").score({"outputs": outputs}, split.targets)))
    assert score == pytest.approx(facts["validation"], abs=1.5 / len(split))
    export_onnx(
        loaded, (models.example(SHAPE),), tmp_path / "m.onnx", input_names=["input"], output_names=["logits"],
        metadata={}, max_opset=20, quantized_layers=None,
    )  # fmt: skip
    actual = parity.run_onnx(tmp_path / "m.onnx", {"input": split.inputs}, 64)
    assert not parity.check(parity.compare({"logits": outputs}, actual), parity.FLOAT_TOLERANCE)


def test_what_was_tried_on_the_integers_is_told_and_the_kept_network_is_the_one_that_was_judged(given, tmp_path):
    options = Options(samples=64, weights_bits=4, improve=("bias", "round"))
    facts, _ = run(options, given, tmp_path / "out")
    tried = facts["improve"]
    assert [one["method"] for one in tried] == ["round", "bias"]
    assert tried[1]["loss"][0] == tried[0]["loss"][int(tried[0]["kept"])]
    split = datasets.of(given).validation
    with torch.no_grad():
        outputs = models.load(tmp_path / "out")(torch.from_numpy(split.inputs)).numpy()
    score = float(np.mean(tasks.load("classification").score({"outputs": outputs}, split.targets)))
    assert score == pytest.approx(tried[1]["score"][int(tried[1]["kept"])], abs=1e-9)
