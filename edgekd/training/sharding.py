"""Trainings in which each process holds a part of the weights: FSDP and DeepSpeed, as Accelerate is configured.

Their checkpoints are Accelerate's own, one after each epoch, because all processes have to write together.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from edgekd.artifact import CHECKPOINT
from edgekd.errors import StageError
from edgekd.options import Training
from edgekd.training import checkpoint, ranks
from edgekd.training.cutting import Cut

NETWORK = "model."
"""What the names of the network's weights begin with, inside of the module that is sharded."""


def shards(accelerator: Accelerator) -> bool:
    """Return whether the processes share the weights."""
    return accelerator.distributed_type in {DistributedType.FSDP, DistributedType.DEEPSPEED}


def form(accelerator: Accelerator) -> str:
    """Return what a checkpoint has to fit: the way of sharding and the number of parts."""
    return f"{accelerator.distributed_type.value} {accelerator.num_processes}" if shards(accelerator) else "whole"


def prepare(
    accelerator: Accelerator, step: nn.Module, optimizer: torch.optim.Optimizer, cut: Cut, options: Training
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Divide the weights and the optimizer's memory over the processes.

    Raises:
        StageError: the network or an option does not go with that.
    """
    if options.ema is not None:
        raise StageError(
            "ema: with FSDP and DeepSpeed no process holds the weights that are to be averaged; leave it out"
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = -(-cut.own // cut.parts)
        config["gradient_accumulation_steps"] = cut.parts
        config["gradient_clipping"] = options.gradient_clip or 0.0
    else:
        # The weights stay as they are, and autocast lowers what it may: the terms are computed in full precision.
        accelerator.state.fsdp_plugin.mixed_precision_policy = None
    try:
        prepared: tuple[nn.Module, torch.optim.Optimizer] = accelerator.prepare(step, optimizer)
    except (RuntimeError, ValueError, ImportError) as error:
        if ranks.lost(error):
            raise
        raise StageError(f"{form(accelerator).split()[0]} does not take the network: {error}") from error
    return prepared


def network_state(accelerator: Accelerator, step: nn.Module) -> dict[str, Tensor]:
    """Return the whole network's state in the first process, on the CPU; all have to ask together."""
    state: dict[str, Tensor] = accelerator.get_state_dict(step)
    return {name.removeprefix(NETWORK): value.cpu() for name, value in state.items() if name.startswith(NETWORK)}


def spare(model: nn.Module) -> nn.Module:
    """Return a copy of a network before it is sharded, which cannot be undone."""
    return copy.deepcopy(model)


def take_back(model: nn.Module, unsharded: nn.Module) -> None:
    """Make a network what its copy is."""
    model.__class__, model.__dict__ = unsharded.__class__, unsharded.__dict__


def save(accelerator: Accelerator, out: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint after an epoch; all processes have to write together.

    Args:
        state: what else it holds: its "epoch" names the folder.
    """
    folder = out / CHECKPOINT / f"epoch-{state['epoch']}"
    accelerator.save_state(str(folder))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        checkpoint.save(out, state)
        for older in (out / CHECKPOINT).glob("epoch-*"):
            if older != folder:
                shutil.rmtree(older)


def load(accelerator: Accelerator, out: Path, epoch: int) -> None:
    """Go on from the checkpoint of an epoch.

    Raises:
        StageError: a process does not see it, or it does not fit.
    """
    folder = out / CHECKPOINT / f"epoch-{epoch}"
    try:
        if not all(ranks.gathered(folder.is_dir())):
            raise FileNotFoundError("not every process sees it")
        accelerator.load_state(str(folder))
    except (OSError, RuntimeError, ValueError, KeyError, CheckpointException) as error:
        if ranks.lost(error):
            raise
        raise StageError(
            f"the checkpoint {folder} cannot be loaded: {str(error).splitlines()[-1]}; remove {folder.parent} to train "
            "anew"
        ) from error
