"""Write each variant as ONNX."""

from __future__ import annotations

from edgekd.document import Frozen
from edgekd.stage import Stage


class Options(Frozen):
    """The ONNX file. The opset is the newest that all chosen devices accept (`max_opset` of their profiles)."""

    input_name: str = "input"
    output_name: str = "logits"


STAGE = Stage(
    work="edgekd.compress.exporting:export",
    after=("quantize",),
    consumes=("model",),
    per="variant",
    version=3,
    packages=("torch", "onnx", "onnxscript", "torchao"),
)
