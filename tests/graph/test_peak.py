"""The benchmark network takes what the other takes, counts what it says, and runs in the precision that it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.agent import backends
from edgekd.graph.macs import count_macs
from edgekd.graph.peak import SIZES, peak_macs, peak_model

INPUTS = [
    helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", 7]),
    helper.make_tensor_value_info("start", TensorProto.FLOAT, [2, 3, 5]),
]
UNSIGNED = {"activations": "u8", "symmetric": False, "limit": 64}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("integers", [None, UNSIGNED, {"activations": "s8", "symmetric": True, "limit": 127}])
def test_it_is_a_valid_network_of_the_macs_it_says(size: int, integers: Any):
    model = peak_model(INPUTS, size, integers)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["tokens", "start"]
    assert count_macs(model) == peak_macs(size)


def test_it_runs_in_the_precision_that_it_is_for(tmp_path: Path):
    feeds = {"tokens": np.ones((2, 7), np.int64), "start": np.ones((2, 3, 5), np.float32)}
    for integers, precision in ((None, "float32"), (UNSIGNED, "int8")):
        onnx.save(peak_model(INPUTS, SIZES[0], integers), tmp_path / "peak.onnx")
        session = backends.load("onnxruntime").open(tmp_path / "peak.onnx", {})
        assert session.facts(feeds)["precision"] == {precision: 4}
        assert session.run(feeds)["edgekd/peak/peak"].shape == (1, 64, 1, 1)
