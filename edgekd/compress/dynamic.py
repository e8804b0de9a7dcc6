"""Linear layers whose weights are 8-bit integers and whose activations become integers at run time (`mode: dynamic`).

Nothing is calibrated. It is what is left where ranges of activations differ from input to input, and what some runtimes
run fastest on transformers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekd import models
from edgekd.compress import quantization
from edgekd.compress.quantizer import LINEARS, layer_name, weight_limit
from edgekd.device import Scheme
from edgekd.errors import StageError
from edgekd.graph.dynamic import OPERATOR
from edgekd.stage import Inputs
from edgekd.stages.quantize import Options


def quantize(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Quantize the linear layers of the newest student, and keep their integers."""
    source = inputs.artifacts["model"]
    description = models.describe(source.path)
    scheme = Scheme.model_validate(inputs.context["scheme"])
    model = models.load(source.path)
    excluded = quantization.excluded(model, options.exclude)
    graph = quantization.captured(model, (models.example(description.input_shape),))
    float_layers = [name for name in quantization.layers(graph) if name in excluded]
    changed = convert(graph, scheme, excluded)
    if not changed:
        raise StageError(
            "quantize: mode: dynamic quantizes linear layers alone, and this network has none"
            f"{' but those that are excluded' if excluded else ''}; take ptq, qat or mixed"
        )
    kept = {"float_layers": float_layers} if float_layers else {}
    edit = {"edit": "dynamic", "scheme": scheme.model_dump(), **kept}
    models.save(out, description.edited(edit), graph.state_dict())
    return {
        "parameters": source.facts["parameters"],
        "macs": source.facts["macs"],
        "scheme": scheme.label,
        "quantized_layers": changed,
        "float_layers": float_layers,
        "mode": "dynamic",
    }


def restore(model: nn.Module, edit: Mapping[str, Any], example: Tensor, state: dict[str, Tensor]) -> nn.Module:
    """Replay it: the same layers are changed, and get the integers that were kept."""
    graph = quantization.captured(model, (example,))
    convert(graph, Scheme.model_validate(edit["scheme"]), edit.get("float_layers", ()))
    graph.load_state_dict(state, strict=True)
    state.clear()
    return graph


def convert(graph: GraphModule, scheme: Scheme, float_layers: Collection[str]) -> list[str]:
    """Change the linear layers of a captured graph in place, and return their names.

    A weight that is computed, and not stored, stays float.
    """
    made: dict[str, tuple[str, str]] = {}
    changed = []
    for node in list(graph.graph.nodes):
        weight = cast(Node, node.args[1]) if node.target in LINEARS else None
        if weight is None or weight.op != "get_attr" or layer_name(node) in float_layers:
            continue
        target = str(weight.target)
        if target not in made:
            made[target] = _store(graph, target, scheme)
        with graph.graph.inserting_before(node):
            stored = [graph.graph.get_attr(name) for name in made[target]]
            bias = node.args[2] if len(node.args) > 2 else None
            arguments = (node.args[0], *stored, bias)
            call = graph.graph.call_function(OPERATOR, arguments)
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.graph.erase_node(node)
        changed.append(layer_name(call))
    graph.graph.eliminate_dead_code()
    for target in made:
        if not any(node.op == "get_attr" and node.target == target for node in graph.graph.nodes):
            owner, _, leaf = target.rpartition(".")
            delattr(graph.get_submodule(owner), leaf)
    graph.recompile()
    del graph.train, graph.eval  # as of `quantization.convert`
    return changed


def _store(graph: GraphModule, target: str, scheme: Scheme) -> tuple[str, str]:
    """Give a graph the integers and scales of a weight, and return their names."""
    owner, _, leaf = target.rpartition(".")
    weight, limit = graph.get_parameter(target).detach(), weight_limit(scheme)
    largest = weight.abs().amax(dim=1) if scheme.weights == "per-channel" else weight.abs().amax().reshape(1)
    scale = torch.where(largest > 0, largest, 1.0) / limit
    integers = (weight / scale[:, None]).round().clamp(-limit, limit).to(torch.int8).T.contiguous()
    found = []
    for name, tensor in ((f"{leaf}_integers", integers), (f"{leaf}_scale", scale)):
        graph.get_submodule(owner).register_buffer(name, tensor)
        found.append(f"{owner}.{name}" if owner else name)
    return found[0], found[1]
