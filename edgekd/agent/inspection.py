"""What a TensorRT engine really runs, layer by layer, as its inspector tells it.

Releases word it differently: "Half", "Row major linear FP16 format", a name alone where there is no detail. What cannot
be told is "unknown", never a guess from what was asked for.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Optional

_PRECISIONS = {  # in this order: most names contain "float"
    "int8": "int8",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp8": "float8",
    "float8": "float8",
    "fp32": "float32",
    "float": "float32",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
}

# Words in the type of a layer, or in that of the operation it came from. "gemm" and "conv" name Myelin's kernels, too.
_COMPUTING = (
    "conv",
    "gemm",
    "gemv",
    "matrixmultiply",
    "matrix_multiply",
    "matmul",
    "fullyconnected",
    "rnn",
    "attention",
    "mha",
    "myelin",
    "dla",
)
# One entry of the inspector for a whole part of the network, whose inputs tell nothing about what is inside.
_OPAQUE = ("myelin", "dla")
_MOVING = ("reformat", "noop", "constant", "copy", "shape_call", "signal", "wait")
# Tactics name the types of both factors: sm80_xmma_gemm_i8i8_i8i32_f32, ..._f16f16_..., ..._tf32f32_...
_FACTORS = re.compile(r"(?<![a-z0-9])(tf32|bf16|f16|f32|i8)(?:tf32|bf16|f16|f32|i8)(?![a-z0-9])")
_TACTICS = {"tf32": "tf32", "bf16": "bfloat16", "f16": "float16", "f32": "float32", "i8": "int8"}
UNKNOWN = "unknown"


def read_layers(information: str) -> List[Dict[str, Any]]:
    """Return the layers of an inspector's JSON text: {"name", "type", "precision", "computes", "tactic"} each."""
    document = json.loads(information)
    return [_layer(entry) for entry in document.get("Layers", [])]


def precision_reason(layers: List[Dict[str, Any]]) -> Optional[str]:
    """Return why not all computing layers have a known precision, or None if they have."""
    if not layers:
        return "the engine tells nothing about its layers"
    if not any(layer["computes"] for layer in layers):
        return "the engine names no layer that is known to multiply and accumulate"
    untold = [layer["name"] for layer in layers if layer["computes"] and layer["precision"] == UNKNOWN]
    return "the engine does not tell the precision of %s" % ", ".join(untold[:5]) if untold else None


def on_gpu(layers: List[Dict[str, Any]]) -> List[str]:
    """Return the layers of a DLA engine that run on the GPU, but for those that only carry tensors to and fro."""
    return [layer["name"] for layer in layers if not on_dla(layer) and not _has(layer["type"], _MOVING)]


def on_dla(layer: Dict[str, Any]) -> bool:
    """Return whether a layer runs on the DLA."""
    return bool(layer["type"].lower().startswith("dla"))


def _layer(entry: Any) -> Dict[str, Any]:
    if not isinstance(entry, dict):  # an engine built without details has names only
        return {"name": str(entry), "type": UNKNOWN, "precision": UNKNOWN, "computes": False, "tactic": ""}
    kind, origin = str(entry.get("LayerType", UNKNOWN)), str(entry.get("ParameterType", ""))
    tactic = str(entry.get("TacticName", ""))
    multiplies = bool(_FACTORS.search(tactic)) and ("gemm" in tactic or "conv" in tactic or "fprop" in tactic)
    return {
        "name": str(entry.get("Name", UNKNOWN)),
        "type": kind,
        "precision": _precision(entry, tactic),
        "computes": not _has(kind, _MOVING) and (multiplies or _has(kind, _COMPUTING) or _has(origin, _COMPUTING)),
        "tactic": tactic,
    }


def _precision(entry: Dict[str, Any], tactic: str) -> str:
    """Return in what a layer multiplies: its kernel's name says it, else the type of its weights or first input."""
    factors = _FACTORS.search(tactic)
    if factors:
        return _TACTICS[factors.group(1)]
    if _has(str(entry.get("LayerType")), _OPAQUE) or "{ForeignNode" in str(entry.get("Name")):
        return UNKNOWN
    weights = entry.get("Weights")
    told = [weights.get("Type")] if isinstance(weights, dict) else []
    inputs = entry.get("Inputs")
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict):
        told.append(inputs[0].get("Format/Datatype") or inputs[0].get("Format"))
    for text in told:
        for word, precision in _PRECISIONS.items():
            if word in str(text).lower():
                return precision
    return UNKNOWN


def _has(text: str, words: Any) -> bool:
    return any(word in text.lower() for word in words)
