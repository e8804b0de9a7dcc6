"""What a training runs on: the processor, its precision, its memory layout and its random numbers."""

from __future__ import annotations

import random

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from edgekd.agent.environment import isa
from edgekd.errors import StageError
from edgekd.stage import threads
from edgekd.training import ranks


def accelerate(compute: str, precision: str) -> Accelerator:
    """Return the engine for a kind of processor and a precision ("auto" asks the processor).

    Of several processes each gets its own, which keeps their gradients the same.

    Raises:
        StageError: CUDA was asked for and is not there, or not for every process, or the processes did not meet.
    """
    if compute == "cuda" and not torch.cuda.is_available():
        raise StageError("compute: cuda was asked for, but torch finds no CUDA device; use --set compute=cpu")
    if precision == "auto":
        has = torch.cuda.is_bf16_supported() if compute == "cuda" else isa().get("bf16", False)
        precision = "bf16" if has else "fp32"
    torch.set_num_threads(max(1, threads() // ranks.local()))
    ranks.start(compute)
    # Accelerate keeps one precision for a process; each training of a run has its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=compute == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        # A term of the loss may leave parameters without a gradient, today or from some epoch on.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    _, size = ranks.world()
    if accelerator.num_processes != size:
        raise StageError(
            f"{size} processes were asked for (WORLD_SIZE), and {accelerator.num_processes} is training; start them "
            f"with torchrun --nproc_per_node={size}"
        )
    return accelerator


def precision_of(accelerator: Accelerator) -> str:
    """Return the precision that convolutions and matrix products run in, "fp32" or "bf16"."""
    return "bf16" if accelerator.mixed_precision == "bf16" else "fp32"


def lay_out(model: nn.Module, sample: Tensor) -> torch.memory_format:
    """Bring a network into the memory layout that it runs fastest in, and return that.

    Channels last where it takes images and works with that: one that flattens with `view` does not.

    Args:
        model: on the CPU.
        sample: inputs (B, ...).
    """
    if sample.ndim == 4:
        place(model.eval(), torch.device("cpu"), torch.channels_last)
        try:
            with torch.no_grad():
                model(sample.contiguous(memory_format=torch.channels_last))
        except RuntimeError:
            place(model, torch.device("cpu"), torch.contiguous_format)
        else:
            return torch.channels_last
    return torch.contiguous_format


def place(model: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    """Move a model to a device, its weights in a memory layout."""
    moved: nn.Module = model.to(device, memory_format=layout)  # type: ignore[call-overload] # torch's stubs lack it
    return moved


def seed_everything(seed: int, device: torch.device, *, others: bool = True) -> None:
    """Seed every global random number generator that a network may draw from; 0 <= seed < 2**32.

    Args:
        others: those that torch does not draw from too, which takes a while (`foreign`).
    """
    if others:
        random.seed(seed)
        np.random.seed(seed)
    # torch.manual_seed also walks through the backends that are not in use, which takes a hundred times as long.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def foreign(model: nn.Module) -> bool:
    """Return whether a network has modules of somebody's own, which may draw from any generator."""
    own = ("torch.", "edgekd.")
    return any(not f"{type(module).__module__}.".startswith(own) for module in model.modules())


def mixed(*parts: int) -> int:
    """Return a seed determined by several integers, well mixed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint32)[0])
