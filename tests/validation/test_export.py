"""The validate stage looks at an export by itself before it compares."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import ModelProto

from edgekd.errors import StageError
from edgekd.validation.export import _sound
from validation.nets import classifier, quantized, samples, save
from validation.zoo import _baked_batch, _other_zero, _training_mode


@pytest.mark.parametrize("model", [classifier(), quantized(), classifier(batch=2)])
def test_a_sound_export_passes(tmp_path: Path, model: ModelProto):
    assert _sound(save(model, tmp_path / "m.onnx"), samples(40), "student").outputs[0].name == "y"


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (_baked_batch(), "dynamic-axes: a batch of 2 fails"),
        (_other_zero(), "qdq-parameters: .* different zero points"),
        (_training_mode(), "batch-invariance"),
    ],
)
def test_one_that_is_not_is_told_with_what_to_do(tmp_path: Path, model: ModelProto, told: str):
    with pytest.raises(StageError, match=f"validate: the ONNX file of student is not sound: .*{told}"):
        _sound(save(model, tmp_path / "m.onnx"), samples(40), "student")
