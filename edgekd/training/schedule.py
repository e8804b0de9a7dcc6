"""How the weights are updated: the optimizer and its learning rate, a function of the step alone."""

from __future__ import annotations

import math

import torch
from torch import nn

from edgekd.options import Training


def make_optimizer(model: nn.Module, options: Training) -> torch.optim.Optimizer:
    """Return the optimizer. Biases and normalisation (parameters of fewer than two axes) are not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        nesterov = options.momentum > 0
        return torch.optim.SGD(groups, options.learning_rate, options.momentum, nesterov=nesterov, fused=True)
    return torch.optim.AdamW(groups, options.learning_rate, fused=True)


def learning_rate(options: Training, step: int, steps: int) -> float:
    """Return the learning rate of a step (from 0) of a training of so many steps.

    It rises linearly over the first w = warmup * steps steps. Then it stays, or falls to zero along a half cosine, or
    is multiplied by gamma at each milestone, a part of all steps:

        lr * (step + 1) / w                                   for step < w
        lr * (1 + cos(pi * (step - w) / (steps - w))) / 2     after that, or
        lr * gamma ^ (number of milestones m with step >= m * steps, rounded)
    """
    warmup = max(1, round(options.warmup * steps)) if options.warmup else 0
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    if options.schedule == "constant":
        return options.learning_rate
    if options.schedule == "step":
        passed = sum(step >= round(milestone * steps) for milestone in options.milestones)
        return float(options.learning_rate * options.gamma**passed)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups of parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
