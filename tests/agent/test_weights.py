"""The files beside a model that hold its weights, against the onnx library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.agent.weights import external

from .networks import linear


def test_weights_in_other_files_are_found_wherever_they_are_used(tmp_path: Path) -> None:
    def weight(name: str) -> TensorProto:
        tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
        onnx.external_data_helper.set_external_data(tensor, f"{name}.bin")
        return tensor

    branch = helper.make_graph([], "then", [], [], [weight("branch")])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=weight("constant")),
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=helper.make_graph([], "else", [], [])),
    ]
    function = helper.make_function("here", "F", [], ["z"], nodes[:1], [])
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [weight("initializer")]), functions=[function])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert external(tmp_path / "m.onnx") == ["branch.bin", "constant.bin", "initializer.bin"]
    assert external(linear(tmp_path / "inside.onnx")) == []
