"""The training loop: seeded, resumable bit for bit on the CPU, and loud when the loss is not a number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from edgekd.agent.environment import isa
from edgekd.data import Data, Split
from edgekd.errors import StageError
from edgekd.options import Training
from edgekd.stage import Progress, threads
from edgekd.tasks import Task
from edgekd.training import checkpoint
from edgekd.training.views import view

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(outputs, inputs, targets) -> scalar loss. The inputs are the view that the outputs were computed from."""
EVALUATION_BATCH = 500
SECONDS_BETWEEN_CHECKPOINTS = 2.0
STEPS_BETWEEN_LOOKS = 10


@dataclass
class Curves:
    """What happened in each epoch."""

    epoch: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)

    def add(self, epoch: int, loss: float, score: float, rate: float) -> None:
        """Note an epoch, numbered from 1."""
        self.epoch.append(epoch)
        self.train_loss.append(loss)
        self.validation.append(score)
        self.learning_rate.append(rate)


def fit(
    model: nn.Module,
    objective: Objective,
    data: Data,
    task: Task,
    options: Training,
    *,
    seed: int,
    compute: str,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Train a model in place; its best epoch on the validation split is what stays.

    Args:
        model: maps (B, ...) to outputs (B, K).
        objective: the loss; whatever else it needs (a teacher) it brings.
        out: the partial artifact: a checkpoint in it is resumed, and one is written after epochs.

    Returns:
        Facts: the curves, the best epoch, its validation score, the precision.

    Raises:
        StageError: the loss is NaN or infinite, or the processor asked for is not there.
    """
    epochs, batch = options.epochs or 0, min(options.batch_size, len(data.train.inputs))
    per_epoch = len(data.train.inputs) // batch
    accelerator = accelerate(compute, options.precision)
    model.to(accelerator.device)
    to_layout(model, data.train.inputs.ndim)
    optimizer = _optimizer(model, options)
    scheduler = LambdaLR(optimizer, _schedule(options, per_epoch * epochs))
    model, optimizer = accelerator.prepare(model, optimizer)
    engine = _Engine(accelerator, model, optimizer, scheduler, objective, options, batch, per_epoch, seed)
    inputs, targets = _tensors(data.train, accelerator.device)

    curves, best, start, saved = Curves(), _Best(-1, -1.0, checkpoint.snapshot(model)), 0, 0.0
    state = checkpoint.load(out)
    if state is not None:
        engine.restore(state)
        curves, best, start = Curves(**state["curves"]), _Best(**state["best"]), state["epoch"]
    for epoch in range(start, epochs):
        if options.patience is not None and epoch - best.epoch > options.patience:
            break
        known = f"  validation {curves.validation[-1]:.4f}" if curves.validation else ""
        shown = f"epoch {epoch + 1}/{epochs}{known}"
        loss = _epoch(
            engine, inputs, targets, epoch, partial(_tell, progress, shown, epoch * per_epoch, epochs * per_epoch)
        )
        score = evaluate(model, data.validation, task, accelerator)
        curves.add(epoch + 1, loss, score, float(scheduler.get_last_lr()[0]))
        if score >= best.score:
            best = _Best(epoch, score, checkpoint.snapshot(model))
        if time.monotonic() - saved >= SECONDS_BETWEEN_CHECKPOINTS:
            kept = {"curves": vars(curves), "best": vars(best), "epoch": epoch + 1}
            checkpoint.save(out, {**engine.state(), **kept})
            saved = time.monotonic()
    model.load_state_dict(best.state)
    model.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return {
        "curves": {key: [_rounded(v) for v in values] for key, values in vars(curves).items()},
        "best_epoch": best.epoch + 1,
        "validation": best.score,
        "precision": accelerator.mixed_precision if accelerator.mixed_precision != "no" else "fp32",
    }


@dataclass
class _Best:
    """The epoch with the highest validation score; the later one of equals."""

    epoch: int
    score: float
    state: dict[str, Tensor]


@dataclass(frozen=True)
class _Engine:
    """What an epoch works with."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    scheduler: LambdaLR
    objective: Objective
    options: Training
    batch: int
    per_epoch: int
    seed: int

    def state(self) -> dict[str, Any]:
        schedule = {key: value for key, value in self.scheduler.state_dict().items() if key != "lr_lambdas"}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "scheduler": schedule}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict({**state["scheduler"], "lr_lambdas": [None, None]})


def _tell(progress: Progress, text: str, before: int, total: int, steps: int) -> None:
    progress(before + steps, total, text)


