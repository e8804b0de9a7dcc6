"""Pruning removes the channels that matter least, all that hang on them, and nothing else."""

from __future__ import annotations

import copy
import json
import zlib

import numpy as np
import pytest
import torch
from hypothesis import assume, settings
from hypothesis import given as given_any
from hypothesis import strategies as st
from torch import nn

from edgekd import data as datasets
from edgekd import models
from edgekd import stages as declared
from edgekd.artifact import Artifact
from edgekd.compress import channels, keeping, pruning, resuming
from edgekd.compress.importance import taylor
from edgekd.compress.keeping import Group
from edgekd.compress.pruning import remove_channels, restore
from edgekd.errors import StageError, UsageError
from edgekd.graph import parity
from edgekd.graph.export import export_onnx
from edgekd.graph.packing import packing
from edgekd.models import Description
from edgekd.options import Data, Network
from edgekd.recipe import Recipe
from edgekd.stage import Inputs
from edgekd.stages.prune import Options
from edgekd.training import networks
from tests.compress.small import DIGIT, SHAPE, Parts, conv, digit_net, given, head, kept, pooled
from tests.tiny import tiny

CONVNET = Description(
    "edgekd.models.convnet:build", {"input_shape": SHAPE, "classes": 5, "width": 16, "blocks": (1, 2)}, SHAPE
)
RESNET = Description("edgekd.models.resnet:build", {"input_shape": SHAPE, "classes": 5, "width": 16}, SHAPE)


