"""Whatever is in a file, the verdict is a verdict: no exception comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper

from edgekd import validate
from edgekd.errors import UsageError
from edgekd.validation.files import open_model
from validation.nets import classifier, copy, quantized, save
from validation.zoo import _dynamic_integers, _dynamic_origin, _tokens

MODELS = (classifier(), quantized(), _tokens(), _dynamic_integers())
REFERENCES = (classifier(), classifier(), _tokens(), _dynamic_origin())
BYTES = [model.SerializeToString() for model in MODELS]
OPERATORS = [
    "Relu", "Conv", "Add", "MatMul", "Reshape", "QuantizeLinear", "DequantizeLinear", "Dropout", "Softmax", "If",
    "Cast",
    "Gather", "Transpose", "Identity", "DynamicQuantizeLinear", "MatMulInteger", "Unheard",
]  # fmt: skip
ATTRIBUTES = [("axis", -1), ("axis", 7), ("perm", [1, 0]), ("to", 99), ("block_size", 2), ("group", 0), ("pads", [9])]
Pick = Callable[[Sequence[Any]], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hostile")
    for place, model in enumerate(REFERENCES):
        save(model, made / f"reference{place}.onnx")
    return made


def _mutate(model: ModelProto, pick: Pick) -> None:
    """Change one thing in a model: what a graph is made of, not its bytes."""
    graph = model.graph
    node, weight = pick(list(graph.node)), pick(list(graph.initializer))
    port = pick([*graph.input, *graph.output])
    names = [*(name for one in graph.node for name in one.output), *(one.name for one in graph.initializer), "", "nope"]
    kind = pick(range(10))
    if kind == 0 and node.input:
        node.input[pick(range(len(node.input)))] = pick(names)
    elif kind == 1:
        node.op_type = pick(OPERATORS)
    elif kind == 2:
        node.attribute.append(helper.make_attribute(*pick(ATTRIBUTES)))
    elif kind == 3 and weight.dims:
        weight.dims[pick(range(len(weight.dims)))] = pick([-1, 0, 1, 3, 10**9])
    elif kind == 4:
        weight.data_type = pick([0, 2, 3, 6, 7, 8, 10, 11, 14, 16, 17, 22, 99])
    elif kind == 5:
        port.type.tensor_type.elem_type = pick([0, 3, 7, 8, 10, 11, 16, 99])
    elif kind == 6 and port.type.tensor_type.shape.dim:
        pick(list(port.type.tensor_type.shape.dim)).dim_value = pick([-5, 0, 1, 2, 10**10])
    elif kind == 7:
        del node.input[pick(range(len(node.input) + 1)) :]
    elif kind == 8:
        graph.node.remove(node)
    elif kind == 9:
        model.opset_import[0].version = pick([-1, 0, 5, 9, 13, 1000])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, len(MODELS) - 1), count=st.integers(1, 3), data=st.data())
def test_a_graph_that_was_tampered_with_gets_a_verdict(folder: Path, which: int, count: int, data: st.DataObject):
    model = copy(MODELS[which])
    for _ in range(count):
        _mutate(model, lambda choices: data.draw(st.sampled_from(choices)))
    path = folder / "tampered.onnx"
    path.write_bytes(model.SerializeToString())
    found = validate([path], folder / f"reference{which}.onnx", bisect=True, samples=8)
    assert found.exit_code in (0, 1)
    with suppress(UsageError):  # as a reference it is refused in words, or taken
        validate([folder / f"reference{which}.onnx"], path, samples=8)


@settings(max_examples=150)
@given(
    which=st.integers(0, len(MODELS) - 1),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
)
def test_bytes_that_were_changed_get_a_verdict(folder: Path, which: int, edits: list[tuple[float, int]]):
    content = bytearray(BYTES[which])
    for place, byte in edits:
        content[int(place * len(content))] = byte
    path = folder / "changed.onnx"
    path.write_bytes(content)
    opened, found = open_model(path)
    assert found
    assert (opened is None) <= any(check.fails for check in found)
