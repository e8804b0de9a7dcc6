"""Checkpoints: all that a training needs to go on bit for bit. A kill at any moment leaves the old one or the new."""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edgekd.artifact import CHECKPOINT

FILE = "training.pt"
SCHEMA = 2
SECONDS_BETWEEN = 2.0
LARGEST_SHARE = 0.02
"""Of the time that goes into writing checkpoints."""
DIGEST_BYTES = 32


class Writer:
    """Writes checkpoints into a partial artifact, now and then.

    Args:
        out: the partial artifact; the checkpoint's folder in it is removed with the end of the work.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._due = time.monotonic() + SECONDS_BETWEEN

    def offer(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write the state if it is time to: every two seconds, less often where writing takes long."""
        started = time.monotonic()
        if started < self._due:
            return
        save(self._out, state())
        ended = time.monotonic()
        self._due = ended + max(SECONDS_BETWEEN, (ended - started) / LARGEST_SHARE)


def save(out: Path, state: dict[str, Any]) -> None:
    """Write a state (tensors and plain values) into the partial artifact's checkpoint folder, atomically."""
    folder = out / CHECKPOINT
    folder.mkdir(exist_ok=True)
    content = io.BytesIO()
    torch.save({"schema": SCHEMA, **state}, content)
    temporary = folder / f".{FILE}.{os.getpid()}"
    with temporary.open("wb") as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())
    temporary.replace(folder / FILE)


def load(out: Path, form: str | None = None, *, remove: bool = True) -> dict[str, Any] | None:
    """Return the state that `save` wrote, its tensors on the CPU, or None.

    One that is damaged or of another version or form counts as absent: it is removed, with a warning, and the
    work starts anew. What an interrupted write left behind is removed too.

    Args:
        form: what the state's "form" has to be.
        remove: of several processes one does.
    """
    folder = out / CHECKPOINT
    for left in folder.glob(f".{FILE}.*") if remove else ():
        left.unlink(missing_ok=True)
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
            raise ValueError("its checksum does not fit")
        state: dict[str, Any] = torch.load(io.BytesIO(content[DIGEST_BYTES:]), map_location="cpu", weights_only=True)
        if state["schema"] != SCHEMA:
            raise ValueError(f"it is of version {state['schema']}, this is version {SCHEMA}")
        if form is not None and state["form"] != form:
            raise ValueError(f"its form is {state['form']!r}, and this training's {form!r}")
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        logging.getLogger(__name__).warning("the checkpoint %s cannot be used: %s; the work starts anew", path, error)
        if remove:
            path.unlink(missing_ok=True)
        return None
    return state


def copy_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of a module's state."""
    return copy.deepcopy(model.state_dict())
