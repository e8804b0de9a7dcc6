from __future__ import annotations

import pytest
import torch

from compress.nets import build
from edgekd.compress import quantization
from edgekd.compress.bias_correction import correct_biases
from edgekd.device import Scheme


@pytest.mark.parametrize("name", ["residual", "mlp"])
def test_the_mean_of_the_outputs_is_that_of_the_float_network(name: str) -> None:
    model, x, _ = build(name)
    prepared = quantization.prepare(model, (x[:2],), Scheme(activations="u8"), 4)
    quantization.calibrate(prepared, x.split(16))
    with torch.no_grad():
        expected = model(x).mean(0)
        before = (quantization.convert(prepared)(x).mean(0) - expected).abs().max()
        correct_biases(prepared, quantization.duplicate(prepared), x.split(24))  # the last batch is smaller
        after = (quantization.convert(prepared)(x).mean(0) - expected).abs().max()
    assert float(before) > 0.01
    assert float(after) < float(before) / 30
