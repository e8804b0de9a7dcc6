"""The training loop: the same weights however often it is interrupted, and loud when something is wrong."""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.data import Data, Split
from edgekd.errors import StageError
from edgekd.options import Augment, Training
from edgekd.training import checkpoint
from edgekd.training.engine import accelerate, lay_out, mixed, seed_everything
from edgekd.training.evaluation import evaluate
from edgekd.training.objective import Objective

from .small import TASK, Given, convnet, images, labels, train


class Killed(BaseException):
    """Stands for the end of the process."""


def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a checkpoint after each step."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", -1.0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", float("inf"))


def built(make=convnet, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return make()


class Killing(Objective):
    """Another objective, until the process ends at a step; a kill happens before the step's own checkpoint."""

    def __init__(self, aim: Objective, kill: int | None) -> None:
        super().__init__()
        self.aim, self.left = aim, kill

    def forward(self, outputs, batch):
        self.left = None if self.left is None else self.left - 1
        if self.left == 0:
            raise Killed
        return self.aim(outputs, batch)


def interrupted(data: Data, options: Training, out, kills: list[int], make=convnet, aim=lambda: Given(labels), **more):
    """Train with a fresh process's view of things after each kill; the last time to the end."""
    for kill in [*kills, None]:
        model, objective = built(make), Killing(built(aim), kill)
        torch.manual_seed(np.random.default_rng(kill).integers(2**31))  # nothing may depend on what came before
        try:
            facts = train(model, data, out, options, objective=objective, **more)
        except Killed:
            assert kill is not None
            continue
        assert kill is None
        return model, facts, objective.aim
    raise AssertionError


FORMS = {
    "sgd": Training(epochs=5, batch_size=16, optimizer="sgd", learning_rate=0.1),
    "adamw": Training(epochs=5, batch_size=16),
    "views": Training(epochs=4, batch_size=16, augment=Augment(crop=2, flip=True, brightness=0.3, contrast=0.3)),
    "cycled": Training(epochs=4, batch_size=16, augment=Augment(crop=2, erase=3, erase_share=0.5, views=2)),
    "mixed": Training(epochs=4, batch_size=16, augment=Augment(mixup=0.4, cutmix=1.0)),
    "clipped": Training(
        epochs=4, batch_size=16, gradient_clip=0.1, label_smoothing=0.1, schedule="constant", warmup=0.0
    ),
    "accumulated": Training(epochs=4, batch_size=16, accumulate=3, gradient_clip=0.5, schedule="step"),
    "averaged": Training(epochs=4, batch_size=16, ema=0.9),
    "patience": Training(epochs=30, batch_size=16, patience=2, learning_rate=0.02),
    "bf16": Training(epochs=3, batch_size=16, precision="bf16"),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_interrupted_training_ends_with_the_same_bits(form, tmp_path, monkeypatch):
    """70 samples in batches of 16: 4 steps an epoch. Kills in the middle of epochs, at their first and last steps."""
    at_every_step(monkeypatch)
    data, options = images(), FORMS[form]
    whole = built()
    expected = train(whole, data, tmp_path / "whole", options)
    model, facts, _ = interrupted(data, options, tmp_path / "cut", [1, 3, 2, 4, 5, 1])
    assert facts == expected
    found, wanted = model.state_dict(), whole.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert facts["precision"] == ("bf16" if form == "bf16" else "fp32")


def test_every_epoch_is_judged_and_told_again_after_an_interruption(tmp_path, monkeypatch):
    at_every_step(monkeypatch)
    told: list[tuple[int, dict[str, float]]] = []
    _, facts, _ = interrupted(
        images(), FORMS["sgd"], tmp_path / "cut", [6], judged=lambda epoch, curves: told.append((epoch, curves))
    )
    assert [epoch for epoch, _ in told] == [1, 1, 2, 3, 4, 5]  # 4 steps an epoch: killed in the second one
    for name in ("validation", "train_loss", "learning_rate"):
        assert [float(f"{curves[name]:.6g}") for _, curves in told[1:]] == facts["curves"][name]


def test_who_is_told_of_an_epoch_may_end_the_training(tmp_path):
    told: list[int] = []

    def judged(epoch: int, curves: dict[str, float]) -> None:
        told.append(epoch)
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(built(), images(), tmp_path / "ended", FORMS["sgd"], judged=judged)
    assert told == [1, 2]


class Adapted(Objective):
    """Two terms besides the labels: one learns an adapter, one remembers what it saw of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter = nn.Linear(3, 5)
        self.register_buffer("bank", torch.zeros(70, 3))

    def forward(self, outputs, batch):
        goal = batch.samples[:, None] * torch.tensor([0.01, 0.02, 0.03, 0.04, 0.05])
        self.bank[batch.samples] = 0.5 * self.bank[batch.samples] + 0.5 * outputs.detach()
        memory = (outputs - self.bank[batch.samples]).square().mean()
        return {**labels(outputs, batch), "hint": (self.adapter(outputs) - goal).square().mean(), "memory": memory}


def test_what_an_objective_learns_and_remembers_survives_kills(tmp_path, monkeypatch):
    at_every_step(monkeypatch)
    options = Training(epochs=4, batch_size=16, gradient_clip=1.0, accumulate=2)
    whole, aim = built(), built(Adapted)
    expected = train(whole, images(), tmp_path / "whole", options, objective=aim)
    model, facts, other = interrupted(images(), options, tmp_path / "cut", [1, 3, 9, 8, 5], aim=Adapted)
    assert facts == expected
    assert same(model.state_dict(), whole.state_dict())
    assert same(other.state_dict(), aim.state_dict())
    assert not torch.equal(aim.adapter.weight, built(Adapted).adapter.weight)
    assert bool((aim.bank != 0).all(1).all())
    assert list(facts["terms"]) == ["labels", "hint", "memory"]


def test_networks_that_draw_from_other_generators_resume_too(tmp_path, monkeypatch):
    import random

    class Shaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

        def forward(self, x):
            if self.training:
                x = x * (1 + random.random()) + float(np.random.rand())
            return self.body(x)

    at_every_step(monkeypatch)
    whole = built(Shaky)
    expected = train(whole, images(), tmp_path / "whole", FORMS["sgd"])
    model, facts, _ = interrupted(images(), FORMS["sgd"], tmp_path / "cut", [2, 6, 3], Shaky)
    assert facts == expected
    assert torch.equal(model.body[1].weight, whole.body[1].weight)


def test_a_kill_between_two_checkpoints_repeats_the_steps(tmp_path, monkeypatch):
    """Checkpoints after every third step only: steps that were lost are done again, with the same result."""
    at_every_step(monkeypatch)
    written, original = [0], checkpoint.save

    def sometimes(out, state):
        written[0] += 1
        if written[0] % 3 == 0:
            original(out, state)

    monkeypatch.setattr(checkpoint, "save", sometimes)
    whole = built()
    expected = train(whole, images(), tmp_path / "whole", FORMS["adamw"])
    model, facts, _ = interrupted(images(), FORMS["adamw"], tmp_path / "cut", [5, 5, 7])
    assert facts == expected
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))


def test_a_damaged_checkpoint_starts_anew_with_a_warning(tmp_path, monkeypatch, caplog):
    at_every_step(monkeypatch)
    expected = train(built(), images(), tmp_path / "whole", FORMS["sgd"])

    def killed(outputs, batch, steps=[0]):  # noqa: B006
        steps[0] += 1
        if steps[0] == 7:
            raise Killed
        return labels(outputs, batch)

    with pytest.raises(Killed):
        train(built(), images(), tmp_path / "cut", FORMS["sgd"], objective=killed)
    file = tmp_path / "cut" / "checkpoint" / checkpoint.FILE
    file.write_bytes(file.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert train(built(), images(), tmp_path / "cut", FORMS["sgd"]) == expected
    assert "the work starts anew" in caplog.text


def test_the_seed_decides_order_views_and_dropout(tmp_path):
    options = FORMS["views"]
    runs = [train(built(), images(), tmp_path / str(n), options, seed=seed) for n, seed in enumerate((5, 5, 6))]
    assert runs[0] == runs[1]
    assert runs[0]["curves"]["train_loss"] != runs[2]["curves"]["train_loss"]


def test_every_epoch_sees_another_order_and_leaves_out_only_the_partial_batch(tmp_path):
    data = images(train=11)
    data = replace(
        data, train=Split(np.arange(11, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32), data.train.targets)
    )
    seen = []

    def objective(outputs, batch):
        seen.append(batch.inputs[:, 0].int().tolist())
        assert batch.samples.tolist() == seen[-1]
        return labels(outputs, batch)

    data = replace(data, validation=data.train)
    train(nn.Sequential(nn.Linear(4, 3)), data, tmp_path, Training(epochs=20, batch_size=4), objective=objective)
    epochs = [seen[n] + seen[n + 1] for n in range(0, 40, 2)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20
    assert {sample for epoch in epochs for sample in epoch} == set(range(11))


def test_a_batch_larger_than_the_data_is_all_of_them(tmp_path):
    sizes = []

    def objective(outputs, batch):
        sizes.append(len(batch.inputs))
        return labels(outputs, batch)

    train(built(), images(train=13), tmp_path, Training(epochs=2, batch_size=500), objective=objective)
    assert sizes == [13, 13]


class Scored:
    """A task whose scores are given; what it is asked is kept."""

    def __init__(self, scores: list[float]) -> None:
        self.scores, self.asked = list(scores), []
        self.task = replace(TASK, score=self.score)

    def score(self, outputs, targets):
        self.asked.append(targets)
        return np.full(len(targets), self.scores[len(self.asked) - 1])


def states(scores: list[float], tmp_path, **options):
    """Train with given validation scores; return the facts, the weights after each epoch, and the ones that stayed."""
    model, scored, after = built(lambda: convnet(dropout=0.0)), Scored(scores), []
    original = scored.score

    def score(outputs, targets):
        after.append({name: value.clone() for name, value in model.state_dict().items()})
        return original(outputs, targets)

    task = replace(TASK, score=score)
    facts = train(model, images(), tmp_path, Training(epochs=len(scores), batch_size=16, **options), task=task)
    return facts, after, model.state_dict(), scored.asked


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("scores", "best"), [([0.2, 0.9, 0.5], 2), ([0.2, 0.9, 0.9, 0.1], 3), ([0.0, 0.0], 2), ([0.7, 0.6, 0.5], 1)]
)
def test_the_best_epoch_on_validation_stays_the_later_one_of_equals(scores, best, tmp_path):
    facts, after, kept, asked = states(scores, tmp_path)
    assert facts["best_epoch"] == best
    assert facts["validation"] == pytest.approx(max(scores))
    assert facts["curves"]["validation"] == scores
    assert facts["curves"]["epoch"] == list(range(1, len(scores) + 1))
    assert [same(weights, kept) for weights in after].index(True) == best - 1
    assert all(np.array_equal(targets, images().validation.targets) for targets in asked)


@pytest.mark.parametrize(
    ("scores", "patience", "epochs"),
    [
        ([0.5, 0.4, 0.4, 0.9, 0.9], 2, 3),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 2, 3),  # a tie is no rise
        ([0.1, 0.2, 0.1, 0.3, 0.2], 2, 5),
        ([0.5, 0.4, 0.6], 1, 2),
        ([0.5, 0.4, 0.3], 9, 3),
    ],
)
def test_patience_ends_a_training_that_no_longer_gets_better(scores, patience, epochs, tmp_path):
    facts, *_ = states(scores, tmp_path, patience=patience)
    assert facts["curves"]["validation"] == scores[:epochs]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("step", [1, 2, 7])
def test_a_loss_that_is_no_number_stops_at_once(bad, step, tmp_path):
    count = [0]

    def objective(outputs, batch):
        count[0] += 1
        return {"labels": labels(outputs, batch)["labels"] * (bad if count[0] == step else 1.0)}

    where = f"epoch {(step - 1) // 4 + 1}, step {(step - 1) % 4 + 1}"
    with pytest.raises(
        StageError, match=rf"the term labels became -?(nan|inf) in {where}; lower learning_rate \(0.001\), or set"
    ):
        train(built(), images(), tmp_path, FORMS["adamw"], objective=objective)
    assert count[0] == step


def test_a_learning_rate_that_is_too_high_is_told(tmp_path):
    options = Training(epochs=50, batch_size=16, optimizer="sgd", learning_rate=10.0, schedule="constant")
    data = images()
    data = replace(data, train=Split(data.train.inputs * 1e8, data.train.targets))
    with pytest.raises(StageError, match="lower learning_rate"):
        train(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3)), data, tmp_path, options
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda outputs: outputs.sum(1), r"the loss of a batch is one number.*for the term labels came shape \(16,\)"),
        (lambda outputs: 1.0, "one number.*for the term labels came float"),
        (lambda outputs: outputs @ outputs, r"training fails on a batch of shape \(16, 1, 8, 8\): mat1"),
    ],
)
def test_a_users_loss_that_is_wrong_is_told(change, message, tmp_path):
    with pytest.raises(StageError, match=message):
        train(built(), images(), tmp_path, FORMS["sgd"], objective=lambda o, _: {"labels": change(o)})


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda outputs, targets: np.full(len(targets), np.nan), "score.. returned values that are not finite"),
        (lambda outputs, targets: np.ones(3), r"score.. returned shape \(3,\) for 30 samples"),
        (lambda outputs, targets: 0.5, r"score.. returned shape \(\) for 30 samples"),
    ],
)
def test_a_users_score_that_is_wrong_is_told(score, message, tmp_path):
    with pytest.raises(StageError, match=f"task classification: {message}"):
        train(built(), images(), tmp_path, FORMS["sgd"], task=replace(TASK, score=score))


def test_a_network_that_works_only_outside_of_training_is_told(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3))
    with pytest.raises(
        StageError, match=r"training fails on a batch of shape \(1, 1, 8, 8\): Expected more than 1 value"
    ):
        train(network, images(), tmp_path, Training(epochs=1, batch_size=1))


def test_the_gradient_is_clipped_to_its_norm(tmp_path):
    """One step of plain gradient descent moves the weights by learning rate times clip."""
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    before = model[1].weight.detach().clone()
    options = Training(
        epochs=1, batch_size=70, optimizer="sgd", momentum=0.0, learning_rate=0.5, weight_decay=0.0, warmup=0.0,
        gradient_clip=0.01,
    )  # fmt: skip
    bias = model[1].bias.detach().clone()
    train(model, images(), tmp_path, options)
    moved = torch.cat([(model[1].weight - before).flatten(), model[1].bias - bias])
    assert float(moved.norm().detach()) == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_a_plain_step_is_that_of_the_closed_form_gradient(tmp_path):
    """Softmax regression from zero weights: dL/dW = (1/B) sum (p - y) x, with p = 1/K."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    data = images()
    options = Training(
        epochs=1, batch_size=70, optimizer="sgd", momentum=0.0, learning_rate=0.5, weight_decay=0.1, warmup=0.0
    )
    facts = train(model, data, tmp_path, options)
    x, y = data.train.inputs.reshape(70, 64).astype(np.float64), np.eye(3)[data.train.targets]
    np.testing.assert_allclose(model[1].weight.detach(), -0.5 * (1 / 3 - y).T @ x / 70, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model[1].bias.detach(), -0.5 * (1 / 3 - y).mean(0), rtol=1e-4, atol=1e-6)
    assert facts["curves"]["train_loss"] == [pytest.approx(np.log(3), rel=1e-5)]


def test_label_smoothing_is_the_cross_entropy_with_the_smoothed_target():
    """Szegedy et al. 2015 (arXiv:1512.00567), section 7: q = (1 - e) y + e / K."""
    generator = np.random.default_rng(0)
    logits, targets = generator.normal(size=(9, 5)) * 3, generator.integers(0, 5, 9)
    smoothed = 0.7 * np.eye(5)[targets] + 0.3 / 5
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss = TASK.loss(torch.from_numpy(logits), torch.from_numpy(targets), label_smoothing=0.3)
    assert float(loss) == pytest.approx(-(smoothed * logp).sum(1).mean(), rel=1e-6)


def test_the_model_comes_back_as_it_was_but_for_its_weights(tmp_path):
    for precision in ("fp32", "bf16"):
        model = built()
        forward = model.forward.__func__ if hasattr(model.forward, "__func__") else model.forward
        train(model, images(), tmp_path / precision, Training(epochs=1, batch_size=16, precision=precision))
        assert not model.training
        assert model[0].weight.is_contiguous()
        assert getattr(model.forward, "__func__", model.forward) is forward
        assert model(torch.zeros(2, 1, 8, 8)).dtype == torch.float32
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_bf16_rounds_and_fp32_does_not(tmp_path):
    """The first loss, of the same weights and samples: bf16 has 8 bits of mantissa."""
    losses = {}
    for precision in ("fp32", "bf16"):
        options = Training(epochs=1, batch_size=70, precision=precision)
        model = built(lambda: convnet(dropout=0.0))
        losses[precision] = train(model, images(), tmp_path / precision, options)["curves"]["train_loss"][0]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_a_network_that_flattens_with_view_trains(tmp_path):
    """Channels-last images cannot be flattened by `view`; such a network runs in the usual layout."""

    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(144, 3)

        def forward(self, x):
            return self.head(self.conv(x).view(len(x), -1))

    assert lay_out(model := Views(), torch.zeros(2, 1, 8, 8)) == torch.contiguous_format
    assert model.conv.weight.is_contiguous()
    assert lay_out(model := convnet(), torch.zeros(2, 1, 8, 8)) == torch.channels_last
    assert model[4].weight.is_contiguous(memory_format=torch.channels_last)
    assert lay_out(nn.Linear(4, 3), torch.zeros(2, 4)) == torch.contiguous_format
    assert len(train(Views(), images(), tmp_path, FORMS["sgd"])["curves"]["epoch"]) == 5


def test_without_epochs_a_network_is_only_scored(tmp_path):
    model = built()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    facts = train(model, images(), tmp_path, Training())
    score = evaluate(model, images().validation, TASK, accelerate("cpu", "fp32"))
    assert facts == {"validation": score, "precision": "fp32"}
    assert same(before, model.state_dict())


def test_the_score_is_over_all_samples_whatever_the_batch(monkeypatch):
    model, split = built(), images(validation=1203).validation
    score = evaluate(model, split, TASK, accelerate("cpu", "fp32"))
    with torch.no_grad():
        predicted = model(torch.from_numpy(split.inputs)).argmax(1).numpy()
    assert score == pytest.approx((predicted == split.targets).mean(), abs=1e-12)


def test_progress_goes_from_the_first_step_to_the_last(tmp_path):
    told = []
    options = Training(epochs=2, batch_size=5)
    train(built(), images(), tmp_path, options, progress=lambda *event: told.append(event))
    assert [done for done, *_ in told] == [1, 11, 14, 15, 25, 28]
    assert {total for _, total, _ in told} == {28}
    assert re.fullmatch(r"epoch 1/2  [\d,]+ samples/s", told[0][2])
    assert told[-1][2].startswith("epoch 2/2  validation 0.")


def test_asking_for_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StageError, match="torch finds no CUDA device; use --set compute=cpu"):
        accelerate("cuda", "fp32")


def test_precision_may_change_from_training_to_training_in_one_process():
    assert [accelerate("cpu", precision).mixed_precision for precision in ("fp32", "bf16", "fp32")] == [
        "no",
        "bf16",
        "no",
    ]


def test_auto_precision_asks_the_processor(monkeypatch):
    for has, expected in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr("edgekd.training.engine.isa", lambda has=has: {"bf16": has})
        assert accelerate("cpu", "auto").mixed_precision == expected


def test_seeds_are_well_mixed():
    seeds = {mixed(seed, epoch) for seed in range(50) for epoch in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_one_seed_sets_every_generator():
    import random

    draws = []
    for _ in range(2):
        seed_everything(7, torch.device("cpu"))
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert draws[0] == draws[1]


def test_training_warns_of_nothing(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(built(), images(), tmp_path, Training(epochs=1, batch_size=16, precision="bf16", gradient_clip=1.0))
    assert [str(warning.message) for warning in caught] == []
