"""What ONNX Runtime really runs, kernel by kernel, as its profile tells it."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Tuple

TYPES = {"float": "float32", "double": "float64"}  # the others are called as in numpy

_INTEGER_OPS = ("QLinear", "QGemm", "QAttention", "DynamicQuantize", "ConvInteger", "MatMulInteger")
_COMPUTING = ("Conv", "Gemm", "MatMul", "Attention", "LSTM", "GRU", "RNN", "Einsum")
_END = "_kernel_time"


def read_layers(events: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Return the kernels of a profile of several runs, in the order of the first one.

    "times_ns" of each has its time in every run but the first, which allocates what the others find.
    """
    runs: List[Dict[Tuple[str, str], int]] = [{}]
    layers: Dict[Tuple[str, str], Dict[str, Any]] = {}
    for event in events:
        if event.get("name") == "model_run":
            runs.append({})
        elif event.get("cat") == "Node" and str(event.get("name", "")).endswith(_END):
            key = (str(event["args"].get("node_index")), str(event["name"]))
            layers.setdefault(key, _layer(event))
            runs[-1][key] = runs[-1].get(key, 0) + 1000 * int(event["dur"])  # a loop's body runs more than once
    for key, layer in layers.items():
        layer["times_ns"] = [times[key] for times in runs[1:] if key in times]
    return list(layers.values())


def _layer(event: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what one kernel of a profile was: its first input decides, unless its name says that it is integer."""
    arguments = event["args"]
    kind = str(arguments.get("op_name", "unknown"))
    first = next((name for entry in arguments.get("input_type_shape", ()) for name in entry), "unknown")
    integer = kind.startswith(_INTEGER_OPS) or first in ("uint8", "int8")
    return {
        "name": str(event["name"])[: -len(_END)],
        "type": kind,
        "precision": "int8" if integer else TYPES.get(first, first),
        "computes": any(name in kind for name in _COMPUTING),
        "input": TYPES.get(first, first),
        "provider": str(arguments.get("provider", "unknown")),
    }
