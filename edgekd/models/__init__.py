"""Networks, and how they are stored: `model.json` says how to build one, safetensors holds its weights.

    {"schema": 1, "factory": "edgekd.models.resnet:build", "args": {...}, "input_shape": [1, 28, 28],
     "edits": [{"edit": "pruning", ...}, {"edit": "quantization", ...}]}

Loading builds the network, replays the edits in order, and loads the weights: the outputs are identical.
No pickle is read.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgekd.artifact import write_text
from edgekd.errors import StageError
from edgekd.plugin import call

SCHEMA = 1
DESCRIPTION = "model.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Description:
    """How to build a network.

    Args:
        factory: "package.module:function"; its keyword arguments are `args`.
        input_shape: of one sample.
        edits: changes of structure since, each with the module of `edgekd.compress` that replays it.
    """

    factory: str
    args: Mapping[str, Any]
    input_shape: tuple[int, ...]
    edits: tuple[Mapping[str, Any], ...] = field(default=())

    def edited(self, edit: Mapping[str, Any]) -> Description:
        """Return the description with one more edit."""
        return replace(self, edits=(*self.edits, edit))


def example(input_shape: Sequence[int], batch: int = 2) -> Tensor:
    """Return an input of the right shape, (batch, *input_shape): zeros, for tracing."""
    return torch.zeros(batch, *input_shape)


def create(description: Description) -> nn.Module:
    """Build the network as its factory makes it, without edits, in evaluation mode.

    Raises:
        StageError: the factory failed, or returned no module.
    """
    model = call(description.factory, description.args)
    if not isinstance(model, nn.Module):
        raise StageError(f"{description.factory} returned {type(model).__name__}; it must return a torch.nn.Module")
    return model.eval()


def save(folder: Path, description: Description, state: Mapping[str, Tensor]) -> None:
    """Write a network into an artifact's folder."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS)
    content = {
        "schema": SCHEMA,
        "factory": description.factory,
        "args": dict(description.args),
        "input_shape": list(description.input_shape),
        "edits": list(description.edits),
    }
    write_text(folder / DESCRIPTION, json.dumps(content, indent=1, sort_keys=True, allow_nan=False))


def describe(folder: Path) -> Description:
    """Read how the network in an artifact's folder is built."""
    content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if content["schema"] != SCHEMA:
        raise StageError(f"{folder / DESCRIPTION}: schema {content['schema']}, this version of edgekd reads {SCHEMA}")
    return Description(content["factory"], content["args"], tuple(content["input_shape"]), tuple(content["edits"]))


def load(folder: Path) -> nn.Module:
    """Rebuild the network in an artifact's folder, in evaluation mode, on the CPU."""
    description = describe(folder)
    model = create(description)
    state = load_file(folder / WEIGHTS)
    for edit in description.edits:
        restore = importlib.import_module(f"edgekd.compress.{_plain(edit['edit'])}").restore
        model = restore(model, edit, example(description.input_shape), state)
    if state:
        model.load_state_dict(state)
    return model


def _plain(name: str) -> str:
    """Return an edit's module name, refused if it could reach outside `edgekd.compress`."""
    if not name.isidentifier():
        raise StageError(f"{DESCRIPTION}: {name!r} is not the name of an edit")
    return name


def parameters(model: nn.Module) -> int:
    """Return the number of trainable and fixed parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
