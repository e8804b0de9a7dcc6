"""The inputs of an ONNX file, against the onnx library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekd.agent.backends import Tensor
from edgekd.agent.errors import AgentError
from edgekd.agent.onnx_file import inputs

from .networks import linear, quantized

NAMES = {
    onnx_type: helper.tensor_dtype_to_np_dtype(onnx_type).name
    for onnx_type in (
        TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8,
        TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT32,
        TensorProto.UINT64, TensorProto.BOOL, TensorProto.BFLOAT16,
    )
}  # fmt: skip


@pytest.mark.parametrize("write", [linear, quantized])
def test_networks(tmp_path: Path, write) -> None:
    assert inputs(write(tmp_path / "m.onnx")) == [Tensor("input", (None, 8), "float32")]
    assert inputs(write(tmp_path / "m.onnx", 3)) == [Tensor("input", (3, 8), "float32")]


axes = st.one_of(st.integers(1, 2**40), st.just("n"), st.none())
ports = st.lists(
    st.tuples(st.text("abcé/:0", min_size=1), st.sampled_from(list(NAMES)), st.lists(axes, max_size=5)),
    max_size=4,
    unique_by=lambda port: port[0],
)


@given(ports, st.booleans())
@settings(max_examples=60)
def test_any_inputs(tmp_path_factory: pytest.TempPathFactory, declared, old: bool) -> None:
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in declared]
    weight = numpy_helper.from_array(np.arange(300, dtype=np.float32), "weight")
    listed = [*values, helper.make_tensor_value_info("weight", TensorProto.FLOAT, [300])] if old else values
    path = tmp_path_factory.mktemp("any") / "m.onnx"
    onnx.save(helper.make_model(helper.make_graph([], "g", listed, [], [weight])), path)
    assert inputs(path) == [
        Tensor(name, tuple(axis if isinstance(axis, int) else None for axis in shape), NAMES[kind])
        for name, kind, shape in declared
    ]


@pytest.mark.parametrize("content", [b"", b"\x00", b"PK\x03\x04 no model", b"\xff" * 100, b"{}", bytes(range(256))])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(AgentError, match=r"m\.onnx is no ONNX file"):
        inputs(tmp_path / "m.onnx")


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    whole = linear(tmp_path / "m.onnx").read_bytes()
    for length in range(1, len(whole) - 10, 7):  # the last bytes hold the opset
        (tmp_path / "m.onnx").write_bytes(whole[:length])
        with pytest.raises(AgentError, match="is no ONNX file"):
            inputs(tmp_path / "m.onnx")


def test_what_is_no_tensor(tmp_path: Path) -> None:
    value = helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, [1])
    onnx.save(helper.make_model(helper.make_graph([], "g", [value], [])), tmp_path / "m.onnx")
    with pytest.raises(AgentError, match="input 'list' is no tensor"):
        inputs(tmp_path / "m.onnx")
    with pytest.raises(AgentError, match="there is no file"):
        inputs(tmp_path / "none.onnx")
