"""The training loop: seeded, resumable bit for bit on the CPU, and loud when the loss is not a number.

Every random number of a step follows from the seed, the epoch and the step: the order of the samples from the first
two, views and dropout from all three. So a checkpoint holds weights and position, no generator's state, and may be
taken after any step. The samples that are left over when an epoch's batches are full are not used in it; the order is
another one in each epoch, so they are other ones too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from edgekd.data import Data
from edgekd.errors import StageError
from edgekd.options import Training
from edgekd.stage import Progress
from edgekd.tasks import Task
from edgekd.training import checkpoint
from edgekd.training.engine import lay_out, mixed, place, precision_of, seed_everything
from edgekd.training.evaluation import evaluate
from edgekd.training.schedule import learning_rate, make_optimizer, set_learning_rate
from edgekd.training.views import Views, views_of

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(outputs, inputs, targets) -> scalar loss. The inputs are the view that the outputs were computed from."""
STEPS_BETWEEN_SIGNS = 10
"""Steps between two signs of life; on a GPU also between two looks at the loss, which make it wait for the CPU."""


@dataclass
class Curves:
    """What happened in each epoch, numbered from 1."""

    epoch: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)


@dataclass
class State:
    """Where a training is: with the weights and the optimizer's memory, all that it needs to go on.

    Args:
        epoch: whole epochs done.
        step: steps done of the epoch after those.
        loss: the sum over those steps.
        best: the weights of the best epoch so far.
    """

    best: dict[str, Tensor]
    loss: Tensor
    epoch: int = 0
    step: int = 0
    curves: Curves = field(default_factory=Curves)


@dataclass(frozen=True)
class _Setting:
    """What stays the same during a training."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective
    options: Training
    inputs: Tensor
    targets: Tensor
    views: Views | None
    layout: torch.memory_format
    seed: int
    batch: int
    per_epoch: int
    progress: Progress


def fit(
    model: nn.Module,
    objective: Objective,
    data: Data,
    task: Task,
    options: Training,
    *,
    accelerator: Accelerator,
    seed: int,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Train a model in place; what stays is its best epoch on the validation split, the later one of equals.

    Args:
        model: maps (B, ...) to outputs (B, K).
        objective: the loss; whatever else it needs (a teacher) it brings.
        options: without epochs the model stays as it is, and is only scored.
        out: the partial artifact: a checkpoint in it is resumed, and written now and then.

    Returns:
        Facts: the curves, the best epoch, its validation score, the precision.

    Raises:
        StageError: the loss is NaN or infinite, or the network or the task fails on a batch.
    """
    if not options.epochs:
        score = evaluate(place(model, accelerator.device, torch.contiguous_format), data.validation, task, accelerator)
        place(model, torch.device("cpu"), torch.contiguous_format)
        return {"validation": score, "precision": precision_of(accelerator)}
    setting = _prepare(model, objective, data, options, accelerator, seed, progress)
    state = _resume(setting, out)
    curves, writer = state.curves, checkpoint.Writer(out)
    while state.epoch < options.epochs and not _exhausted(curves.validation, options.patience):
        loss = _epoch(setting, state, writer)
        score = evaluate(setting.model, data.validation, task, accelerator, setting.layout)
        state.epoch, state.step = state.epoch + 1, 0
        curves.epoch.append(state.epoch)
        curves.train_loss.append(loss)
        curves.validation.append(score)
        curves.learning_rate.append(float(setting.optimizer.param_groups[0]["lr"]))
        if score == max(curves.validation):
            state.best = checkpoint.copy_of(setting.model)
    setting.model.load_state_dict(state.best)
    # Accelerate wraps the forward function where it lowers the precision; what is kept is the network as it was.
    trained = accelerator.unwrap_model(setting.model, keep_fp32_wrapper=False)
    place(trained, torch.device("cpu"), torch.contiguous_format).eval()
    return {
        "curves": {key: [_rounded(value) for value in values] for key, values in asdict(curves).items()},
        "best_epoch": _last_best(curves.validation) + 1,
        "validation": max(curves.validation),
        "precision": precision_of(accelerator),
    }


def _prepare(
    model: nn.Module,
    objective: Objective,
    data: Data,
    options: Training,
    accelerator: Accelerator,
    seed: int,
    progress: Progress,
) -> _Setting:
    """Bring model and data to the processor, in the layout that suits both."""
    inputs = torch.from_numpy(data.train.inputs)
    layout = lay_out(model, inputs[:2])
    model = accelerator.prepare(place(model, accelerator.device, layout))
    inputs = inputs.to(accelerator.device)
    # The optimizer stays as it is: Accelerate's wrapper is for loss scaling, which neither precision needs, and looks
    # for an optional package on disk in every step.
    batch = min(options.batch_size, len(inputs))
    return _Setting(
        accelerator=accelerator,
        model=model,
        optimizer=make_optimizer(model, options),
        objective=objective,
        options=options,
        inputs=inputs,
        targets=torch.from_numpy(data.train.targets).to(accelerator.device),
        views=views_of(inputs, options.augment),
        layout=layout,
        seed=seed,
        batch=batch,
        per_epoch=len(inputs) // batch,
        progress=progress,
    )


