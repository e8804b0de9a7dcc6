"""What OpenVINO really runs, primitive by primitive, as its compiled model and its counters tell it."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "int8", "f64": "float64"}

_COMPUTING = (
    "Convolution",
    "FullyConnected",
    "MatMul",
    "Deconvolution",
    "RNN",
    "LSTM",
    "GRU",
    "ScaledDotProduct",
    "MHA",
)
_NOT_EXECUTED = ("Input", "Output", "Const", "Constant", "Parameter", "Result")


def read_layers(compiled: Any, times_ns: Mapping[str, List[int]]) -> List[Dict[str, Any]]:
    """Return the primitives of a compiled model, in the order of execution.

    Args:
        compiled: the model.
        times_ns: samples by the name of a primitive; one that is not in it did no work of its own.

    Raises:
        RuntimeError: the plugin does not tell.
    """
    layers = [_layer(node) for node in compiled.get_runtime_model().get_ordered_ops()]
    return [{**layer, "times_ns": times_ns.get(layer["name"], [])} for layer in layers if _executes(layer)]


def read_counters(request: Any) -> Dict[str, int]:
    """Return the counter of each primitive that was executed, in nanoseconds.

    They are means over all runs since the model was compiled, cut to whole microseconds.
    """
    executed = [entry for entry in request.profiling_info if str(entry.status).endswith("EXECUTED")]
    return {str(entry.node_name): round(1e9 * entry.real_time.total_seconds()) for entry in executed}


def _executes(layer: Mapping[str, Any]) -> bool:
    return layer["type"] not in _NOT_EXECUTED


def _layer(node: Any) -> Dict[str, Any]:
    info = {key: str(_plain(value)) for key, value in dict(node.get_rt_info().items()).items()}
    kind = info.get("layerType", "unknown")
    # "brgconv_avx512_I8": the primitive that was chosen says more than the type of the first input.
    suffix = info.get("primitiveType", "").rsplit("_", 1)[-1].lower()
    runtime_precision = info.get("runtimePrecision", "unknown")
    return {
        "name": str(node.get_friendly_name()),
        "type": kind,
        "precision": PRECISIONS.get(suffix, PRECISIONS.get(runtime_precision, runtime_precision)),
        "computes": kind.startswith(_COMPUTING),
        "origins": [name for name in info.get("originalLayersNames", "").split(",") if name],
        "primitive": info.get("primitiveType", "unknown"),
    }


def _plain(value: Any) -> Any:
    """Return what an OVAny of older releases holds."""
    return getattr(value, "value", value)
