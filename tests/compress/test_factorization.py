"""Layers become products where that pays, the same in every process, and the whole chain goes on with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from tiny import tiny
from torch import Tensor, nn

from edgekd import Recipe, models, run
from edgekd import data as datasets
from edgekd.artifact import Artifact
from edgekd.compress import factorization, lowrank, pruning
from edgekd.compress.factorization import FactorizedLinear, plan_ranks, replace_layers, restore
from edgekd.distill.layers import layers, usual
from edgekd.distill.rehearsal import rehearse
from edgekd.errors import StageError
from edgekd.graph.macs import count_macs
from edgekd.models import Description
from edgekd.options import Data, Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.factorize import Options
from edgekd.stages.prune import Options as Pruning
from edgekd.training import networks

SHAPE = (3, 8, 8)
RESNET = Description("edgekd.models.resnet:build", {"input_shape": SHAPE, "classes": 5, "width": 16}, SHAPE)
MLP = Description("edgekd.models.mlp:build", {"input_shape": SHAPE, "classes": 5, "widths": [64, 48]}, SHAPE)


def built(description: Description, seed: int = 0) -> nn.Module:
    """Return a network with weights and statistics unlike those it is made with."""
    torch.manual_seed(seed)
    model = models.create(description)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the layers that take a layer's place


KINDS = {
    "linear": (lambda: nn.Linear(12, 10), (2, 5, 12), (6,)),
    "no bias": (lambda: nn.Linear(12, 10, bias=False), (2, 12), (3,)),
    "3x3": (lambda: nn.Conv2d(6, 9, 3, padding=1), (2, 6, 7, 7), (4, 5)),
    "strided": (lambda: nn.Conv2d(6, 9, 3, (2, 1), 2, dilation=(1, 2), bias=False), (2, 6, 9, 9), (4, 5)),
    "same": (lambda: nn.Conv2d(6, 9, (1, 3), padding="same"), (2, 6, 7, 7), (2, 9)),
    "reflected": (lambda: nn.Conv2d(6, 9, 3, padding=1, padding_mode="reflect"), (2, 6, 7, 7), (6, 5)),
    "pointwise": (lambda: nn.Conv2d(6, 9, 1, stride=2, padding=1), (2, 6, 7, 7), (3,)),
    "1d": (lambda: nn.Conv1d(6, 9, 5, padding=1), (2, 6, 20), (4, 5)),
    "3d": (lambda: nn.Conv3d(3, 5, 3), (1, 3, 5, 5, 5), (2, 4)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_low_rank_gives_what_it_gave(kind):
    """Weights are cut to the ranks first; then the layers in their place have to give the same."""
    make, shape, ranks = KINDS[kind]
    torch.manual_seed(0)
    model = nn.Sequential(make()).eval()
    with torch.no_grad():
        model[0].weight.copy_(lowrank.product(lowrank.factors(model[0].weight, ranks), model[0].weight.shape))
    inputs = random(*shape)
    expected = model(inputs)
    kept = replace_layers(model, {"0": ranks})
    assert kept == {"0": pytest.approx(1, abs=1e-9)}
    torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)
    assert not model[0].training
    assert sum(part.bias is not None for part in model[0]) == (make().bias is not None)


def test_frozen_layers_stay_frozen():
    model = nn.Sequential(nn.Linear(12, 10).requires_grad_(False), nn.Linear(10, 10))
    replace_layers(model, {"0": (2,), "1": (2,)})
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] * 3 + [True] * 3


def test_multiply_accumulates_and_parameters_are_those_by_hand():
    """A 3x3 convolution of 16 channels on 64 points, and one whose down runs on 64 points and the rest on 16."""
    model = built(RESNET)
    before = networks.profile(model, SHAPE)
    replace_layers(model, {"stages.0.0.conv1": (8, 4), "stages.1.0.conv1": (8, 32), "head": (2,)})
    after = networks.profile(model, SHAPE)
    dense = [64 * 9 * 16 * 16, 16 * 9 * 16 * 32, 64 * 5]
    low = [64 * (16 * 8 + 9 * 8 * 4 + 4 * 16), 64 * 16 * 8 + 16 * 9 * 8 * 32, 2 * (64 + 5)]
    assert before["macs"] - after["macs"] == sum(dense) - sum(low)
    weights = [16 * 8 + 9 * 8 * 4 + 4 * 16, 16 * 8 + 9 * 8 * 32, 2 * (64 + 5)]
    assert before["parameters"] - after["parameters"] == 9 * 16 * 16 + 9 * 16 * 32 + 64 * 5 - sum(weights)


# ---- the plan for a network


@pytest.mark.parametrize(
    "options",
    [Options(energy=0.7, round_to=4), Options(budget=0.6, round_to=4), Options(budget=0.6, cost="parameters")],
    ids=["energy", "budget of macs", "budget of parameters"],
)
def test_what_is_planned_is_what_comes_out(options):
    model = built(RESNET)
    before, same = networks.profile(model, SHAPE), list(model.named_modules())
    plan = plan_ranks(model, options, SHAPE)
    assert list(model.named_modules()) == same
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert plan.chosen.keys() | plan.refused.keys() == names
    assert not plan.chosen.keys() & plan.refused.keys()
    kept = replace_layers(model, {name: found.ranks for name, found in plan.chosen.items()})
    after = networks.profile(model, SHAPE)
    for cost in ("macs", "parameters"):
        saved = sum(getattr(plan.whole[name], cost) - getattr(found, cost) for name, found in plan.chosen.items())
        assert after[cost] == before[cost] - saved
        assert all(getattr(found, cost) < getattr(plan.whole[name], cost) for name, found in plan.chosen.items())
    assert all(kept[name] >= 1 - found.lost - 1e-6 for name, found in plan.chosen.items())
    assert all(
        rank % options.round_to == 0 or rank in (3, 16, 32, 64) for one in plan.chosen.values() for rank in one.ranks
    )
    if options.energy:
        assert min(kept.values()) >= options.energy - 1e-6
    else:
        assert after[options.cost] <= options.budget * before[options.cost]


def test_every_layer_that_stays_is_named_with_the_reason():
    model = built(RESNET)
    plan = plan_ranks(model, Options(energy=0.6, exclude=("stages.1",)), SHAPE)
    excluded = {name for name, reason in plan.refused.items() if reason == "excluded"}
    assert excluded == {"stages.1.0.conv1", "stages.1.0.conv2", "stages.1.0.shortcut.0"}
    assert plan.refused["head"] == "too small: no multiple of 8 (round_to) is below its full rank"
    assert plan.refused.keys() == excluded | {"head"}
    assert list(plan.refused)[-1] == "head"


def test_a_network_of_exactly_low_rank_keeps_its_answers():
    model, inputs = built(MLP), random(6, *SHAPE)
    with torch.no_grad():
        for layer in (model[1], model[3]):
            left, values, right = torch.linalg.svd(layer.weight, full_matrices=False)
            layer.weight.copy_(left[:, :8] * values[:8] @ right[:8])
    expected = model(inputs)
    plan = plan_ranks(model, Options(energy=0.999999), SHAPE)
    assert {name: found.ranks for name, found in plan.chosen.items()} == {"1": (8,), "3": (8,)}
    replace_layers(model, {"1": (8,), "3": (8,)})
    torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            Options(energy=0.99, round_to=16),
            r"no layer of the network gains by low rank \(energy 0.99, multiples of 16\):\n"
            r"  stem.0: too small: no multiple of 16 .round_to. is below its full rank\n(.|\n)*"
            r"  stages.2.0.conv2: keeping 0.99 of it takes its full rank\n(.|\n)*  head: too small(.|\n)*"
            r"lower energy or round_to, or switch the stage off",
        ),
        (
            Options(exclude=("stem", "stages", "head"), budget=0.5),
            r"no layer .* gains by low rank \(budget 0.5.*(.|\n)*excluded",
        ),
        (
            Options(budget=0.05),
            r"a budget of 0.05 of [\d,]+ multiply-accumulates cannot be met: with every layer that pays "
            r"\(stem.0, stages.0.0.conv1, .*\) at its smallest rank, [\d,]+ stay, 0.\d\d\d of them; raise budget",
        ),
        (Options(exclude=("stage.1",)), r"no layer 'stage.1' to exclude; did you mean \"stages.1\"\?"),
    ],
)
def test_what_cannot_be_done_is_told_with_what_was_tried(options, told):
    with pytest.raises(StageError, match=f"factorize: {told}") as error:
        plan_ranks(built(RESNET), options, SHAPE)
    assert len(str(error.value).splitlines()) < 20


def test_a_network_without_layers_is_told():
    with pytest.raises(StageError, match="it has no linear layer and no convolution in it"):
        plan_ranks(nn.Sequential(nn.Flatten()), Options(), SHAPE)


def test_options_say_one_rule():
    assert (Options().energy, Options().budget) == (0.9, None)
    assert (Options(budget=0.5).energy, Options(energy=None, budget=0.5).budget) == (None, 0.5)
    with pytest.raises(ValueError, match="energy and budget are two ways to choose ranks"):
        Options(energy=0.9, budget=0.5)
    for bad in ({"energy": 1.0}, {"budget": 0.0}, {"round_to": 0}, {"cost": "size"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Options(**bad)


# ---- replayed, exported, seen by losses on features


def test_pruned_and_factorized_comes_back_in_another_process(tmp_path):
    model, inputs = built(RESNET), random(4, *SHAPE)
    history = pruning.remove_channels(model, Pruning(ratio=0.25), SHAPE)
    ranks = {name: found.ranks for name, found in plan_ranks(model, Options(energy=0.6), SHAPE).chosen.items()}
    replace_layers(model, ranks)
    layers = json.loads(json.dumps([{"name": name, "ranks": list(own)} for name, own in ranks.items()]))
    description = RESNET.edited({"edit": "pruning", "history": history})
    models.save(tmp_path, description.edited({"edit": "factorization", "layers": layers}), model.state_dict())
    script = (
        "import sys, pathlib, torch; from edgekd import models; torch.set_num_threads(1)\n"
        f"x = torch.randn(4, *{SHAPE}, generator=torch.Generator().manual_seed(3))\n"
        "sys.stdout.write(models.load(pathlib.Path(sys.argv[1]))(x).detach().numpy().tobytes().hex())"
    )
    root = Path(factorization.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True, cwd=root
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert done.stdout == model(inputs).detach().numpy().tobytes().hex()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "layers",
    [[{"name": "absent", "ranks": [2]}], [{"name": "1", "ranks": [2, 2]}], [{"name": "2", "ranks": [2]}], [{}], [3]],
)
def test_an_edit_that_does_not_fit_is_refused(layers):
    with pytest.raises(StageError, match=r"the layers to factorize \(model.json\) do not fit the network"):
        restore(built(MLP), {"layers": layers}, models.example(SHAPE), {})


def test_what_a_factorized_head_is_given_is_still_the_embedding():
    """Losses on features take what the last linear layer is given: not the few numbers inside it."""
    model = built(MLP)
    assert usual(layers(model, random(2, *SHAPE)), "embedding", "student") == "5:input"
    replace_layers(model, {"5": (2,)})
    assert isinstance(model[5], FactorizedLinear)
    assert usual(layers(model, random(2, *SHAPE)), "embedding", "student") == "5:input"


# ---- the stage


def test_a_layer_to_spare_that_does_not_exist_is_told_before_any_training():
    recipe = Recipe.of(**tiny(factorize={"exclude": ["hed"]}, student={"model": "resnet", "width": 4, "epochs": 1}))
    arrays = datasets.load("digits", validation=0.2, train_samples=50)
    with pytest.raises(StageError, match=r"factorize: no layer 'hed' to exclude; did you mean \"head\"\?"):
        rehearse(recipe, arrays)
    rehearse(Recipe.of(**recipe.resolved() | {"factorize": {"exclude": ["head"]}}), arrays)


def test_the_stage_is_off_unless_asked_for():
    assert Recipe.of(**tiny()).options("factorize") is None
    assert Recipe.of(**tiny(factorize=True)).options("factorize") == Options(energy=0.9)


@pytest.mark.parametrize("student", [None, {"batch_size": 50, "learning_rate": 0.03}])
def test_it_is_trained_on_as_the_student_was_and_stored_with_its_edit(student, tmp_path, monkeypatch):
    """The student's training options (or the teacher's, where there is none), but for the epochs and the rate."""
    model = built(MLP)
    for folder in ("model", "out"):
        (tmp_path / folder).mkdir()
    models.save(tmp_path / "model", MLP, model.state_dict())
    source = Artifact(tmp_path / "model", "teacher", "", "", {})
    blocks = {
        "teacher": Network(model="mlp", learning_rate=0.006, batch_size=100),
        "student": Network(model="mlp", **student) if student else None,
        "distill": None,
    }
    seen = []
    monkeypatch.setattr(factorization, "learn", lambda *args: seen.append(args) or {"validation": 0.5})
    inputs = Inputs(
        artifacts={"model": source, "teacher": source}, blocks=blocks, data_dir=None, task="classification", seed=0,
        data_seed=0, data=Data(source="digits", train_samples=300), compute="cpu", variant="factorized",
    )  # fmt: skip
    facts = factorization.factorize(Options(energy=0.5, epochs=2), inputs, tmp_path / "out")
    ((network, teaching, (teacher,), training, *_),) = seen
    assert (training.epochs, training.batch_size) == (2, 50 if student else 100)
    assert training.learning_rate == pytest.approx(0.01 if student else 0.002)
    assert (teaching, teacher.role) == (Distillation(), "teacher")
    rank = facts["factorized"][0]["ranks"][0]
    assert facts["factorized"][0] == {
        "layer": "1", "ranks": [rank], "kept": pytest.approx(0.5, abs=0.2),
        "macs": [192 * 64, rank * 256], "weights": [192 * 64, rank * 256],
    }  # fmt: skip
    assert (facts["validation"], facts["before"]["macs"]) == (0.5, 192 * 64 + 64 * 48 + 48 * 5)
    assert facts["refused"] == {"5": "too small: no multiple of 8 (round_to) is below its full rank"}
    again, x = models.load(tmp_path / "out"), random(4, *SHAPE)
    assert torch.equal(again(x), network(x))
    assert facts["parameters"] == models.parameters(again)


def test_the_whole_chain_with_a_factorized_network(unmeasured, tmp_path):
    """Trained, factorized, quantized, exported, and each file validated: it answers as its network."""
    net = {"model": "resnet", "width": 16, "blocks": [1, 1], "epochs": 1, "batch_size": 32}
    low = {"energy": 0.6, "round_to": 4, "epochs": 1}
    recipe = Recipe.of(**tiny(teacher=net, student=None, distill=False, prune=False, factorize=low))
    result = run(recipe, out=tmp_path / "run", store=tmp_path / "store")
    assert list(result.report["devices"]["cpu"]["variants"]) == ["teacher", "factorized", "int8"]
    rows = {row["name"].partition("[")[0]: row["facts"] for row in result.report["stages"]}
    facts = rows["factorize"]
    assert facts["before"] == {name: rows["teacher"][name] for name in ("parameters", "macs")}
    assert facts["macs"] == facts["before"]["macs"] - sum(
        one["macs"][0] - one["macs"][1] for one in facts["factorized"]
    )
    assert facts["macs"] == count_macs(onnx.load(tmp_path / "run" / "models" / "factorized.onnx"))
    assert len(facts["factorized"]) + len(facts["refused"]) == 7
    assert any(len(one["ranks"]) == 1 for one in facts["factorized"])
    assert any(len(one["ranks"]) == 2 for one in facts["factorized"])
    assert all(one["kept"] >= 0.6 for one in facts["factorized"])
    assert facts["curves"]["epoch"] == [1]
    (folder,) = (tmp_path / "store" / "artifacts").glob("quantize-*")
    edits = json.loads((folder / models.DESCRIPTION).read_text())["edits"]
    assert [edit["edit"] for edit in edits] == ["factorization", "quantize"]
    assert len(rows["quantize"]["quantized_layers"]) > 7
    assert [name for name in rows if name in ("export", "validate")] == ["export", "validate"]