def _resume(setting: _Setting, out: Path) -> State:
    """Return where to go on: at the checkpoint, or at the beginning."""
    device = setting.accelerator.device
    kept = checkpoint.load(out)
    if kept is None:
        return State(checkpoint.copy_of(setting.model), torch.zeros((), device=device))
    setting.model.load_state_dict(kept["model"])
    setting.optimizer.load_state_dict(kept["optimizer"])
    return State(kept["best"], kept["loss"].to(device), kept["epoch"], kept["step"], Curves(**kept["curves"]))


def _kept(setting: _Setting, state: State) -> dict[str, Any]:
    """Return what `_resume` takes."""
    weights = {"model": setting.model.state_dict(), "optimizer": setting.optimizer.state_dict(), "best": state.best}
    return {**weights, "loss": state.loss, "epoch": state.epoch, "step": state.step, "curves": asdict(state.curves)}


def _epoch(setting: _Setting, state: State, writer: checkpoint.Writer) -> float:
    """Train what is left of an epoch and return its mean loss."""
    steps = (setting.options.epochs or 0) * setting.per_epoch
    validation = state.curves.validation
    shown = f"epoch {state.epoch + 1}/{setting.options.epochs}"
    shown += f"  validation {validation[-1]:.4f}" if validation else ""
    setting.model.train()
    if state.step == 0:
        state.loss.zero_()
    for step, chosen, seeds in _batches(setting, state.epoch, state.step):
        done = state.epoch * setting.per_epoch + step
        set_learning_rate(setting.optimizer, learning_rate(setting.options, done, steps))
        loss = _loss(setting, chosen, seeds)
        state.loss += loss.detach()
        sign = step % STEPS_BETWEEN_SIGNS == 0 or step == setting.per_epoch - 1
        if sign or state.loss.device.type == "cpu":
            _refuse_non_finite(state, step, setting.options)
        _update(setting, loss)
        state.step = step + 1
        writer.offer(lambda: _kept(setting, state))
        if sign:
            setting.progress(done + 1, steps, shown)
    return float(state.loss) / setting.per_epoch


def _batches(setting: _Setting, epoch: int, first: int) -> Iterator[tuple[int, Tensor, tuple[int, int]]]:
    """Yield, from a step of an epoch on, its number, the samples of its batch, and two seeds: views, all else."""
    samples, device = len(setting.inputs), setting.inputs.device
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(mixed(setting.seed, epoch, 1))).to(device)
    seeds = np.random.SeedSequence((setting.seed, epoch)).generate_state(2 * setting.per_epoch, np.uint32)
    for step in range(first, setting.per_epoch):
        chosen = order[step * setting.batch : (step + 1) * setting.batch]
        yield step, chosen, (int(seeds[2 * step]), int(seeds[2 * step + 1]))


def _loss(setting: _Setting, chosen: Tensor, seeds: tuple[int, int]) -> Tensor:
    """Return the loss of a batch."""
    inputs = setting.inputs.index_select(0, chosen)
    if setting.views is not None:
        inputs = setting.views(inputs, torch.Generator().manual_seed(seeds[0]))
    inputs = inputs.contiguous(memory_format=setting.layout)
    seed_everything(seeds[1], inputs.device)
    try:
        loss = setting.objective(setting.model(inputs), inputs, setting.targets.index_select(0, chosen))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        hint = "; lower batch_size" if isinstance(error, torch.OutOfMemoryError) else ""
        raise StageError(f"training fails on a batch of shape {tuple(inputs.shape)}: {error}{hint}") from error
    if not isinstance(loss, Tensor) or loss.ndim:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise StageError(f"the loss of a batch is one number, the mean over its samples; the task returned {found}")
    return loss


def _update(setting: _Setting, loss: Tensor) -> None:
    """Move the weights along the gradient of a loss."""
    setting.accelerator.backward(loss)
    if setting.options.gradient_clip is not None:
        setting.accelerator.clip_grad_norm_(setting.model.parameters(), setting.options.gradient_clip)
    setting.optimizer.step()
    setting.optimizer.zero_grad()


def _refuse_non_finite(state: State, step: int, options: Training) -> None:
    """Stop at a loss that is no number.

    Raises:
        StageError: with what to do about it.
    """
    if not math.isfinite(total := float(state.loss)):
        clip = "set gradient_clip" if options.gradient_clip is None else "lower gradient_clip"
        raise StageError(
            f"the loss became {total} in epoch {state.epoch + 1}, step {step + 1}; "
            f"lower learning_rate ({options.learning_rate:g}), or {clip}, and look for extreme values in the data"
        )


def _exhausted(validation: list[float], patience: int | None) -> bool:
    """Return whether the validation score has not risen in the last `patience` epochs; a tie is no rise."""
    if patience is None or not validation:
        return False
    return len(validation) - 1 - validation.index(max(validation)) >= patience


def _last_best(validation: list[float]) -> int:
    """Return the index of the highest score; the last one of equals, which has trained longest."""
    return len(validation) - 1 - validation[::-1].index(max(validation))


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")
