"""What each process of a test with several does; started as `ranked.py FOLDER [STEP]`, which ends process 1 there."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from edgekd.errors import StageError
from edgekd.options import Augment, Training
from edgekd.training import checkpoint, engine, loop, ranks
from edgekd.training.objective import Objective
from tests.training.small import convnet, images, labels, train

OPTIONS = Training(
    epochs=3, batch_size=16, learning_rate=0.01, gradient_clip=1.0, ema=0.8, accumulate=2, augment=Augment(crop=1)
)


class Adapted(Objective):
    """The labels, and an adapter that learns what each sample's number is; one parameter never has a gradient."""

    def __init__(self, kill: int | None = None) -> None:
        super().__init__()
        self.adapter, self.unused, self.left = nn.Linear(3, 2), nn.Parameter(torch.ones(2)), kill

    def forward(self, outputs, batch):
        self.left = None if self.left is None else self.left - 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        goal = batch.samples[:, None] * torch.tensor([0.01, -0.02])
        return {**labels(outputs, batch), "hint": (self.adapter(outputs) - goal).square().mean()}


def network() -> nn.Module:
    """Return a network whose result does not depend on what else is in the batch."""
    torch.manual_seed(3)
    model = convnet(dropout=0.0)
    model[1] = nn.GroupNorm(2, 6)
    return model


def objective(kill: int | None = None) -> Adapted:
    torch.manual_seed(4)
    return Adapted(kill)


def run(folder: Path, kill: int | None) -> None:
    engine.threads = lambda: 1
    loop.STEPS_BETWEEN_SIGNS = 1
    checkpoint.SECONDS_BETWEEN, checkpoint.LARGEST_SHARE = -1.0, float("inf")
    ranks.start("cpu")
    rank, size = ranks.world()
    model, aim = network(), objective(kill if rank == 1 else None)
    result: dict = {}
    try:
        facts = train(model, images(), folder, OPTIONS, objective=aim)
        result = {"facts": facts, "model": model.state_dict(), "aim": aim.state_dict()}
        result |= {"told": ranks.tell({"to": ["all"]} if rank == 0 else None), "end": ranks.tell(None)}
        result |= {"gathered": ranks.gathered([rank] * (rank + 1)), "pids": ranks.pids(), "pid": os.getpid()}
        if rank == 0:
            ranks.wait_until_left(ranks.pids() if size == 1 else result["pids"])
            result["left"] = [not ranks._runs(pid) for _, pid in result["pids"] if pid != os.getpid()]
    except StageError as error:
        result = {"error": str(error)}
    torch.save(result, folder / f"{rank}.pt")
    print(json.dumps(sorted(result)))


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
