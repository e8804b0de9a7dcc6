"""The training loop: seeded, resumable bit for bit on the CPU, and loud when the loss is not a number.

Every random number follows from seeds and the position, so a checkpoint holds weights and position, no generator's
state, and may be taken after any step.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgekd.data import Data
from edgekd.errors import StageError
from edgekd.options import Training
from edgekd.stage import Judged, Progress, unjudged
from edgekd.tasks import Task
from edgekd.training import checkpoint, compiling, ranks, sharding
from edgekd.training.ema import Average
from edgekd.training.engine import foreign, lay_out, place, precision_of
from edgekd.training.evaluation import evaluate
from edgekd.training.feeding import Feed, samples_of
from edgekd.training.history import Curves, State, exhausted, facts
from edgekd.training.ledger import Ledger, Sums
from edgekd.training.objective import Objective
from edgekd.training.schedule import learning_rate, make_optimizer, set_learning_rate
from edgekd.training.steps import Step, Trainer

STEPS_BETWEEN_SIGNS = 10
"""Steps between two signs of life; on a GPU, and of several processes, also between two looks at the loss."""


@dataclass(frozen=True)
class _Setting:
    """What stays the same during a training."""

    accelerator: Accelerator
    options: Training
    trainer: Trainer
    feed: Feed
    ledger: Ledger
    average: Average | None
    layout: torch.memory_format
    out: Path
    writer: checkpoint.Writer
    progress: Progress
    alone: bool

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.trainer.bare.model

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return (self.options.epochs or 0) * self.feed.cut.steps


def fit(
    model: nn.Module,
    objective: Objective,
    data: Data,
    task: Task,
    options: Training,
    *,
    accelerator: Accelerator,
    seed: int,
    view_seed: int,
    out: Path,
    progress: Progress,
    judged: Judged = unjudged,
) -> dict[str, Any]:
    """Train a model in place; what stays is its best epoch on the validation split, the later one of equals.

    Several processes call this together, with the same arguments but for `progress`. Each computes the loss of its
    part of a batch, and the gradient is the mean over them.

    Args:
        model: maps (B, ...) to outputs (B, K).
        objective: the terms of the loss. What it holds as a module is trained and kept in checkpoints too, and not
            part of the model; whatever else it needs (a teacher) it brings.
        options: without epochs the model stays as it is, and is only scored.
        seed: of the order of the samples, of mixing, and of what the network draws.
        view_seed: of the views of the samples.
        out: the partial artifact: a checkpoint in it is resumed, and written now and then.
        judged: told of every epoch, of those before a checkpoint again.

    Returns:
        Facts: the curves, the best epoch, its validation score, the precision, how many processes there were; of an
        objective of several terms also, by term and epoch, the mean loss, its mean share of the sum of all absolute
        terms, and the norm of its gradient at the epoch's first step.

    Raises:
        StageError: a term is NaN or infinite, the network or the task fails on a batch, or another process ended.
    """
    with ranks.together():
        if not options.epochs:
            place(model, accelerator.device, torch.contiguous_format)
            score = evaluate(model, data.validation, task, accelerator)
            place(model, torch.device("cpu"), torch.contiguous_format)
            return {"validation": score, "precision": precision_of(accelerator)}
        unsharded = sharding.spare(model) if sharding.shards(accelerator) else None
        setting = _prepare(model, objective, data, options, accelerator, (seed, view_seed), out, progress)
        try:
            state = _resume(setting)
            for index, epoch in enumerate(state.curves.epoch):
                judged(epoch, state.curves.of(index))
            while state.epoch < options.epochs and not exhausted(state, options.patience):
                _epoch(setting, state)
                _judge(setting, state, data, task)
                judged(state.epoch, state.curves.of(-1))
        finally:
            setting.feed.close()
        return _finish(setting, state, unsharded)


def _prepare(
    model: nn.Module,
    objective: Objective,
    data: Data,
    options: Training,
    accelerator: Accelerator,
    seeds: tuple[int, int],
    out: Path,
    progress: Progress,
) -> _Setting:
    """Bring model and data to the processor, in the layout that suits both."""
    device, sharded = accelerator.device, sharding.shards(accelerator)
    layout = torch.contiguous_format if sharded else lay_out(model, samples_of(data.train.inputs, 2))
    feed = Feed(data.train, options, device=device, layout=layout, seed=seeds[0], view_seed=seeds[1])
    call = compiling.compiled(model, device) if options.compile else None
    bare = Step(model, objective, lowered=precision_of(accelerator) == "bf16", call=call)
    place(bare, device, layout)
    optimizer = make_optimizer(bare, options)
    if sharded:
        step, optimizer = sharding.prepare(accelerator, bare, optimizer, feed.cut, options)
    else:
        # The optimizer stays as it is: Accelerate's wrapper is for loss scaling, which neither precision needs, and
        # looks for an optional package on disk in every step.
        step = accelerator.prepare(bare)
    if isinstance(step, DistributedDataParallel):
        # The statistics of normalisation are each process's own until they are used.
        step.forward_sync_buffers = False
    return _Setting(
        accelerator=accelerator,
        options=options,
        trainer=Trainer(
            accelerator,
            bare,
            step,
            optimizer,
            feed.cut.parts,
            options.gradient_clip,
            sharded,
            options.compile,
            foreign(model),
        ),
        feed=feed,
        ledger=Ledger(options, device),
        average=Average(model, options.ema) if options.ema is not None else None,
        layout=layout,
        out=out,
        writer=checkpoint.Writer(out),
        progress=progress,
        alone=ranks.world() == (0, 1),
    )


def _resume(setting: _Setting) -> State:
    """Return where to go on: at the checkpoint, or at the beginning.

    Raises:
        StageError: the processes do not see the same checkpoint.
    """
    trainer, accelerator = setting.trainer, setting.accelerator
    kept = checkpoint.load(setting.out, sharding.form(accelerator), remove=accelerator.is_main_process)
    positions = ranks.gathered([kept["epoch"], kept["step"]] if kept else None)
    if any(position != positions[0] for position in positions):
        raise StageError(
            f"the processes of this training do not see the same checkpoint in {setting.out}: "
            f"epoch and step are {positions}; put the store into a folder that all of them share"
        )
    if kept is None:
        return State({} if trainer.sharded else checkpoint.copy_of(setting.model))
    if trainer.sharded:
        sharding.load(accelerator, setting.out, kept["epoch"])
    else:
        trainer.bare.load_state_dict(kept["step_state"])
        trainer.optimizer.load_state_dict(kept["optimizer"])
    if setting.average is not None:
        setting.average.load(kept["average"])
    setting.ledger.sums = Sums(**kept["sums"])
    return State(kept["best"], kept["epoch"], kept["step"], Curves(**kept["curves"]), kept["terms"])


def _kept(setting: _Setting, state: State) -> dict[str, Any]:
    """Return what `_resume` takes."""
    setting.ledger.settle()
    trainer, average = setting.trainer, setting.average
    weights: dict[str, Any] = {"best": state.best, "average": average.values if average else []}
    if not trainer.sharded:
        weights |= {"step_state": trainer.bare.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    position = {"form": sharding.form(setting.accelerator), "epoch": state.epoch, "step": state.step}
    told = {"curves": asdict(state.curves), "terms": state.terms, "sums": asdict(setting.ledger.sums)}
    return {**weights, **position, **told}


def _epoch(setting: _Setting, state: State) -> None:
    """Train what is left of an epoch."""
    options, trainer, ledger = setting.options, setting.trainer, setting.ledger
    per_epoch, steps, validation = setting.feed.cut.steps, setting.steps, state.curves.validation
    shown = f"epoch {state.epoch + 1}/{options.epochs}"
    shown += f"  validation {validation[-1]:.4f}" if validation else ""
    kept = partial(_kept, setting, state)
    first, started = state.step, time.monotonic()
    trainer.step.train()
    for step, parts in setting.feed.steps(state.epoch, state.step):
        done = state.epoch * per_epoch + step
        set_learning_rate(trainer.optimizer, learning_rate(options, done, steps))
        terms = trainer.gradient(parts, ledger.sums.gradient_norm if step == 0 else None)
        ledger.add(state.epoch, step, terms)
        sign = step % STEPS_BETWEEN_SIGNS == 0 or step == per_epoch - 1
        if sign:
            ledger.settle()
        trainer.update()
        if setting.average is not None:
            setting.average.update(done)
        state.step = step + 1
        if setting.alone or (sign and setting.accelerator.is_main_process and not trainer.sharded):
            setting.writer.offer(kept)
        if sign:
            rate = (step + 1 - first) * setting.feed.cut.batch / (time.monotonic() - started)
            setting.progress(done + 1, steps, f"{shown}  {rate:,.0f} samples/s")


def _judge(setting: _Setting, state: State, data: Data, task: Task) -> None:
    """Score the network after an epoch, and keep it if none was better."""
    trainer, curves = setting.trainer, state.curves
    with setting.average.shown() if setting.average else nullcontext():
        ranks.share_buffers(setting.model)
        score = evaluate(
            trainer.step if trainer.sharded else setting.model, data.validation, task, setting.accelerator,
            setting.layout, divided=not trainer.sharded,
        )  # fmt: skip
        if score >= max(curves.validation, default=score):
            state.best = _network_state(setting)
    terms = setting.ledger.close(setting.feed.cut.steps)
    state.epoch, state.step = state.epoch + 1, 0
    state.terms.append(terms)
    curves.epoch.append(state.epoch)
    curves.train_loss.append(sum(term["loss"] or 0.0 for term in terms.values()))
    curves.validation.append(score)
    curves.learning_rate.append(float(trainer.optimizer.param_groups[0]["lr"]))
    if trainer.sharded:
        sharding.save(setting.accelerator, setting.out, _kept(setting, state))


def _network_state(setting: _Setting) -> dict[str, Tensor]:
    if setting.trainer.sharded:
        return sharding.network_state(setting.accelerator, setting.trainer.step)
    return checkpoint.copy_of(setting.model)


def _finish(setting: _Setting, state: State, unsharded: nn.Module | None) -> dict[str, Any]:
    """Give the model its best epoch's weights, on the CPU, and return the facts."""
    model = setting.model
    if unsharded is not None:
        sharding.take_back(model, unsharded)
    if state.best:  # of weights that are divided, the first process has the whole
        model.load_state_dict(state.best)
    place(model, torch.device("cpu"), torch.contiguous_format).eval()
    return {
        **facts(state),
        "precision": precision_of(setting.accelerator),
        "processes": setting.accelerator.num_processes,
    }
