"""What the channels and the blocks of a student count."""

from __future__ import annotations

import math

import pytest
import torch

from edgekd import data as datasets
from edgekd import models
from edgekd.compress import channels, depth, ordering
from edgekd.compress.importance import taylor
from edgekd.compress.judging import judged
from edgekd.stages.budget import Ordering
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.prune import Options as Pruning
from tests.compress.small import DIGIT, digit_net, given, kept

EVERYTHING = Ordering(batches=2, depth=5, exclude=())


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    student = kept(tmp_path / "student", digit_net("resnet", width=8, blocks=[2, 1]))
    teacher = kept(tmp_path / "teacher", digit_net("mlp", widths=[12]), seed=5)
    return given(student, teacher, samples=96)


def test_channels_count_by_the_distillation_loss_and_blocks_go_by_it(inputs, tmp_path):
    levels = ordering.order(EVERYTHING, inputs, tmp_path)["levels"]
    assert [len(level["removed"]) for level in levels] == [0, 1, 2]
    model = models.load(inputs.artifacts["model"].path)
    for level, after in zip(levels, [*levels[1:], None], strict=True):
        with judged(model, inputs, datasets.of(inputs), Distillation(), inputs.blocks["student"], 2) as judge:
            products = judge.products()
            if after is not None:
                left = [name for name in ("stages.0.0", "stages.0.1") if name not in level["removed"]]
                ((name, losses),) = depth.choose(model, left, 1, judge.loss)
                assert after["removed"] == [*level["removed"], name]
                assert losses[name] == min(losses.values())
        _, found = channels.groups(model, Pruning(), DIGIT, taylor(products)) if after is None else (None, None)
        if found is not None:
            assert [one["name"] for one in level["groups"]] == [group.name for group in found]
            for one, group in zip(level["groups"], found, strict=True):
                assert one["importance"] == pytest.approx(group.importance.tolist())
                assert one["sections"] == 1


def test_the_harm_of_a_block_is_the_part_of_the_importance_that_it_had(inputs, tmp_path):
    levels = ordering.order(EVERYTHING, inputs, tmp_path)["levels"]
    model = models.load(inputs.artifacts["model"].path)
    with judged(model, inputs, datasets.of(inputs), Distillation(), inputs.blocks["student"], 2) as judge:
        products = judge.products()
    total = sum(float(one.sum()) for one in products.values())
    block = sum(float(products[weight].sum()) for weight in model.get_submodule(levels[1]["removed"][0]).parameters())
    assert levels[0]["harm"] == 0
    assert levels[1]["harm"] == pytest.approx(-math.log(1 - block / total), rel=1e-5)
    assert levels[2]["harm"] > levels[1]["harm"]


def test_what_is_excluded_stays(inputs, tmp_path):
    (level,) = ordering.order(Ordering(batches=1, depth=5, exclude=("stages",)), inputs, tmp_path)["levels"]
    assert level["groups"] == []
    (level,) = ordering.order(Ordering(batches=1, depth=0, exclude=()), inputs, tmp_path)["levels"]
    assert level["removed"] == []
    assert {"stages.0.0.conv1", "stages.0.1.conv1", "stages.1.0.conv1"} < {one["name"] for one in level["groups"]}
