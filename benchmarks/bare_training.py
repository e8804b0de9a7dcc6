"""A training as one would write it down first, for benchmarks/training.py, and what it shares with ours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from edgekd.artifact import Artifact
from edgekd.data import Data, Split
from edgekd.distill.teachers import frozen
from edgekd.models import mlp, resnet
from edgekd.options import Network
from edgekd.training.engine import accelerate, lay_out, mixed, place
from edgekd.training.evaluation import BATCH as SCORED
from edgekd.training.feeding import ORDER
from edgekd.training.schedule import learning_rate

BATCH, CLASSES, SEED = 128, 10, 0
SHAPE, TRAIN, VALIDATION = (1, 28, 28), 54_000, 6_000
TEMPERATURE, ALPHA = 4.0, 0.9

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Pair:
    """A student and a teacher, and how many steps a turn has."""

    build: Callable[..., nn.Module]
    student: Mapping[str, Any]
    teacher: Mapping[str, Any]
    steps: int


PAIRS = {
    "mlp": Pair(mlp.build, {"widths": (96, 32)}, {"widths": (320, 170)}, 50),
    "resnet": Pair(resnet.build, {"width": 8}, {"width": 16, "blocks": (2, 2, 2)}, 3),
}


@dataclass(frozen=True)
class Setting:
    """What all sides share.

    Args:
        student: untrained; each side trains a copy.
        kept: the teacher's answers to the training split, fp16 (N, K).
        artifact: the same as the targets stage leaves them.
    """

    data: Data
    training: Network
    accelerator: Accelerator
    student: nn.Module
    teacher: nn.Module
    kept: Tensor
    artifact: Artifact

    @property
    def device(self) -> torch.device:
        """Where the networks are trained."""
        return torch.device(self.accelerator.device)

    @property
    def epochs(self) -> int:
        """Of the training."""
        return self.training.epochs or 0


def images(count: int, seed: int) -> Split:
    """Return noisy copies of ten random images."""
    random = np.random.default_rng(seed)
    targets = random.integers(CLASSES, size=count)
    originals = np.random.default_rng(SEED).standard_normal((CLASSES, *SHAPE), np.float32)
    return Split(originals[targets] + 3 * random.standard_normal((count, *SHAPE), np.float32), targets)


def prepare(pair: Pair, compute: str, threads: int, steps: int, folder: Path) -> Setting:
    data = Data("synthetic", images(TRAIN, 1), images(VALIDATION, 2), images(CLASSES, 3), tuple("0123456789"))
    training = Network(model="of a pair", epochs=1 + steps // (TRAIN // BATCH), batch_size=BATCH)
    accelerator = accelerate(compute, "fp32")
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    student = pair.build(input_shape=SHAPE, classes=CLASSES, **pair.student)
    teacher = frozen(pair.build(input_shape=SHAPE, classes=CLASSES, **pair.teacher)).to(accelerator.device)
    with torch.no_grad():
        parts = torch.split(torch.from_numpy(data.train.inputs), 1000)
        kept = torch.cat([teacher(part.to(accelerator.device)) for part in parts]).half()
    np.save(folder / "answers-0000.npy", kept.cpu().numpy())
    facts = {"views": 1, "top": None, "classes": CLASSES, "temperature": 1.0, "size_bytes": kept.nbytes}
    artifact = Artifact(folder, "targets", "", "", facts)
    return Setting(data, training, accelerator, student, teacher.cpu(), kept, artifact)


def distilled(logits: Tensor, labels: Tensor, answers: Tensor) -> Tensor:
    """Return the loss of response distillation, as in any tutorial."""
    soft = kl_div(
        log_softmax(logits / TEMPERATURE, dim=1), softmax(answers / TEMPERATURE, dim=1), reduction="batchmean"
    )
    return (1 - ALPHA) * cross_entropy(logits, labels) + ALPHA * TEMPERATURE**2 * soft


def bare_losses(setting: Setting) -> dict[str, Loss]:
    """Return what the bare loop minimises, by kind."""
    teacher = copy.deepcopy(setting.teacher)
    layout = lay_out(teacher, torch.from_numpy(setting.data.train.inputs[:2]))
    teacher = place(teacher, setting.device, layout)

    def labels(logits: Tensor, _: Tensor, targets: Tensor, __: Tensor) -> Tensor:
        return cross_entropy(logits, targets)

    def kept(logits: Tensor, _: Tensor, targets: Tensor, samples: Tensor) -> Tensor:
        return distilled(logits, targets, setting.kept.index_select(0, samples).float())

    def live(logits: Tensor, inputs: Tensor, targets: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad():
            answers = teacher(inputs)
        return distilled(logits, targets, answers)

    return {"labels": labels, "kept": kept, "live": live}


def bare_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    setting: Setting,
    loss_of: Loss,
    layout: torch.memory_format,
    epoch: int,
) -> Iterator[None]:
    """Train for an epoch as one would write it down first, and pause after each step."""
    train, training = setting.data.train, setting.training
    inputs = torch.from_numpy(train.inputs).to(setting.device)
    targets = torch.from_numpy(train.targets).to(setting.device)
    generator = torch.Generator().manual_seed(mixed(SEED, epoch, ORDER))
    order = torch.randperm(len(train), generator=generator).to(setting.device)
    steps = len(train) // BATCH
    losses = []
    model.train()
    for step in range(steps):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        batch = inputs.index_select(0, chosen).contiguous(memory_format=layout)
        rate = learning_rate(training, epoch * steps + step, setting.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model(batch), batch, targets.index_select(0, chosen), chosen)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        yield
    torch.stack(losses).mean().item()


def bare_parts(setting: Setting) -> tuple[nn.Module, torch.optim.Optimizer, torch.memory_format]:
    """Return a copy of the student with its optimizer and layout: what `fit` would choose."""
    model = copy.deepcopy(setting.student)
    layout = lay_out(model, torch.from_numpy(setting.data.train.inputs[:2]))
    model = place(model, setting.device, layout)
    groups = [
        {"params": [each for each in model.parameters() if each.ndim > 1], "weight_decay": 1e-4},
        {"params": [each for each in model.parameters() if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return model, torch.optim.AdamW(groups, 1e-3, fused=True), layout


class Bare:
    """The bare loop."""

    def __init__(self, setting: Setting, loss: Loss) -> None:
        self.model, optimizer, layout = bare_parts(setting)
        epochs = range(setting.epochs)
        self._running = (
            None for epoch in epochs for _ in bare_epoch(self.model, optimizer, setting, loss, layout, epoch)
        )

    def __call__(self, steps: int) -> None:
        """Take so many steps."""
        for _ in islice(self._running, steps):
            pass


def bare_training(setting: Setting, loss: Loss) -> None:
    """Train with a score after each epoch, and keep the best weights."""
    model, optimizer, layout = bare_parts(setting)
    split, best, state = setting.data.validation, -1.0, None
    for epoch in range(setting.epochs):
        for _ in bare_epoch(model, optimizer, setting, loss, layout, epoch):
            pass
        model.eval()
        right = 0
        with torch.no_grad():
            for begin in range(0, len(split), SCORED):
                part = torch.from_numpy(split.inputs[begin : begin + SCORED]).to(setting.device, memory_format=layout)
                predicted = model(part).argmax(1).cpu().numpy()
                right += int((predicted == split.targets[begin : begin + SCORED]).sum())
        if right >= best:
            best, state = right, copy.deepcopy(model.state_dict())
    assert state is not None
    model.load_state_dict(state)
