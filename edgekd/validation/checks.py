"""What a check of a model says, and the checks there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "inconclusive", "not_measured", "skipped"]

CHECKS: Mapping[str, tuple[str, str]] = {
    "file": ("file", "the file is an ONNX model"),
    "external-data": ("file", "weights in other files are there, whole, and in the model's folder"),
    "checker": ("file", "the model keeps to the ONNX specification"),
    "shape-inference": ("file", "types and shapes fit together from the inputs to the outputs"),
    "weights": ("file", "no weight is NaN or infinite"),
    "precision": ("file", "the model is in the precision that was asked for"),
    "size": ("file", "the size is within its limit"),
    "opset": ("runtime", "the target reads this version of the operators"),
    "custom-operators": ("runtime", "the target knows every operator's domain"),
    "operators": ("runtime", "the target takes the operators as they are used"),
    "session": ("runtime", "the target's runtime loads the model"),
    "run": ("runtime", "the target's runtime runs the model"),
    "inputs": ("interface", "inputs have the names, types and shapes of the reference's"),
    "outputs": ("interface", "outputs have the names, types and shapes of the reference's"),
    "dynamic-axes": ("interface", "free axes are free, and shapes come out as declared"),
    "finite": ("behaviour", "no answer is NaN or infinite"),
    "constant": ("behaviour", "answers depend on the inputs"),
    "determinism": ("behaviour", "the same inputs give the same answers"),
    "batch-invariance": ("behaviour", "an answer does not depend on the other samples of its batch"),
    "qdq-present": ("quantization", "layers compute on integers"),
    "qdq-parameters": ("quantization", "scales and zero points are sound, and the same in Q and DQ"),
    "qdq-axes": ("quantization", "scales of weights lie along their output channels"),
    "qdq-dangling": ("quantization", "every Q and DQ has its counterpart"),
    "qdq-saturation": ("quantization", "few values lie outside of what the integers span"),
    "parity-max": ("parity", "largest difference from the reference, of its peak"),
    "parity-mean": ("parity", "mean difference from the reference, of its mean size"),
    "parity-sqnr": ("parity", "signal-to-quantization-noise ratio against the reference"),
    "parity-cosine": ("parity", "cosine between the model's answers and the reference's"),
    "parity-top1": ("parity", "samples whose largest answer is the reference's"),
    "accuracy-drop": ("accuracy", "what is lost against the reference"),
    "latency": ("latency", "the gates on latency"),
}
"""Every check by its id, in the order of a report: its family, and what holds where it passes."""


@dataclass(frozen=True)
class Check:
    """One check of one model.

    Args:
        id: a key of `CHECKS`.
        status: "skipped" is one that does not apply; "not_measured" one that could not be made.
        message: what was found.
        subject: the input, output, node or gate that it is about; "" for the model.
        value: what was measured.
        limit: what it was held against; None where nothing was asked.
        unit: of value and limit.
        remedy: what to do where it did not pass.
    """

    id: str
    status: Status
    message: str
    subject: str = ""
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    remedy: str = ""

    @property
    def fails(self) -> bool:
        """Whether the model is not to be shipped for it: a limit that was not judged counts as well."""
        asked = self.status == "not_measured" and self.limit is not None
        return self.status in ("failed", "inconclusive") or asked


def judged(id: str, ok: bool, message: str, **more: float | str | None) -> Check:
    """Return a check that passed or failed."""
    return Check(id, "passed" if ok else "failed", message, **more)  # type: ignore[arg-type]


def completed(found: Iterable[Check], reason: str) -> list[Check]:
    """Return checks in the order of a report, those that were not made as skipped for a reason."""
    by_id: dict[str, list[Check]] = {}
    for check in found:
        by_id.setdefault(check.id, []).append(check)
    return [one for id in CHECKS for one in by_id.get(id, [Check(id, "skipped", reason)])]