def built(description: Description, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.create(description)


def widths(model: nn.Module) -> dict[str, int]:
    """Return the number of outputs of every layer."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    return {name: layer.weight.shape[0] for name, layer in layers.items()}


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.25, {"0": 16, "3": 24, "6": 24}),  # 12 of 16 lies between 8 and 16: the larger
        (0.3, {"0": 8, "3": 24, "6": 24}),
        (0.5, {"0": 8, "3": 16, "6": 16}),
        (0.8, {"0": 8, "3": 8, "6": 8}),
        (0.96, {"0": 8, "3": 8, "6": 8}),  # a multiple always stays
    ],
)
def test_what_stays_is_the_nearest_multiple_of_round_to(ratio, expected):
    model = built(CONVNET)
    remove_channels(model, Options(ratio=ratio), SHAPE)
    assert widths(model) == {**expected, "11": 5}


def test_coupled_layers_of_a_resnet_lose_the_same_channels():
    model = built(RESNET)
    remove_channels(model, Options(ratio=0.25), SHAPE)
    assert widths(model) == {
        "stem.0": 16, "stages.0.0.conv1": 16, "stages.0.0.conv2": 16,
        "stages.1.0.conv1": 24, "stages.1.0.conv2": 24, "stages.1.0.shortcut.0": 24,
        "stages.2.0.conv1": 48, "stages.2.0.conv2": 48, "stages.2.0.shortcut.0": 48, "head": 5,
    }  # fmt: skip


def test_both_sides_of_an_addition_and_their_normalisation_lose_the_same_channels():
    """Every weight is the number of its output channel, so the lowest numbers go, and the rest can be read off."""
    model = built(RESNET)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                numbers = torch.arange(1.0, len(module.weight) + 1)
                module.weight.copy_(numbers.view(-1, *[1] * (module.weight.ndim - 1)).expand_as(module.weight))
    remove_channels(model, Options(ratio=0.25), SHAPE)
    for name in ("conv2", "bn2", "shortcut.0", "shortcut.1", "conv1", "bn1"):
        weight = model.get_submodule(f"stages.1.0.{name}").weight
        assert weight.flatten(1 if weight.ndim > 1 else 0).view(24, -1)[:, 0].tolist() == list(range(9, 33)), name


@given_any(
    size=st.integers(1, 200), sections=st.sampled_from([1, 2, 4]), ratio=st.floats(0.01, 0.99),
    round_to=st.sampled_from([1, 4, 8, 12]),
)  # fmt: skip
@settings(max_examples=200)
def test_the_rounding_is_to_the_nearest_that_can_be(size, sections, ratio, round_to):
    group = Group("x", nn.Identity(), None, sections, torch.ones(size))
    total, wanted = size * sections, (1 - ratio) * size * sections
    assume(wanted >= 0.5)
    stays = keeping.kept(group, 1 - ratio, Options(ratio=ratio, round_to=round_to))
    multiple = int(np.lcm(round_to, sections))
    possible = [count for count in range(1, total + 1) if count % multiple == 0 or count == total]
    assert stays in possible
    distance = min(abs(count - wanted) for count in possible)
    assert abs(stays - wanted) <= distance + 1e-5
    assert stays == max(count for count in possible if abs(abs(count - wanted) - distance) < 1e-5)


def test_the_ratio_is_exact_where_nothing_is_rounded():
    for ratio in (0.1, 0.25, 0.3, 0.7, 0.9):
        model = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 2)).eval()
        remove_channels(model, Options(ratio=ratio, round_to=1), (4,))
        assert model[0].out_features == round(100 * (1 - ratio))


def test_the_least_important_channels_go():
    """Group magnitude: squared norm of a unit's row and of the column that reads it, each added; here of known size."""
    model = nn.Sequential(nn.Linear(2, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)).eval()
    sizes = torch.tensor([5.0, 1.0, 4.0, 0.5, 3.0, 2.0])
    with torch.no_grad():
        model[0].weight.copy_(sizes[:, None].expand(6, 2))
        model[2].weight.fill_(1.0)
    history = remove_channels(model, Options(ratio=0.5, round_to=1), (2,))
    assert history == [["0", True, [1, 3, 5]]]
    assert model[0].weight[:, 0].tolist() == [5.0, 4.0, 3.0]
    with torch.no_grad():
        model = nn.Sequential(nn.Linear(2, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)).eval()
        model[0].weight.fill_(1.0)
        model[2].weight.copy_(sizes.expand(2, 6))
    assert remove_channels(model, Options(ratio=0.5, round_to=1), (2,)) == [["0", True, [1, 3, 5]]]


@pytest.mark.parametrize("description", [CONVNET, RESNET], ids=["convnet", "resnet"])
def test_removing_channels_that_do_nothing_changes_nothing(description):
    """Channels that are zero after their normalisation, everywhere they are made, are the ones that go."""
    model = built(description)
    generator = torch.Generator().manual_seed(1)
    dead = {width: torch.randperm(width, generator=generator)[: width // 2] for width in (16, 32, 64)}
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(0.0, 0.5)
                module.running_mean.normal_(0, 0.1)
                for part in (module.weight, module.bias):
                    part[dead[module.num_features]] = 0.0
            elif isinstance(module, nn.Conv2d):
                module.weight[dead[module.out_channels]] *= 1e-3
                if module.in_channels in dead:
                    module.weight[:, dead[module.in_channels]] *= 1e-3
            elif isinstance(module, nn.Linear):
                module.weight[:, dead[module.in_features]] *= 1e-3
    inputs = torch.randn(6, *SHAPE)
    before = model(inputs)
    remove_channels(model, Options(ratio=0.5), SHAPE)
    assert widths(model)[next(iter(widths(model)))] == 8
    torch.testing.assert_close(model(inputs), before, rtol=1e-4, atol=1e-5)


def test_widths_are_cut_exactly_and_other_groups_are_left():
    model = built(RESNET)
    remove_channels(model, Options(widths={"stem.0": 5, "stages.2.0.conv1": 24}), SHAPE)
    assert widths(model) == {
        "stem.0": 5, "stages.0.0.conv1": 16, "stages.0.0.conv2": 5,
        "stages.1.0.conv1": 32, "stages.1.0.conv2": 32, "stages.1.0.shortcut.0": 32,
        "stages.2.0.conv1": 24, "stages.2.0.conv2": 64, "stages.2.0.shortcut.0": 64, "head": 5,
    }  # fmt: skip


def test_widths_of_equal_parts_are_multiples_of_them():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 1, groups=4), nn.Flatten(), nn.Linear(768, 5))
    with pytest.raises(StageError, match="2: 6 channels are to stay in 4 equal parts; choose a multiple"):
        remove_channels(model.eval(), Options(widths={"2": 6}), SHAPE)


def test_multiply_accumulates_fall_as_the_closed_form_says():
    """A 3x3 convolution of C inputs and K outputs on n pixels: 9 n C K. At half the channels, a quarter and a half."""

    def closed(first: int, second: int, third: int) -> int:
        return 9 * (64 * 3 * first + 16 * first * second + 16 * second * third) + third * 5

    model = built(CONVNET)
    assert networks.profile(model, SHAPE)["macs"] == closed(16, 32, 32)
    remove_channels(model, Options(ratio=0.5), SHAPE)
    assert networks.profile(model, SHAPE)["macs"] == closed(8, 16, 16)


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_excluded_and_last_layers_keep_their_outputs(scope):
    model = built(RESNET)
    remove_channels(model, Options(ratio=0.5, exclude=("stages.1", "stages.2.0.conv1"), scope=scope), SHAPE)
    found = widths(model)
    assert {found[name] for name in found if name.startswith("stages.1.")} == {32}
    assert found["stages.2.0.conv1"] == 64
    assert found["head"] == 5
    assert found["stages.2.0.conv2"] == found["stages.2.0.shortcut.0"] < 64


def test_the_last_layer_is_the_one_that_runs_last():
    model = Parts(lambda m, x: m.head(pooled(m.body(x))).softmax(1), head=nn.Linear(32, 16), body=conv(3, 32)).eval()
    remove_channels(model, Options(ratio=0.5), SHAPE)
    assert widths(model) == {"head": 16, "body": 16}


def test_layers_compete_where_the_scope_is_global():
    """The first layer's units are all alike, half of the second's are nearly dead: those go."""
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)).eval()
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight.fill_(1.0)
        model[2].weight[:16] *= 0.01
        model[4].weight[:, :16] *= 0.01
    remove_channels(model, Options(ratio=0.25, scope="global"), (4,))
    assert widths(model) == {"0": 32, "2": 16, "4": 2}


