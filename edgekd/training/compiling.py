"""Networks that are compiled (`torch.compile`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from edgekd.errors import StageError

BACKEND = "inductor"


def compiled(model: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what computes the same as a network, compiled when it is first called; the network stays as it is.

    Its hooks have to be there already.

    Raises:
        StageError: there is no compiler.
    """
    if device.type == "cuda" and find_spec("triton") is None:
        raise StageError("compile: the package triton is not installed, which torch needs for that; set compile: false")
    wanted = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if device.type == "cpu" and not any(shutil.which(name) for name in wanted):
        raise StageError(
            f"compile: no C++ compiler ({' or '.join(wanted)}) is installed, which torch needs for that; install one, "
            "or set compile: false"
        )
    torch.compiler.reset()  # of networks that were compiled before: after a few of them torch would give up
    call: Callable[[Tensor], Tensor] = torch.compile(model, backend=BACKEND)
    return call


@contextmanager
def eager() -> Iterator[None]:
    """Call the network's own code for a while."""
    with torch.compiler.set_stance("force_eager"):
        yield
