"""A network that is known by its ONNX file alone: it answers, and that is all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from edgekd import models
from edgekd.artifact import Artifact
from edgekd.errors import StageError

FILE = "model.onnx"


class BlackBox(nn.Module):
    """Runs an ONNX file of one input and one output on the CPU; no gradient passes through it.

    Raises:
        StageError: ONNX Runtime does not take the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise StageError(f"{path}: ONNX Runtime does not take it: {error}") from error
        self._input = self._session.get_inputs()[0]
        batch = self._input.shape[0] if self._input.shape else None
        self._batch = batch if isinstance(batch, int) else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (B, ...) to answers (B, K), float32; a file with a fixed batch is run as often as it takes."""
        samples = inputs.detach().cpu().numpy()
        size = self._batch or len(samples)
        answers = [self._run(samples[begin : begin + size], size) for begin in range(0, len(samples), size)]
        return torch.from_numpy(np.concatenate(answers)).to(inputs.device)

    def _run(self, samples: np.ndarray, size: int) -> np.ndarray:
        missing = size - len(samples)
        filled = np.concatenate([samples, np.repeat(samples[-1:], missing, axis=0)]) if missing else samples
        try:
            (answers,) = self._session.run(None, {self._input.name: np.ascontiguousarray(filled)})
        except Exception as error:
            raise StageError(f"the ONNX teacher fails on inputs of shape {samples.shape}: {error}") from error
        found: np.ndarray = np.asarray(answers, dtype=np.float32)[: len(samples)]
        return found


def load(source: Artifact) -> nn.Module:
    """Return the network of an artifact, in evaluation mode on the CPU: in torch, or as a black box."""
    path = source.path / FILE
    return BlackBox(path).eval() if is_black_box(source) else models.load(source.path)


def is_black_box(source: Artifact) -> bool:
    """Return whether an artifact holds a network's ONNX file alone."""
    return not (source.path / models.DESCRIPTION).is_file() and (source.path / FILE).is_file()


def input_shape(source: Artifact) -> tuple[int, ...]:
    """Return the shape of one sample."""
    if is_black_box(source):
        return tuple(source.facts["input_shape"])
    return models.describe(source.path).input_shape
