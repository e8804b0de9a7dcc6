"""Networks, and how they are stored: `model.json` says how to build one, safetensors holds its weights.

    {"schema": 1, "factory": "edgekd.models.resnet:build", "args": {...}, "input_shape": [1, 28, 28],
     "edits": [{"edit": "pruning", ...}, {"edit": "quantization", ...}]}

Loading builds the network, replays the edits in order, and loads the weights: the outputs are identical.
No pickle is read.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

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


@contextmanager
def hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Keep hooks for a block, and take them away whatever happens in it."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        yield


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
    # Not by safetensors' own writing: its error does not say in a way for programs that the disk is full.
    (folder / WEIGHTS).write_bytes(serialized(tensors))
    content = {
        "schema": SCHEMA,
        "factory": description.factory,
        "args": dict(description.args),
        "input_shape": list(description.input_shape),
        "edits": list(description.edits),
    }
    write_text(folder / DESCRIPTION, json.dumps(content, indent=1, sort_keys=True, allow_nan=False))


def describe(folder: Path) -> Description:
    """Read how the network in an artifact's folder is built.

    Raises:
        StageError: `model.json` is missing or not what `save` writes.
    """
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise StageError(f"{path}: schema {content['schema']}, this version of edgekd reads {SCHEMA}")
        shape, edits = tuple(map(int, content["input_shape"])), tuple(dict(edit) for edit in content["edits"])
        return Description(str(content["factory"]), dict(content["args"]), shape, edits)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(f"{path} does not describe a network: {type(error).__name__}: {error}") from error


def load(folder: Path) -> nn.Module:
    """Rebuild the network in an artifact's folder, in evaluation mode, on the CPU.

    Raises:
        StageError: the folder's files are damaged, or do not fit each other.
    """
    description = describe(folder)
    model = create(description)
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise StageError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    state = dict(weights)
    for edit in description.edits:
        model = _restore(edit)(model, edit, example(description.input_shape), state)
    # An edit that brings its own weights (quantization) has taken them out.
    if state or not weights:
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise StageError(f"{folder / WEIGHTS} does not fit {DESCRIPTION}: {error}") from error
    return model


def _restore(edit: Mapping[str, Any]) -> Callable[..., nn.Module]:
    """Return the function that replays an edit: `restore` of the module of `edgekd.compress` that it names.

    Raises:
        StageError: there is none.
    """
    name = edit.get("edit")
    # A dot would reach outside of `edgekd.compress`.
    if isinstance(name, str) and name.isidentifier() and find_spec(f"edgekd.compress.{name}") is not None:
        restore = getattr(importlib.import_module(f"edgekd.compress.{name}"), "restore", None)
        if restore is not None:
            return restore  # type: ignore[no-any-return]
    raise StageError(f"{DESCRIPTION}: {name!r} is not an edit that this version of edgekd can replay")


def parameters(model: nn.Module) -> int:
    """Return the number of trainable and fixed parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
