"""The gradient of a step: of a batch in parts, of several terms, and of terms that are no numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekd.errors import StageError
from edgekd.options import Training
from edgekd.training.objective import Objective
from edgekd.training.steps import Trainer

from .small import convnet, images, labels, train

PLAIN = Training(
    epochs=1, batch_size=70, optimizer="sgd", momentum=0.0, learning_rate=0.5, weight_decay=0.0, warmup=0.0
)  # fmt: skip


def independent(seed: int = 1) -> nn.Module:
    """Return a network that treats each sample of a batch alone."""
    torch.manual_seed(seed)
    model = convnet(dropout=0.0)
    model[1] = nn.GroupNorm(2, 6)
    return model


@pytest.mark.parametrize("parts", [2, 3, 7, 70, 1000])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(parts, tmp_path):
    """70 samples; parts of different sizes count by their samples."""
    whole, cut = independent(), independent()
    seen = []

    def counting(outputs, batch):
        seen.append(len(outputs))
        return labels(outputs, batch)

    expected = train(whole, images(), tmp_path / "whole", PLAIN)
    facts = train(
        cut, images(), tmp_path / "cut", PLAIN.model_copy(update={"accumulate": parts}), objective=counting
    )  # fmt: skip
    assert len(seen) == min(parts, 70)
    assert sum(seen) == 70
    assert max(seen) - min(seen) <= 1
    for found, wanted in zip(cut.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert facts["curves"]["train_loss"] == pytest.approx(expected["curves"]["train_loss"], rel=1e-5)


class Several(Objective):
    """Three terms of the weights alone: their gradients are known."""

    def __init__(self, model: nn.Linear, factors: tuple[float, ...]) -> None:
        super().__init__()
        self._model, self.factors = (model,), factors

    def forward(self, outputs, batch):
        (model,) = self._model
        first, second, third = self.factors
        return {
            "sum": first * model.weight.sum() + 0 * outputs.sum(),
            "square": second * model.weight.square().sum() / 2,
            "constant": torch.tensor(third),
        }


def test_the_terms_shares_and_gradients_are_told(tmp_path):
    """d(a sum w) = a in each of n weights, norm a sqrt(n); d(b w^2 / 2) = b w, norm b |w|."""
    data = images()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False))
    nn.init.constant_(model[1].weight, 0.5)
    options = PLAIN.model_copy(update={"learning_rate": 0.1, "epochs": 2})
    facts = train(model, data, tmp_path, options, objective=Several(model[1], (-0.25, 2.0, 4.0)))
    count, weight, expected = 192, 0.5, {"sum": [], "square": [], "constant": []}
    norms = {"sum": [], "square": [], "constant": [0.0, 0.0]}
    for epoch in range(2):
        expected["sum"].append(-0.25 * weight * count)
        expected["square"].append(weight**2 * count)
        expected["constant"].append(4.0)
        norms["sum"].append(0.25 * count**0.5)
        norms["square"].append(2 * weight * count**0.5)
        rate = facts["curves"]["learning_rate"][epoch]
        weight -= rate * (-0.25 + 2 * weight)
    assert list(facts["terms"]) == ["sum", "square", "constant"]
    for name, kinds in facts["terms"].items():
        assert kinds["loss"] == pytest.approx(expected[name], rel=1e-4)
        assert kinds["gradient_norm"] == pytest.approx(norms[name], rel=1e-4)
        absolute = [sum(abs(values[epoch]) for values in expected.values()) for epoch in range(2)]
        share = [abs(value) / whole for value, whole in zip(expected[name], absolute, strict=True)]
        assert kinds["share"] == pytest.approx(share, rel=1e-4)
    total = [sum(values) for values in zip(*expected.values(), strict=True)]
    assert facts["curves"]["train_loss"] == pytest.approx(total, rel=1e-4)


def test_measuring_gradients_changes_nothing(tmp_path, monkeypatch):
    """The same training with the terms summed into one, which measures nothing."""

    class Two(Objective):
        def __init__(self, together: bool) -> None:
            super().__init__()
            self.together = together

        def forward(self, outputs, batch):
            terms = {**labels(outputs, batch), "size": outputs.square().mean()}
            return {"all": terms["labels"] + terms["size"]} if self.together else terms

    models = [independent(), independent()]
    for model, together in zip(models, (False, True), strict=True):
        options = Training(epochs=2, batch_size=16)
        facts = train(model, images(), tmp_path / str(together), options, objective=Two(together))
        assert ("terms" in facts) is not together
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_one_term_is_not_told_apart(tmp_path):
    assert "terms" not in train(independent(), images(), tmp_path, PLAIN)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ((1.0, float("nan"), 1.0), "the term square became nan in epoch 1, step 1; lower learning_rate"),
        ((float("inf"), 1.0, float("-inf")), "the term sum became nan, the term constant became -inf in epoch 1"),
    ],
)
def test_the_terms_that_are_no_numbers_are_named(factors, message, tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False))
    nn.init.zeros_(model[1].weight)
    with pytest.raises(StageError, match=message):
        train(model, images(), tmp_path, PLAIN, objective=Several(model[1], factors))


def test_a_term_may_come_and_go(tmp_path):
    """Such as one whose weight falls to zero."""

    def fading(outputs, batch):
        terms = labels(outputs, batch)
        return terms if batch.progress >= 0.5 else {"early": outputs.square().mean(), **terms}

    facts = train(independent(), images(), tmp_path, Training(epochs=4, batch_size=16), objective=fading)
    early = facts["terms"]["early"]
    assert all(value > 0 for kind in early.values() for value in kind[:2])
    assert all(value == 0 for kind in early.values() for value in kind[2:])
    assert facts["terms"]["labels"]["share"][2:] == [1.0, 1.0]
    assert facts["terms"]["labels"]["gradient_norm"][2:] == [None, None]


def test_progress_and_view_are_those_of_the_step(tmp_path):
    seen = []

    def looking(outputs, batch):
        seen.append((batch.progress, batch.view, batch.samples.dtype, batch.mixing))
        return labels(outputs, batch)

    train(independent(), images(), tmp_path, Training(epochs=2, batch_size=20, accumulate=2), objective=looking)
    assert [progress for progress, *_ in seen] == [step / 6 for step in range(6) for _ in range(2)]
    assert {tuple(rest) for _, *rest in seen} == {(0, torch.int64, None)}


def test_the_terms_are_computed_in_full_precision(tmp_path):
    """Under bf16 the network computes in 16 bits; what an objective multiplies is not lowered."""
    seen = []

    class Careful(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.adapter = nn.Linear(3, 3)

        def forward(self, outputs, batch):
            seen.append((outputs.dtype, self.adapter(outputs).dtype, torch.is_autocast_enabled("cpu")))
            return labels(self.adapter(outputs), batch)

    train(independent(), images(), tmp_path, Training(epochs=1, batch_size=16, precision="bf16"), objective=Careful())
    assert set(seen) == {(torch.float32, torch.float32, False)}


def test_the_clip_is_over_the_network_and_the_objective_together(tmp_path, monkeypatch):
    class Adapted(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.adapter = nn.Linear(3, 3)

        def forward(self, outputs, batch):
            return labels(self.adapter(outputs), batch)

    norms, update = [], Trainer.update

    def updated(trainer):
        step = trainer.optimizer.step
        monkeypatch.setattr(trainer.optimizer, "step", lambda: norms.append(_norm(trainer.bare)) or step())
        update(trainer)
        monkeypatch.undo()
        monkeypatch.setattr(Trainer, "update", updated)

    monkeypatch.setattr(Trainer, "update", updated)
    options = Training(epochs=1, batch_size=35, gradient_clip=0.01)
    train(independent(), images(), tmp_path, options, objective=Adapted())
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)


def _norm(module: nn.Module) -> float:
    return float(torch.cat([parameter.grad.flatten() for parameter in module.parameters()]).norm())
