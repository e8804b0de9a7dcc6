"""The learning rate and the optimizer against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.options import Training
from edgekd.training.schedule import learning_rate, make_optimizer, set_learning_rate

from .small import convnet, images, train


def rates(steps: int, **options) -> np.ndarray:
    given = Training(learning_rate=0.2, **options)
    return np.array([learning_rate(given, step, steps) for step in range(steps)])


def test_it_rises_linearly_and_falls_along_a_half_cosine():
    found = rates(50, warmup=0.2)
    np.testing.assert_allclose(found[:10], 0.2 * np.arange(1, 11) / 10)
    np.testing.assert_allclose(found[10:], 0.1 * (1 + np.cos(np.pi * np.arange(40) / 40)))
    assert found.max() == 0.2 == found[9] == found[10]
    assert 0 < found[-1] < 0.001


def test_a_constant_rate_stays_after_the_warm_up():
    np.testing.assert_allclose(rates(10, warmup=0.3, schedule="constant"), [0.2 / 3, 0.4 / 3] + [0.2] * 8)


def test_steps_down_at_the_milestones():
    found = rates(20, warmup=0.1, schedule="step", milestones=(0.5, 0.75), gamma=0.1)
    np.testing.assert_allclose(found, [0.1, 0.2] + [0.2] * 8 + [0.02] * 5 + [0.002] * 5)
    np.testing.assert_allclose(rates(4, warmup=0.0, schedule="step", milestones=()), [0.2] * 4)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.9), (2, 0.99), (7, 0.0), (3, 1e-9)])
def test_short_trainings_have_positive_rates(steps, warmup):
    found = rates(steps, warmup=warmup)
    assert np.all(found > 0)
    # Without warm-up, and with one of a single step, the first rate is the full one.
    assert found[0] == pytest.approx(0.2 / max(1, round(warmup * steps)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_updates_are_those_of_the_published_rules(kind, layout):
    """Nesterov momentum (Sutskever et al. 2013) and AdamW (Loshchilov, Hutter 2019), in float64, by hand."""
    torch.manual_seed(0)
    model = convnet().to(memory_format=layout)
    options = Training(optimizer=kind, momentum=0.8, weight_decay=0.1)
    optimizer = make_optimizer(model, options)
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in expected.items()}
    second = {name: torch.zeros_like(p) for name, p in expected.items()}
    for step in range(1, 4):
        rate = 0.03 / step
        set_learning_rate(optimizer, rate)
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape).contiguous(
                memory_format=layout if parameter.ndim == 4 else torch.contiguous_format
            )
            decay = 0.1 if parameter.ndim > 1 else 0.0
            gradient, value = parameter.grad.double(), expected[name]
            if kind == "sgd":
                gradient = gradient + decay * value
                first[name] = 0.8 * first[name] + gradient if step > 1 else gradient.clone()
                expected[name] = value - rate * (gradient + 0.8 * first[name])
            else:
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                corrected = first[name] / (1 - 0.9**step)
                scale = (second[name] / (1 - 0.999**step)).sqrt() + 1e-8
                expected[name] = value * (1 - rate * decay) - rate * corrected / scale
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6)


def test_only_weights_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    decayed, plain = make_optimizer(model, Training(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert [p.shape for p in decayed["params"]] == [(4, 3, 3, 3), (2, 4)]
    assert [p.shape for p in plain["params"]] == [(4,), (4,), (2,)]


def test_the_rate_of_every_step_is_what_the_optimizer_used(tmp_path):
    seen = []
    options = Training(epochs=3, batch_size=20, learning_rate=0.01, warmup=0.25)
    original = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        seen.extend({group["lr"] for group in self.param_groups})
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        facts = train(convnet(), images(70), tmp_path, options)
    assert seen == [learning_rate(options, i, 9) for i in range(9)]
    assert math.isclose(facts["curves"]["learning_rate"][-1], seen[-1], rel_tol=1e-5)
