"""Named layers of a network: which there are, which a paper would take, and what they give while the network runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekd import models
from edgekd.document import suggest
from edgekd.errors import StageError

INPUT = ":input"
"""Behind a layer's name: what it is given, instead of what it gives."""


@dataclass(frozen=True)
class Layer:
    """A named module as it ran.

    Args:
        shape: of what it gives for one sample; `given` of its first argument.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    given: tuple[int, ...]


def layers(model: nn.Module, inputs: Tensor) -> list[Layer]:
    """Return the named modules of a network that take and give one tensor, in the order in which they end.

    Args:
        inputs: (B, ...), on the network's device.
    """
    found: list[Layer] = []

    def note(name: str, module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        # In a graph that is made for training on integers, a module says which kind of layer it stands for, if any.
        kind = str(getattr(module, "kind", type(module).__name__))
        if kind and given and isinstance(given[0], Tensor) and isinstance(result, Tensor) and result.ndim > 1:
            found.append(Layer(name, kind, tuple(result.shape[1:]), tuple(given[0].shape[1:])))

    hooks = [
        module.register_forward_hook(lambda module, given, result, name=name: note(name, module, given, result))
        for name, module in model.named_modules()
        if name
    ]
    with models.hooked(hooks), torch.no_grad():
        model.eval()(inputs)
    return found


def usual(found: Sequence[Layer], kind: str, role: str) -> str:
    """Return the layer that a paper would take.

    Args:
        kind: "map" is the last feature map that is larger than a point; "embedding", also where there is no such map,
            what the last linear layer is given.
        role: whose network it is, for messages.

    Raises:
        StageError: there is none.
    """
    maps = [layer.name for layer in found if len(layer.shape) == 3 and layer.shape[1] * layer.shape[2] > 1]
    if kind == "map" and maps:
        return maps[-1]
    # The two halves of a factorized layer end before it does.
    linear = [layer.name for layer in found if layer.kind in ("Linear", "FactorizedLinear")]
    if linear:
        return linear[-1] + INPUT
    if maps:
        return maps[-1]
    raise StageError(
        f"distill.losses: the {role} has no named layer with a feature map and no linear layer; name the layers "
        "yourself (`edgekd recipe layers` lists them)"
    )


def shapes(found: Sequence[Layer], names: Sequence[str], role: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes, without the batch axis, of what named layers give (or are given: "head:input").

    Raises:
        StageError: there is no such layer.
    """
    given = {layer.name + INPUT: layer.given for layer in found}
    known = given | {layer.name: layer.shape for layer in found}
    for name in names:
        if name not in known:
            near = suggest(name, [layer.name for layer in found])
            raise StageError(
                f"distill.losses: the {role} has no layer {name!r}{near}; `edgekd recipe layers` lists them with their "
                "shapes"
            )
    return {name: known[name] for name in names}


class Taps:
    """Keeps what named layers give, or are given, in the network's last run.

    Args:
        names: of its layers.
        role: whose network it is, for messages.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], role: str) -> None:
        modules = {name: module for name, module in model.named_modules() if name}
        self._seen: dict[str, Tensor] = {}
        self._names, self._role = tuple(dict.fromkeys(names)), role
        self._hooks = [
            modules[name.removesuffix(INPUT)].register_forward_hook(self._hook(name)) for name in self._names
        ]

    def _hook(self, name: str) -> Any:
        def keep(_: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            self._seen[name] = given[0] if name.endswith(INPUT) else result

        return keep

    def take(self) -> dict[str, Tensor]:
        """Return what was seen in the last run, as float32, and forget it.

        Raises:
            StageError: a layer did not run, or does not give one tensor.
        """
        seen, self._seen = self._seen, {}
        for name in self._names:
            if not isinstance(seen.get(name), Tensor):
                what = f"gives {type(seen[name]).__name__}" if name in seen else "did not run"
                raise StageError(f"{self._role}: layer {name!r} {what}; choose one that gives a tensor in each run")
        return {name: value.float() for name, value in seen.items()}

    def close(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks:
            hook.remove()
