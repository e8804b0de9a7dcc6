"""Checkpoints: all that a training needs to go on bit for bit; a kill leaves the old one or the new."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from edgekd.artifact import CHECKPOINT

FILE = "training.pt"


def save(out: Path, state: dict[str, Any]) -> None:
    """Write the state into the partial artifact's checkpoint folder."""
    folder = out / CHECKPOINT
    folder.mkdir(exist_ok=True)
    temporary = folder / f".{FILE}.{os.getpid()}"
    torch.save(state, temporary)
    temporary.replace(folder / FILE)


def load(out: Path) -> dict[str, Any] | None:
    """Return the state that `save` wrote, or None; one that cannot be read counts as absent (training starts anew)."""
    path = out / CHECKPOINT / FILE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
        path.unlink()
        return None
    return state


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of a module's state."""
    return copy.deepcopy(model.state_dict())