def _epoch(engine: _Engine, inputs: Tensor, targets: Tensor, epoch: int, tell: Callable[[int], None]) -> float:
    """Train one epoch and return its mean loss."""
    accelerator, model, options = engine.accelerator, engine.model, engine.options
    model.train()
    total = torch.zeros((), device=accelerator.device)
    # Dropout and the like draw from the global generator: seeded per epoch, it is the same after a resume.
    torch.manual_seed(hash_seed(engine.seed, epoch))
    for step, (chosen, generator) in enumerate(_batches(len(inputs), engine.batch, engine.seed, epoch)):
        shown = view(inputs[chosen], options.augment, generator).contiguous(memory_format=layout(inputs.ndim))
        with accelerator.autocast():
            outputs = model(shown)
        loss = engine.objective(outputs, shown, targets[chosen])
        accelerator.backward(loss)
        if options.gradient_clip is not None:
            accelerator.clip_grad_norm_(model.parameters(), options.gradient_clip)
        engine.optimizer.step()
        engine.scheduler.step()
        engine.optimizer.zero_grad()
        total += loss.detach()
        if step % STEPS_BETWEEN_LOOKS == 0 or step == engine.per_epoch - 1:
            _refuse_non_finite(float(total), epoch, step, options)
            tell(step + 1)
    return float(total) / engine.per_epoch


def accelerate(compute: str, precision: str) -> Accelerator:
    """Return the engine for a kind of processor and a precision ("auto" asks the processor)."""
    if compute == "cuda" and not torch.cuda.is_available():
        raise StageError("compute: cuda was asked for, but torch finds no CUDA device; use --set compute=cpu")
    if precision == "auto":
        has = torch.cuda.is_bf16_supported() if compute == "cuda" else isa().get("bf16", False)
        precision = "bf16" if has else "fp32"
    torch.set_num_threads(threads())
    # Accelerate keeps one precision for a process; each training of a run has its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=compute == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")


def evaluate(model: nn.Module, split: Split, task: Task, accelerator: Accelerator) -> float:
    """Return the task's mean score on a split."""
    device = accelerator.device
    model.eval()
    scores = []
    with torch.no_grad(), accelerator.autocast():
        for begin in range(0, len(split.inputs), EVALUATION_BATCH):
            part = torch.from_numpy(split.inputs[begin : begin + EVALUATION_BATCH]).to(device)
            outputs = model(part.contiguous(memory_format=layout(split.inputs.ndim))).float().cpu().numpy()
            scores.append(task.score({"outputs": outputs}, split.targets[begin : begin + EVALUATION_BATCH]))
    return float(np.concatenate(scores).mean())


def hash_seed(*parts: int) -> int:
    """Return a seed determined by several integers, well mixed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint32)[0])


def _batches(samples: int, batch: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, torch.Generator]]:
    """Yield the indices of each batch, in an order determined by seed and epoch, and the generator of its view."""
    generator = torch.Generator().manual_seed(hash_seed(seed, epoch, 1))
    order = torch.randperm(samples, generator=generator)
    for begin in range(0, samples - batch + 1, batch):
        yield order[begin : begin + batch], generator


def _optimizer(model: nn.Module, options: Training) -> torch.optim.Optimizer:
    """Return the optimizer; biases and normalisation are not decayed."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, options.learning_rate, momentum=options.momentum, nesterov=options.momentum > 0)
    return torch.optim.AdamW(groups, options.learning_rate)


def _schedule(options: Training, steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate at a step: linear warm-up, then cosine to zero or constant."""
    warmup = max(1, round(options.warmup * steps)) if options.warmup else 0

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if options.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor


def _tensors(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(split.inputs).to(device), torch.from_numpy(split.targets).to(device)


def layout(dimensions: int) -> torch.memory_format:
    """Return the faster memory layout for inputs of so many dimensions: channels last for images."""
    return torch.channels_last if dimensions == 4 else torch.contiguous_format


def to_layout(model: nn.Module, dimensions: int) -> None:
    """Bring a model's weights into the layout of its inputs."""
    model.to(memory_format=layout(dimensions))  # type: ignore[call-overload] # torch's stubs lack it


def _refuse_non_finite(total: float, epoch: int, step: int, options: Training) -> None:
    if not math.isfinite(total):
        raise StageError(
            f"the loss became {total} in epoch {epoch + 1}, step {step + 1}; "
            f"lower learning_rate ({options.learning_rate:g}) or set gradient_clip"
        )


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")
