"""From a recipe's network block to a module, and from a trained module to an artifact's files."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgekd import models
from edgekd.data import Data
from edgekd.errors import StageError
from edgekd.models import Description
from edgekd.options import Network
from edgekd.training import ranks
from edgekd.training.engine import seed_everything

MALFORMED = (OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)
"""What torch's restricted unpickler raises on files that it cannot make sense of."""


def describe(network: Network, data: Data) -> Description:
    """Return how a recipe's network is built; shipped ones are told the input's shape and the number of classes."""
    shape = tuple(data.train.inputs.shape[1:])
    if ":" in network.model:
        return Description(network.model, network.arguments(), shape)
    known = {"input_shape": list(shape), "classes": len(data.classes)}
    return Description(f"edgekd.models.{network.model}:build", {**known, **_plain(network.arguments())}, shape)


def build(network: Network, description: Description, seed: int) -> nn.Module:
    """Build a recipe's network: seeded initial weights, or those of its weights file."""
    seed_everything(seed % 2**32, torch.device("cpu"))
    model = models.create(description)
    if network.weights is not None:
        _load_weights(model, network.weights)
    return model


def start_again(model: nn.Module, seed: int) -> None:
    """Give a network whose layers changed their sizes initial weights of those sizes, as torch gives them."""
    seed_everything(seed % 2**32, torch.device("cpu"))
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()


def check_outputs(model: nn.Module, data: Data, name: str) -> None:
    """Refuse a network that does not map the data to one row of finite numbers per sample.

    Raises:
        StageError: the forward pass fails, or its output has another shape, or is not finite.
    """
    batch = torch.from_numpy(data.train.inputs[:2])
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(batch)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise StageError(f"{name}: the network fails on inputs of shape {tuple(batch.shape)}: {error}") from error
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or len(outputs) != len(batch):
        got = f"a tensor of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise StageError(
            f"{name}: the network returned {got} for {len(batch)} inputs; expected ({len(batch)}, classes)"
        )
    if data.classes and outputs.shape[1] != len(data.classes):
        raise StageError(
            f"{name}: the network has {outputs.shape[1]} outputs, the data have {len(data.classes)} classes"
        )
    if not bool(torch.isfinite(outputs).all()):
        raise StageError(f"{name}: the network's outputs are not finite; are its weights?")


def profile(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Return {"parameters", "macs"}: multiply-accumulates of convolutions and matrix products for one sample."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(models.example(input_shape, 1))
    return {"parameters": models.parameters(model), "macs": counter.get_total_flops() // 2}


def size(network: Network, data: Data) -> dict[str, int]:
    """Return the profile of a recipe's network before it is trained.

    Raises:
        StageError: it cannot be built.
    """
    description = describe(network, data)
    return profile(build(network, description, 0), description.input_shape)


def store(out: Path, description: Description, model: nn.Module, facts: dict[str, Any]) -> dict[str, Any]:
    """Write a trained network as an artifact and return its facts with the network's profile.

    Of several processes that trained it, the first one writes.

    Raises:
        StageError: a weight is NaN or infinite.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise StageError(f"{name} holds values that are not finite; the network is not stored")
    if ranks.world()[0] == 0:
        models.save(out, description, model.state_dict())
    return {**facts, **profile(model, description.input_shape)}


def _load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file, or the state dict of a `.pt` file, which is read without running anything in it."""
    try:
        with warnings.catch_warnings():
            # Of a file that torch did not write, it doubts the protocol before it fails.
            warnings.simplefilter("ignore")
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError as error:
        raise StageError(f"weights {path}: there is no such file") from error
    except (SafetensorError, pickle.UnpicklingError, *MALFORMED) as error:
        raise StageError(
            f"weights {path} cannot be read: {_first_line(error)}; give a safetensors file, or the state dict "
            "that torch.save(model.state_dict(), path) writes"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        found = (
            f"a dictionary of {', '.join(map(str, state))[:200]}"
            if isinstance(state, Mapping)
            else type(state).__name__
        )
        raise StageError(f"weights {path} hold {found}; expected a state dict, tensors by the names of the parameters")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise StageError(f"weights {path} do not fit the network: {error}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
