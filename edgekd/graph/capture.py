"""A torch network as a graph of its operators, for any batch size."""

from __future__ import annotations

import copy
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
        model: the network; a copy of it is captured.
        example: inputs of any batch size, on the network's device. An axis of 1 would be taken for a constant.

    Raises:
        StageError: the network's Python cannot be followed, for example because it branches on values.
    """
    inputs = tuple(_plain(value.expand(2, *value.shape[1:]) if len(value) == 1 else value) for value in example)
    shapes = tuple({0: torch.export.Dim("batch", min=1)} for _ in example)
    try:
        with torch.no_grad(), quiet_pytrees():
            return torch.export.export(_evaluated(model), inputs, dynamic_shapes=shapes)
    except (RuntimeError, ValueError, AssertionError, torch._dynamo.exc.UserError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise StageError(
            f"{type(model).__name__} cannot be captured as a graph for any batch size: {reason}"
        ) from error


def _evaluated(model: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode, its weights laid out plainly."""
    if isinstance(model, GraphModule):  # was captured here before; it has no modes, and refuses to be given one
        return model
    model = copy.deepcopy(model).eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = _plain(tensor.data)
    return model


def _plain(tensor: Tensor) -> Tensor:
    """Return a tensor in row-major layout.

    Layouts follow the data through a network (training sets channels last, a transposed array has it too). Where they
    differ from row-major, torch writes a pool as a gather over computed addresses: no runtime does that in integers,
    and OpenVINO computed it wrongly.
    `contiguous` does not help: a single channel is both layouts to it.
    """
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


@contextmanager
def quiet_pytrees() -> Iterator[None]:
    """Hide that torch itself copies graphs by way of a class of its own that it has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        yield
