"""A torch network as a graph of its operators, for any batch size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from edgekd.errors import StageError


def capture(model: nn.Module, example: tuple[Tensor, ...]) -> ExportedProgram:
    """Return the program that a network runs in evaluation mode; its first input axes are one free batch size.

    Args:
        model: the network; its modes are put back.
        example: inputs of any batch size, on the network's device.

    Raises:
        StageError: the network's Python cannot be followed, for example because it branches on values.
    """
    several = tuple(value.expand(2, *value.shape[1:]) if len(value) == 1 else value for value in example)  # 1 stays 1
    shapes = tuple({0: torch.export.Dim("batch", min=1)} for _ in example)
    try:
        with torch.no_grad(), evaluating(model), quiet_pytrees():
            return torch.export.export(model, several, dynamic_shapes=shapes)
    except (RuntimeError, ValueError, AssertionError, torch._dynamo.exc.UserError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise StageError(
            f"{type(model).__name__} cannot be captured as a graph for any batch size: {reason}"
        ) from error


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and every module back into its own mode afterwards."""
    if isinstance(model, GraphModule):  # a prepared or converted graph has no modes, and refuses to be given one
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def quiet_pytrees() -> Iterator[None]:
    """Hide that torch itself copies graphs by way of a class of its own that it has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        yield