@pytest.mark.parametrize("description", [CONVNET, RESNET], ids=["convnet", "resnet"])
def test_the_history_is_json_and_replays_to_the_same_network(description):
    model = built(description)
    history = json.loads(json.dumps(remove_channels(model, Options(ratio=0.5), SHAPE)))
    again = restore(built(description, seed=9), {"history": history}, models.example(SHAPE), {})
    again.load_state_dict(model.state_dict())
    inputs = torch.randn(4, *SHAPE)
    assert torch.equal(again(inputs), model(inputs))


NETWORKS = {
    "grouped": (
        lambda: Parts(lambda m, x: m.c(pooled(m.b(m.a(x)))), a=conv(3, 32), b=conv(32, 32, groups=4), c=head(32)),
        {"a": 16, "b": 16, "c": 5},
    ),
    "depthwise": (
        lambda: Parts(lambda m, x: m.c(pooled(m.b(m.a(x)))), a=conv(3, 32), b=conv(32, 32, groups=32), c=head(32)),
        {"a": 16, "b": 16, "c": 5},
    ),
    "group norm": (
        lambda: Parts(lambda m, x: m.c(pooled(m.n(m.a(x)))), a=conv(3, 32), n=nn.GroupNorm(4, 32), c=head(32)),
        {"a": 16, "c": 5},
    ),
    "concatenation": (
        lambda: Parts(
            lambda m, x: m.c(pooled(torch.cat([m.a(x), m.b(x)], 1))), a=conv(3, 32), b=conv(3, 16), c=head(48)
        ),
        {"a": 16, "b": 8, "c": 5},
    ),
    "gate": (
        lambda: Parts(
            lambda m, x: m.c(pooled((y := m.a(x)) * m.g(pooled(y)).sigmoid()[:, :, None, None])),
            a=conv(3, 32), g=nn.Linear(32, 32), c=head(32),
        ),
        {"a": 16, "g": 16, "c": 5},
    ),
    "flattened": (
        lambda: Parts(lambda m, x: m.c(m.a(x).flatten(1)), a=conv(3, 32), c=head(32 * 64)),
        {"a": 16, "c": 5},
    ),
    "frozen": (
        lambda: Parts(
            lambda m, x: m.c(pooled(m.b(m.a(x)))), a=conv(3, 32).requires_grad_(False), b=conv(32, 16), c=head(16)
        ),
        {"a": 16, "b": 8, "c": 5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_other_kinds(name):
    make, expected = NETWORKS[name]
    model = make().eval()
    history = remove_channels(model, Options(ratio=0.5), SHAPE)
    assert widths(model) == expected
    again = restore(make().eval(), {"history": history}, models.example(SHAPE), {})
    again.load_state_dict(model.state_dict())
    inputs = torch.randn(3, *SHAPE)
    assert torch.equal(again(inputs), model(inputs))


REFUSED = {
    "a depthwise convolution with more outputs than inputs": (
        lambda: Parts(lambda m, x: m.c(pooled(m.b(m.a(x)))), a=conv(3, 32), b=conv(32, 64, groups=32), c=head(64)),
        "the channels of a cannot be ranked",
    ),
    "halves that are multiplied": (
        lambda: Parts(lambda m, x: m.c(pooled(torch.mul(*m.a(x).chunk(2, 1)))), a=conv(3, 32), c=head(16)),
        r"16 channels of a are to go, and \d+ would, because they are used in parts; exclude it, .*prune.exclude=",
    ),
    "a shape that is written down": (
        lambda: Parts(lambda m, x: m.c(m.a(x).view(-1, 32 * 64)), a=conv(3, 32), c=head(32 * 64)),
        "without the channels the network fails in layer '(a|c)'",
    ),
    "a parameter outside of the layers": (
        lambda: Parts(lambda m, x: m.c(pooled(m.a(x) * m.scale.weight)), a=conv(3, 32), c=head(32), scale=Scale()),
        r"the structure of the network cannot be followed: Unwrapped parameters detected: \['scale.weight'\]",
    ),
}


class Scale(nn.Module):
    """One factor for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32, 1, 1))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_pruned_is_refused_by_name(name):
    make, message = REFUSED[name]
    with pytest.raises(StageError, match=f"prune: {message}"):
        remove_channels(make().eval(), Options(ratio=0.5), SHAPE)


def test_a_layer_that_cannot_be_pruned_may_be_excluded():
    make, _ = REFUSED["halves that are multiplied"]
    model = Parts(lambda m, x: m.inner(m.first(x)), first=conv(3, 24), inner=make().eval()).eval()
    model.inner.a = conv(24, 32)
    remove_channels(model, Options(ratio=0.5, exclude=("inner.a",), round_to=4), SHAPE)
    assert widths(model) == {"first": 12, "inner.a": 32, "inner.c": 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            Options(ratio=0.1),
            "no channel is to go: to the nearest multiple of 8 .round_to., a ratio of 0.1 leaves every",
        ),
        (Options(ratio=0.9, exclude=("0", "3", "6")), "no channel is to go"),
        (Options(exclude=("4", "conv1")), "no layer 'conv1' to exclude"),
    ],
)
def test_nothing_to_remove_is_an_error(options, message):
    with pytest.raises(StageError, match=f"prune: {message}"):
        remove_channels(built(CONVNET), options, SHAPE)


def test_the_policy_changed_what_is_made_so_older_results_are_not_reused():
    assert declared.declared()["prune"].stage.version >= 2


@pytest.mark.parametrize("student", [None, {"batch_size": 50, "learning_rate": 0.03}])
def test_the_stage_prunes_trains_and_stores(student, tmp_path, monkeypatch):
    """The student's training options (or the teacher's, where there is none), but for the epochs and the rate."""
    monkeypatch.setattr("edgekd.training.engine.threads", lambda: 1)
    shape = (1, 8, 8)
    description = Description(
        "edgekd.models.mlp:build", {"input_shape": list(shape), "classes": 10, "widths": [64]}, shape
    )
    model = built(description)
    (tmp_path / "model").mkdir()
    (tmp_path / "out").mkdir()
    models.save(tmp_path / "model", description, model.state_dict())
    source = Artifact(tmp_path / "model", "teacher", "", "", {})
    blocks = {
        "teacher": Network(model="mlp", widths=(64,), learning_rate=0.006, batch_size=100),
        "student": Network(model="mlp", widths=(64,), **student) if student else None,
        "distill": None,
    }
    seen = []
    original = pruning.learn
    monkeypatch.setattr(pruning, "learn", lambda *args: seen.append(args[3]) or original(*args))
    facts = pruning.prune(
        Options(ratio=0.5, epochs=2),
        Inputs(
            artifacts={"model": source, "teacher": source}, blocks=blocks, data_dir=None, task="classification", seed=0,
            data_seed=0, data=Data(source="digits", train_samples=300), compute="cpu", variant="pruned",
        ),
        tmp_path / "out",
    )  # fmt: skip
    (training,) = seen
    assert (training.epochs, training.batch_size) == (2, 50 if student else 100)
    assert training.learning_rate == pytest.approx(0.01 if student else 0.002)
    assert facts["before"] == {"parameters": 64 * 65 + 65 * 10, "macs": 64 * 64 + 64 * 10}
    assert (facts["parameters"], facts["macs"]) == (32 * 65 + 33 * 10, 32 * 64 + 32 * 10)
    assert facts["curves"]["epoch"] == [1, 2]
    loaded = models.load(tmp_path / "out")
    assert widths(loaded) == {"1": 32, "3": 10}


# ---- the stage: in steps, by any importance, with blocks and zeros


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setattr("edgekd.training.engine.threads", lambda: 1)


def test_channels_go_in_equal_parts_of_what_there_was_at_first():
    """A ratio of 0.6 in three steps: of 100 units stay 80, 60 and 40, of 50 stay 40, 30 and 20."""
    model = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 2)).eval()
    for scope in ("uniform", "global"):
        own = copy.deepcopy(model)
        at_first = {"0": 100, "2": 50}
        for step in (1, 2, 3):
            cut = channels.Cut(step / 3, at_first)
            channels.remove(own, Options(ratio=0.6, round_to=1, scope=scope), (4,), cut=cut)
            found = own[0].out_features, own[2].out_features
            assert sum(found) == pytest.approx(150 * (1 - 0.2 * step), abs=1)
            if scope == "uniform":
                assert found == (100 - 20 * step, 50 - 10 * step)


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_a_ratio_that_would_empty_a_layer_is_refused(scope):
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
    products = {parameter: torch.ones_like(parameter) for parameter in model.parameters()}
    products[model[2].weight][:] = products[model[2].bias][:] = products[model[4].weight][:] = 1e-6
    ratio, left = (0.98, "0.32") if scope == "uniform" else (0.5, "0")
    options = Options(ratio=ratio, scope=scope, round_to=4)
    message = (
        rf"a ratio of {ratio} \(scope: {scope}\) would leave {left} of the 16 channels of 2; lower ratio, or exclude"
    )
    with pytest.raises(StageError, match=message):
        remove_channels(model, options, (4,), taylor(products))


def test_all_unknown_layers_are_told_with_what_was_meant():
    with pytest.raises(StageError) as error:
        remove_channels(built(RESNET), Options(exclude=("stem.00", "head", "stages.0.0.cnv1")), SHAPE)
    for told in (
        "'stem.00' to exclude; did you mean",
        "'stages.0.0.cnv1' to exclude; did you mean \"stages.0.0.conv1\"",
    ):
        assert told in str(error.value)
    assert "'head'" not in str(error.value)


def work(tmp_path, **training):
    student = kept(tmp_path / "student", digit_net("resnet", width=16, blocks=[3, 1]))
    teacher = kept(tmp_path / "teacher", digit_net("mlp", widths=[12]), seed=5)
    return given(student, teacher, **training)


EVERYTHING = Options(
    ratio=0.5, importance="distill_taylor", scope="global", depth=2, steps=2, epochs=1, batches=2,
    sparsity={"ratio": 0.5}, exclude=("stages.1.0.conv1",),
)  # fmt: skip


def test_in_steps_with_blocks_and_zeros_and_it_goes_on_where_it_was(one_thread, tmp_path, monkeypatch):
    inputs = work(tmp_path)
    (tmp_path / "whole").mkdir()
    facts = pruning.prune(EVERYTHING, inputs, tmp_path / "whole")
    description, model = models.describe(tmp_path / "whole"), models.load(tmp_path / "whole")

    assert [edit["edit"] for edit in description.edits] == ["depth", "pruning", "depth", "pruning"]
    removed = [edit["removed"] for edit in description.edits if edit["edit"] == "depth"]
    assert [len(names) for names in removed] == [1, 1]
    assert all(isinstance(model.get_submodule(name), nn.Identity) for (name,) in removed)
    assert widths(model)["stages.1.0.conv1"] == 32
    losses = [one["losses"] for step in facts["steps"] for one in step["depth"]]
    assert [len(one) for one in losses] == [3, 2]
    assert [min(one, key=one.get) for one in losses] == [name for (name,) in removed]
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    kept_dense = model.get_submodule("stages.1.0.conv1").weight
    assert not (kept_dense == 0).any()
    count = sum(weight.numel() for weight in weights) - kept_dense.numel()
    assert sum(int((weight == 0).sum()) for weight in weights) == facts["sparsity"]["zeros"] == round(0.5 * count)
    assert facts["sparsity"]["dense"] == ["stages.1.0.conv1"]
    assert facts["macs"] == networks.profile(model, DIGIT)["macs"] < facts["steps"][0]["macs"] < facts["before"]["macs"]

    trained = []
    original = pruning.learn

    def killed(*args):
        trained.append(args[3].epochs)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(pruning, "learn", killed)
    (tmp_path / "again").mkdir()
    with pytest.raises(KeyboardInterrupt):
        pruning.prune(EVERYTHING, inputs, tmp_path / "again")
    assert pruning.prune(EVERYTHING, inputs, tmp_path / "again") == facts
    assert len(trained) == 3  # the first step once, the second begun twice
    for name in (models.DESCRIPTION, models.WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_explicit_blocks_and_widths_are_an_ordinary_pruning(one_thread, tmp_path):
    options = Options(blocks=("stages.0.1",), widths={"stages.0.0.conv1": 8, "stages.1.0.conv1": 24}, epochs=1)
    (tmp_path / "out").mkdir()
    facts = pruning.prune(options, work(tmp_path), tmp_path / "out")
    description, model = models.describe(tmp_path / "out"), models.load(tmp_path / "out")
    assert [edit["edit"] for edit in description.edits] == ["depth", "pruning"]
    assert isinstance(model.get_submodule("stages.0.1"), nn.Identity)
    assert (widths(model)["stages.0.0.conv1"], widths(model)["stages.1.0.conv1"], widths(model)["stem.0"]) == (
        8,
        24,
        16,
    )
    assert facts["macs"] == networks.profile(model, DIGIT)["macs"]


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_widths_give_the_network_that_a_ratio_gave(scope):
    by_ratio, by_width = built(RESNET), built(RESNET)
    history = remove_channels(by_ratio, Options(ratio=0.4, scope=scope), SHAPE)
    _, groups = channels.groups(built(RESNET), Options(), SHAPE)
    asked = {group.name: widths(by_ratio)[group.name] for group in groups}
    assert remove_channels(by_width, Options(widths=asked), SHAPE) == history


@pytest.mark.parametrize("file", [models.WEIGHTS, models.DESCRIPTION, resuming.FACTS])
@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-3] + b"7" + content[-2:]])
def test_what_was_kept_and_is_damaged_is_made_again(tmp_path, caplog, file, damage):
    description = digit_net("mlp", widths=[4])
    model = built(description)
    resuming.keep(tmp_path / "cut", description, model, {"a": 1})
    found = resuming.kept(tmp_path / "cut")
    assert (found[0], found[2]) == (description, {"a": 1})
    assert torch.equal(found[1][1].weight, model[1].weight)
    path = tmp_path / "cut" / file
    path.write_bytes(damage(path.read_bytes()))
    assert resuming.kept(tmp_path / "cut") is None
    assert "it is made again" in caplog.text
    assert not (tmp_path / "cut").exists()


def test_a_sparse_network_exports_as_it_is(one_thread, tmp_path):
    """2 of every 4 weights of a pruned network, through ONNX: the same answers, and half of those weights are zero."""
    inputs = work(tmp_path)
    (tmp_path / "out").mkdir()
    options = Options(ratio=0.5, importance="taylor", batches=1, epochs=1, depth=1, sparsity={"n": 2, "m": 4})
    facts = pruning.prune(options, inputs, tmp_path / "out")
    model = models.load(tmp_path / "out")
    assert facts["sparsity"]["dense"] == ["stem.0"]  # which has one input
    assert facts["sparsity"]["zeros"] == (facts["sparsity"]["weights"] - 8 * 9) / 2
    path = tmp_path / "model.onnx"
    export_onnx(
        model,
        (models.example(DIGIT),),
        path,
        input_names=["x"],
        output_names=["y"],
        metadata={},
        max_opset=20,
        quantized_layers=None,
    )
    samples = np.random.default_rng(0).normal(size=(32, *DIGIT)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(samples)).numpy()
    found = parity.compare({"y": expected}, parity.run_onnx(path, {"x": samples}, 16))
    assert parity.check(found, parity.FLOAT_TOLERANCE) == []
    told = packing(path)
    assert told["zero_share"] == pytest.approx(facts["sparsity"]["zeros"] / facts["sparsity"]["weights"])
    assert told["compressed_bytes"] == len(zlib.compress(path.read_bytes(), 9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exclude": ["stem.1", "steem"]}, "no layer 'steem' to exclude"),
        ({"depth": 2, "ratio": 0}, r"2 residual blocks are to go, and the network has 1 that can \(stages.0.0\)"),
        ({"ratio": 0.98}, "would leave 0.32 of the 16 channels of "),
        ({"ratio": 0.1}, "no channel is to go"),
        ({"ratio": 0, "sparsity": {"n": 1, "m": 7}}, "no layer has inputs that 7 divides"),
        (
            {"widths": {"stem.0": 24, "stages.1.0.conv1": 8, "stages.1.conv1": 8}},
            r"prune.widths:\n  stem.0: 24 channels are to stay, and it has 16\n  no group of channels 'stages.1.conv1'"
            r"; did you mean .stages.1.0.conv1.\? \(there are: .*stem.0, ",
        ),
        ({"blocks": ["stages.1.0"]}, r"no residual block 'stages.1.0' that can go.* \(there are: stages.0.0\)"),
        ({"blocks": ["stages.0.0"], "widths": {"stages.0.0.conv1": 8}}, "no group of channels 'stages.0.0.conv1'"),
    ],
)
def test_what_the_networks_show_is_told_before_any_training(changes, message):
    recipe = Recipe.of(**tiny(prune=changes, student={"model": "resnet", "width": 16, "blocks": [1, 1]}))
    data = datasets.of_recipe(recipe.data, recipe.seed, None)
    assert declared.declared()["prune"].stage.rehearsal == "edgekd.compress.pruning:rehearse"
    with pytest.raises(StageError, match=message):
        pruning.rehearse(recipe, data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratio": 0}, "there is nothing to prune"),
        ({"importance": "tailor"}, 'did you mean "taylor"'),
        ({"scope": "globl"}, 'did you mean "global"'),
        ({"steps": 0}, "prune.steps: 0"),
        ({"epochs_between": 2}, "epochs_between goes with steps"),
        ({"depth": -1}, "prune.depth: -1"),
        ({"sparsity": {}}, "give either ratio"),
        ({"widths": {"stem.0": 8}, "ratio": 0.5}, "widths says exactly what goes, in one cut; remove ratio"),
        ({"blocks": ["stages.0.0"], "depth": 1}, "blocks says exactly what goes, in one cut; remove depth"),
        ({"blocks": ["stages.0.0"], "steps": 2}, "remove steps"),
        ({"widths": {}}, "there is nothing to prune"),
        ({"widths": {"stem.0": 0}}, "prune.widths.stem.0: 0"),
        ({"sparsity": {"ratio": 0.5, "n": 2, "m": 4}}, "give either ratio"),
        ({"sparsity": {"n": 2}}, "n and m go together"),
        ({"sparsity": {"n": 4, "m": 4}}, "n must be smaller than m"),
        ({"sparsity": {"ratio": 1.0}}, "prune.sparsity.ratio: 1"),
    ],
)
def test_options_that_make_no_sense(changes, message):
    with pytest.raises(UsageError, match=message):
        Recipe.of(**tiny(prune=changes))
