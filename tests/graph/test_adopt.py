"""A foreign ONNX file under other names computes what it computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgekd.errors import StageError, UsageError
from edgekd.graph.adopt import adopt
from edgekd.graph.lint import inspect

X = np.array([[1.0, -2.0], [-3.0, 4.0]], np.float32)


def save(
    path: Path, names: tuple[str, str, str] = ("x", "middle", "y"), *, opset: int = 17, listed: bool = False
) -> Path:
    """Write y = |x w|, with w = 2 as a weight whose name is an input's too if `listed`, as old files have it."""
    given, middle, result = names
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in (given, result)]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2], [2.0, 2.0])
    nodes = [helper.make_node("Mul", [given, "w"], [middle]), helper.make_node("Abs", [middle], [result])]
    inputs = [ports[0], *([helper.make_tensor_value_info("w", TensorProto.FLOAT, [2])] if listed else [])]
    inner = [helper.make_tensor_value_info(middle, TensorProto.FLOAT, ["n", 2])]
    graph = helper.make_graph(nodes, "g", inputs, ports[1:], [weights], value_info=inner)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {"author": "somebody", "recipe": "theirs"})
    onnx.save(model, path)
    return path


def adopted(source: Path, *, input_name: str = "input", output_name: str = "logits", max_opset: int = 20) -> Path:
    target = source.with_name("adopted.onnx")
    adopt(
        source, target, input_name=input_name, output_name=output_name, metadata={"recipe": "ours", "edgekd": "1"},
        max_opset=max_opset,
    )  # fmt: skip
    return target


def answer(path: Path) -> dict[str, np.ndarray]:
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (feed,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    return {feed.name: X} | dict(zip(names, session.run(names, {feed.name: X}), strict=True))


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("x", "middle", "y"),
        ("input", "middle", "logits"),  # its names already
        ("logits", "middle", "input"),  # the other way round
        ("x", "input", "y"),  # a value inside has the name
        ("x", "logits", "y"),
        ("input", "logits", "y"),
        ("input", "w.inner", "w2"),
    ],
)
def test_other_names_are_the_same_network(tmp_path, names, listed):
    path = adopted(save(tmp_path / "theirs.onnx", names, listed=listed))
    found = answer(path)
    assert list(found) == ["input", "logits"]
    np.testing.assert_array_equal(found["logits"], np.abs(2 * X))


def test_names_that_a_weight_has(tmp_path):
    found = answer(adopted(save(tmp_path / "theirs.onnx"), input_name="w", output_name="middle"))
    np.testing.assert_array_equal(found["middle"], np.abs(2 * X))


def test_values_in_the_branches_of_a_node_are_renamed_with_it(tmp_path):
    """y = x where the sum is positive, else -x: both branches read x of the graph around them."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")]

    def branch(operator: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 2])
        return helper.make_graph([helper.make_node(operator, ["x"], ["input"])], operator, [], [result])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch("Identity"), else_branch=branch("Neg")),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "theirs.onnx")
    found = answer(adopted(tmp_path / "theirs.onnx"))
    np.testing.assert_array_equal(found["logits"], X if X.sum() > 0 else -X)


def test_what_is_said_about_it_is_added_to_what_it_says_itself(tmp_path):
    graph = inspect(adopted(save(tmp_path / "theirs.onnx")))
    assert graph.metadata == {"author": "somebody", "recipe": "ours", "edgekd": "1"}


def test_the_source_is_not_touched_and_the_opset_is_told(tmp_path):
    source = save(tmp_path / "theirs.onnx", opset=14)
    before = source.read_bytes()
    found = adopt(source, tmp_path / "o.onnx", input_name="a", output_name="b", metadata={}, max_opset=14)
    assert found == inspect(tmp_path / "o.onnx").opset == 14
    assert source.read_bytes() == before


def test_a_newer_opset_than_the_devices_read(tmp_path):
    source = save(tmp_path / "theirs.onnx", opset=18)
    with pytest.raises(StageError, match=r"theirs.onnx is of opset 18; the chosen devices read up to 17 \(max_opset"):
        adopted(source, max_opset=17)
    assert not (tmp_path / "adopted.onnx").exists()


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UsageError, match="not an ONNX file"):
        adopted(tmp_path / "text.onnx")
