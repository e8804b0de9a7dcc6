"""In which precision OpenVINO computes float layers, and whether a device can."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from edgekd.agent.errors import AgentError

PRECISION_DEFAULTS: Dict[str, Any] = {"inference_precision": "f32", "precision": "", "half_file": ""}
"""`half_file` comes with a `precision`, for runtimes that build; here the model itself is told."""
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_HALVES = {
    "f16": ("FP16", "avx512_fp16 or amx_fp16 on x86, asimdhp on ARM"),
    "bf16": ("BF16", "avx512_bf16 or amx_bf16 on x86, bf16 on ARM"),
}


def settled(options: Mapping[str, Any]) -> Dict[str, Any]:
    """Return whole options with the `precision` of one model, if it has one, as that of inference.

    Raises:
        AgentError: there is no such precision.
    """
    precision = options["precision"]
    if precision and precision not in _HINTS:
        raise AgentError("option precision of openvino is %r; it may be %s" % (precision, ", ".join(_HINTS)))
    return {**options, "inference_precision": _HINTS.get(precision, options["inference_precision"])}


def require(core: Any, device: str, precision: str) -> None:
    """Refuse 16 bits where a device does not compute in them, by what OpenVINO lists of it.

    Args:
        core: an `openvino.Core`.

    Raises:
        AgentError: with what is missing.
    """
    if precision not in _HALVES:
        return
    capability, instructions = _HALVES[precision]
    capabilities = [str(name) for name in core.get_property(device, "OPTIMIZATION_CAPABILITIES")]
    if capability in capabilities:
        return
    raise AgentError(
        "%s does not compute in %s here, and OpenVINO would take float32 without saying so: it lists %s%s"
        % (
            device,
            precision,
            ", ".join(capabilities),
            "; a processor needs %s" % instructions if device.startswith("CPU") else "",
        )
    )
