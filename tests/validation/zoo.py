"""Broken and tricky ONNX files, each with the checks that it must fail: those and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from validation.nets import (
    CLASSES,
    FLAT,
    SAMPLES,
    SHAPE,
    Graph,
    attribute,
    change,
    classifier,
    node,
    operator,
    quantized,
    samples,
    save,
    tensor,
    without,
)  # fmt: skip

PARITY = {"parity-max", "parity-mean", "parity-sqnr", "parity-cosine"}
EXTERNAL = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
Build = Callable[[Path], Path]


@dataclass(frozen=True)
class Entry:
    """A file of the zoo.

    Args:
        build: writes it into a folder.
        fails: the ids of the checks that fail.
        reference: what it is held against.
        options: of `validate`.
    """

    build: Build
    fails: frozenset[str] = frozenset()
    reference: Callable[[], ModelProto] = classifier
    options: dict[str, Any] = field(default_factory=dict)


ZOO: dict[str, Entry] = {}


def entry(
    name: str, *fails: str, reference: Callable[[], ModelProto] = classifier, **options: Any
) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        assert name not in ZOO
        ZOO[name] = Entry(build, frozenset(fails), reference, options)
        return build

    return add


def proto(name: str, *fails: str, make: Callable[[], ModelProto], **options: Any) -> None:
    entry(name, *fails, **options)(lambda folder: save(make(), folder / "model.onnx"))


def _file(folder: Path, content: bytes) -> Path:
    (folder / "model.onnx").write_bytes(content)
    return folder / "model.onnx"


# ---- the file


@entry("empty file", "file")
def _(folder: Path) -> Path:
    return _file(folder, b"")


@entry("text", "file")
def _(folder: Path) -> Path:
    return _file(folder, b"this is no model, it is a note about one\n")


@entry("cut short", "file")
def _(folder: Path) -> Path:
    return _file(folder, classifier().SerializeToString()[:-40])


@entry("no graph", "file")
def _(folder: Path) -> Path:
    return _file(folder, helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString())


def _external(folder: Path, edit: Callable[[Path], None]) -> Path:
    onnx.save(classifier(), folder / "model.onnx", **EXTERNAL)
    edit(folder)
    return folder / "model.onnx"


@entry("external data missing", "external-data")
def _(folder: Path) -> Path:
    return _external(folder, lambda there: (there / "weights.bin").unlink())


@entry("external data cut short", "external-data")
def _(folder: Path) -> Path:
    return _external(
        folder, lambda there: (there / "weights.bin").write_bytes((there / "weights.bin").read_bytes()[:-8])
    )


def _located(folder: Path, location: str, *, offset: int | None = None) -> Path:
    onnx.save(classifier(), folder / "model.onnx", **EXTERNAL)
    made = onnx.load(folder / "model.onnx", load_external_data=False)
    for pair in tensor(made.graph, "fc.w").external_data:
        if pair.key == "location":
            pair.value = location
        if pair.key == "offset" and offset is not None:
            pair.value = str(offset)
    return _file(folder, made.SerializeToString())


@entry("external data above the folder", "external-data")
def _(folder: Path) -> Path:
    (folder / "model").mkdir()
    (folder / "secret").write_bytes(bytes(4 * CLASSES * FLAT))
    return _located(folder / "model", "../secret")


@entry("external data at an absolute path", "external-data")
def _(folder: Path) -> Path:
    (folder / "secret").write_bytes(bytes(4 * CLASSES * FLAT))
    return _located(folder, str(folder / "secret"))


@entry("external data through a link", "external-data")
def _(folder: Path) -> Path:
    (folder / "model").mkdir()
    (folder / "secret").write_bytes(bytes(4 * CLASSES * FLAT))
    (folder / "model" / "link.bin").symlink_to(folder / "secret")
    return _located(folder / "model", "link.bin", offset=0)


@entry("external data at a negative offset", "external-data")
def _(folder: Path) -> Path:
    return _located(folder, "weights.bin", offset=-4)


def _dangling_input() -> ModelProto:
    made = classifier()
    node(made.graph, "r1").input[0] = "nowhere"
    return made


def _unknown_operator() -> ModelProto:
    return operator(classifier(), "r1", "Relux")


def _twice() -> ModelProto:
    made = classifier()
    made.graph.node.append(node(made.graph, "r1"))
    return made


def _no_attribute() -> ModelProto:
    made = classifier()
    made.graph.node[0].op_type = "Cast"
    del made.graph.node[0].attribute[:]
    del made.graph.node[0].input[1:]
    return made


def _wrong_shape() -> ModelProto:
    made = classifier()
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES + 2
    return made


def _wrong_type() -> ModelProto:
    made = classifier()
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    return made


def _not_fitting() -> ModelProto:
    return change(classifier(), "c2.w", lambda array: array[:, :-1])


proto("an input from nowhere", "checker", make=_dangling_input)
proto("an operator that does not exist", "checker", make=_unknown_operator)
proto("a value made twice", "checker", make=_twice)
proto("an attribute that is missing", "checker", make=_no_attribute)
proto("an output declared with another shape", "shape-inference", "outputs", make=_wrong_shape)
proto("an output declared with another type", "shape-inference", "outputs", "session", make=_wrong_type)
proto("weights that do not fit their input", "run", make=_not_fitting)


def _nan(array: np.ndarray) -> np.ndarray:
    array.flat[3] = np.nan
    return array


proto("a weight that is NaN", "weights", "finite", make=lambda: change(classifier(), "c2.w", _nan))


def _fewer_values() -> ModelProto:
    made = classifier()
    tensor(made.graph, "c1.b").dims[0] = 5
    return made


def _unknown_type() -> ModelProto:
    made = classifier()
    tensor(made.graph, "c1.b").data_type = 99
    return made


def _vast_batch() -> ModelProto:
    return classifier(batch=10**10)


proto("a weight with fewer values than its shape", "weights", make=_fewer_values)
proto("a weight of an unknown type", "shape-inference", "weights", make=_unknown_type)
proto("a batch of ten thousand million", "run", make=_vast_batch)


# ---- the runtime


def _custom() -> ModelProto:
    made = classifier()
    node(made.graph, "r1").domain = "acme.vision"
    made.opset_import.append(helper.make_opsetid("acme.vision", 1))
    return made


def _function() -> ModelProto:
    """A domain of one's own that is a function of the model: any runtime can expand it."""
    made = _custom()
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 17)]
    made.functions.append(helper.make_function("acme.vision", "Relu", ["a"], ["b"], body, opsets))
    return made


def _microsoft() -> ModelProto:
    made = classifier()
    found = node(made.graph, "r1")
    found.op_type, found.domain = "QuickGelu", "com.microsoft"
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return made


def _no_kernel() -> ModelProto:
    """A type that ONNX allows and ONNX Runtime has no kernel for."""
    made = classifier()
    graph = Graph()
    graph.node("Cast", "wide", "x", to=TensorProto.DOUBLE)
    graph.node("LpNormalization", "pooled", "wide", axis=1)
    graph.node("GlobalLpPool", "lp", "wide")
    graph.node("Cast", "back", "pooled", to=TensorProto.FLOAT)
    for place, one in enumerate(graph.nodes):
        made.graph.node.insert(place, one)
    node(made.graph, "c1").input[0] = "back"
    return made


proto("a custom operator", "custom-operators", make=_custom)
proto("a function of the model's own", make=_function)
proto("an operator that only ONNX Runtime has", make=_microsoft, reference=_microsoft)
proto("an operator that only ONNX Runtime has, elsewhere", "custom-operators", make=_microsoft, reference=_microsoft,
      device="jetson")  # fmt: skip
proto("a type without a kernel", "session", make=_no_kernel)
proto("an opset newer than the device reads", "opset", make=lambda: classifier(opset=22, ir=10), device="cpu")
proto("an opset that no runtime here reads", "session", make=lambda: classifier(opset=28, ir=11))
proto("too large", "size", make=classifier, max_size_mb=0.001)
proto("unsigned integers for TensorRT", "operators", make=quantized, device="jetson")


# ---- the interface

proto("an input of another name", "inputs", make=lambda: classifier(names=("image", "y")))
proto("an output of another name", "outputs", make=lambda: classifier(names=("x", "logits")))
proto("a batch that is fixed", make=lambda: classifier(batch=1))
proto("a batch that is fixed to three", make=lambda: classifier(batch=3))


def _layout() -> ModelProto:
    made = classifier()
    made.graph.node.insert(0, helper.make_node("Transpose", ["x"], ["nchw"], "turn", perm=[0, 3, 1, 2]))
    node(made.graph, "c1").input[0] = "nchw"
    for axis, size in zip(made.graph.input[0].type.tensor_type.shape.dim[1:], (8, 8, 3), strict=True):
        axis.dim_value = size
    return made


proto("channels last", "inputs", "run", make=_layout)


def _fewer_classes() -> ModelProto:
    made = change(change(classifier(), "fc.w", lambda array: array[:-1]), "fc.b", lambda array: array[:-1])
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES - 1
    return made


def _wide_output() -> ModelProto:
    made = classifier()
    made.graph.node.append(helper.make_node("Cast", ["y"], ["wide"], "wide", to=TensorProto.DOUBLE))
    made.graph.output[0].name = "wide"
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return made


def _second_output() -> ModelProto:
    made = classifier()
    made.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", FLAT]))
    return made


def _second_input() -> ModelProto:
    made = classifier()
    made.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]))
    node(made.graph, "flat").input[0] = "scaled"
    place = next(place for place, one in enumerate(made.graph.node) if one.name == "flat")
    made.graph.node.insert(place, helper.make_node("Mul", ["pool", "scale"], ["scaled"], "scaled"))
    return made


proto("fewer classes", "outputs", "parity-sqnr", make=_fewer_classes)
proto("an output of doubles", "outputs", make=_wide_output)
proto("an output too many", "outputs", make=_second_output)
proto("an output that is missing", "outputs", make=classifier, reference=_second_output)
proto("an input too many", "inputs", make=_second_input)


def _baked_batch() -> ModelProto:
    """Declared free, and reshaped to one sample inside."""
    made = classifier()
    place = next(place for place, one in enumerate(made.graph.node) if one.name == "flat")
    made.graph.initializer.append(numpy_helper.from_array(np.array([1, FLAT]), "one"))
    made.graph.node.remove(made.graph.node[place])
    made.graph.node.insert(place, helper.make_node("Reshape", ["pool", "one"], ["flat"], "flat"))
    return made


def _tokens(length: Any = "T", positions: int = 64) -> ModelProto:
    """Token ids and a mask, both [N, T]: embeddings with positions, averaged over the unmasked ones."""
    generator, graph = np.random.default_rng(1), Graph()
    graph.constant("words", generator.standard_normal((16, 8)))
    graph.constant("places", generator.standard_normal((positions, 8)))
    for name, value in (("zero", [0]), ("one", [1]), ("two", [2])):
        graph.constant(name, value, np.int64)
    graph.node(
        "Slice",
        "here",
        "places",
        "zero",
        graph.node("Slice", "length", graph.node("Shape", "shape", "ids"), "one", "two"),
    )
    graph.node("Add", "tokens", graph.node("Gather", "embedded", "words", "ids"), "here")
    weight = graph.node("Unsqueeze", "weight", graph.node("Cast", "kept", "mask", to=TensorProto.FLOAT), "two")
    graph.node("ReduceMean", "mean", graph.node("Mul", "masked", "tokens", weight), axes=[1], keepdims=0)
    graph.node("MatMul", "logits", "mean", graph.constant("head", generator.standard_normal((8, 4))))
    ids = [(name, ["N", length], TensorProto.INT64) for name in ("ids", "mask")]
    return graph.model(ids, [("logits", ["N", 4])])


def _fixed_length() -> ModelProto:
    """Declared free, and added to positions for 32 tokens."""
    made = change(_tokens(), "places", lambda array: array[:32])
    node(made.graph, "tokens").input[1] = "places"
    return made


proto("a batch baked into a Reshape", "dynamic-axes", make=_baked_batch)
proto("a length baked into a constant", "dynamic-axes", make=_fixed_length, reference=_tokens)


# ---- behaviour


def _inserted(name: str, kind: str, *more: str, **attributes: Any) -> ModelProto:
    """The classifier with a node behind another one."""
    made = classifier()
    for other in made.graph.node:
        other.input[:] = [f"{name}.then" if value == name else value for value in other.input]
    place = next(place for place, one in enumerate(made.graph.node) if one.name == name)
    made.graph.node.insert(
        place + 1, helper.make_node(kind, [name, *more], [f"{name}.then"], f"{name}.then", **attributes)
    )
    return made


def _logarithm() -> ModelProto:
    return _inserted("sum", "Log")


def _dead() -> ModelProto:
    return change(classifier(), "fc.w", np.zeros_like)


def _noise() -> ModelProto:
    made = classifier()
    made.graph.node.insert(0, helper.make_node("RandomNormalLike", ["x"], ["noise"], "noise"))
    made.graph.node.insert(1, helper.make_node("Add", ["x", "noise"], ["noisy"], "noisy"))
    node(made.graph, "c1").input[0] = "noisy"
    return made


def _dropout() -> ModelProto:
    made = _inserted("flat", "Dropout", "half", "on")
    half, on = numpy_helper.from_array(np.float32(0.5), "half"), numpy_helper.from_array(np.array(True), "on")
    made.graph.initializer.extend([half, on])
    return made


def _training_mode() -> ModelProto:
    """BatchNormalization that takes its statistics from the batch."""
    made = classifier(batchnorm=True)
    found = node(made.graph, "c1.bn")
    found.output.extend(["c1.mean", "c1.var"])
    found.attribute.append(helper.make_attribute("training_mode", 1))
    return made


def _softmax_over_batch() -> ModelProto:
    made = classifier()
    made.graph.node.append(helper.make_node("Softmax", ["y"], ["p"], "p", axis=0))
    made.graph.output[0].name = "p"
    return made


def _probabilities() -> ModelProto:
    made = _softmax_over_batch()
    return attribute(made, "p", axis=1)


proto("a logarithm of what is negative", "finite", make=_logarithm)
proto("an output that is dead", "constant", *PARITY, make=_dead)
proto("noise", "determinism", "batch-invariance", *PARITY, make=_noise)
proto("dropout left on", "determinism", make=_dropout)
proto(
    "batch statistics", "batch-invariance", *PARITY, make=_training_mode, reference=lambda: classifier(batchnorm=True)
)
proto("softmax over the batch", "batch-invariance", *PARITY, make=_softmax_over_batch, reference=_probabilities)


# ---- quantization


def _negative_scale() -> ModelProto:
    return change(quantized(), "x.s", lambda array: -array)


def _other_scale() -> ModelProto:
    made = quantized()
    made.graph.initializer.append(
        numpy_helper.from_array(numpy_helper.to_array(tensor(made.graph, "r1.s")) * 1.3, "wrong")
    )
    node(made.graph, "r1.dq").input[1] = "wrong"
    return made


def _other_zero() -> ModelProto:
    made = quantized()
    zero = numpy_helper.to_array(tensor(made.graph, "x.z"))
    made.graph.initializer.append(numpy_helper.from_array(np.asarray(zero + 90, zero.dtype), "wrong"))
    node(made.graph, "x.dq").input[2] = "wrong"
    return made


def _signed_for_unsigned() -> ModelProto:
    """The bytes of unsigned activations read as signed ones, as a runtime that ignores the type does."""
    made = quantized()
    for kind, name in (("QuantizeLinear", "x.q"), ("DequantizeLinear", "x.dq")):
        assert node(made.graph, name).op_type == kind
    zero = tensor(made.graph, "x.z")
    zero.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zero).view(np.int8), "x.z"))
    return made


def _wrong_axis() -> ModelProto:
    return attribute(quantized(), "c2.w.dq", axis=1)


def _axis_beyond() -> ModelProto:
    return change(change(quantized(), "fc.w.s", lambda array: array[:-1]), "fc.w.z", lambda array: array[:-1])


def _unused() -> ModelProto:
    made = quantized()
    made.graph.node.append(helper.make_node("QuantizeLinear", ["sum", "r1.s", "r1.z"], ["lost"], "lost"))
    return made


def _integers_as_numbers() -> ModelProto:
    made = quantized()
    found = node(made.graph, "r1.dq")
    found.op_type = "Cast"
    del found.input[1:]
    found.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    return made


def _only_pairs() -> ModelProto:
    """Q and DQ around a Relu, and no layer between integers."""
    made = classifier()
    graph = made.graph
    graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.04), "s"), numpy_helper.from_array(np.uint8(0), "z")]
    )
    node(graph, "flat").input[0] = "pool.dq"
    place = next(place for place, one in enumerate(graph.node) if one.name == "flat")
    graph.node.insert(place, helper.make_node("QuantizeLinear", ["pool", "s", "z"], ["pool.q"], "pool.q"))
    graph.node.insert(place + 1, helper.make_node("DequantizeLinear", ["pool.q", "s", "z"], ["pool.dq"], "pool.dq"))
    return made


def _narrow() -> ModelProto:
    return change(quantized(), "x.s", lambda array: array / 4)


def _swapped() -> ModelProto:
    """The scales of two output channels, mixed up."""
    made = change(quantized(), "fc.w.s", lambda array: array[::-1].copy())
    return change(made, "fc.w.s", lambda array: array * np.array([40, 1, 1, 1, 0.02], np.float32))


proto("integers as they should be", make=quantized)
proto("integers for integers", make=quantized, reference=quantized)
proto("signed integers as they should be", make=lambda: quantized(kind=np.int8))
proto("a scale below zero", "qdq-parameters", make=_negative_scale)
proto("a DQ with another scale than its Q", "qdq-parameters", make=_other_scale)
proto("a DQ with another zero point than its Q", "qdq-parameters", "parity-sqnr", "parity-cosine", make=_other_zero)
proto("signed integers for unsigned ones", "parity-sqnr", make=_signed_for_unsigned)
proto("scales along the input channels", "qdq-axes", make=_wrong_axis)
proto("fewer scales than channels", "qdq-axes", "run", make=_axis_beyond)
proto("a Q that nothing uses", "qdq-dangling", make=_unused)
proto("a Q without a DQ", "qdq-dangling", "parity-sqnr", "parity-cosine", make=_integers_as_numbers)
proto("Q and DQ around no layer", "qdq-present", make=_only_pairs)
proto("a float file that is said to be int8", "qdq-present", make=classifier, precision="int8")
proto("a float file that is said to be float16", "precision", make=classifier, precision="fp16")
proto("a range that is too narrow", "qdq-saturation", "parity-sqnr", make=_narrow, data="samples")
proto("scales of channels mixed up", "parity-sqnr", "parity-cosine", make=_swapped)


# ---- what it computes

proto("stale weights", *PARITY, make=lambda: classifier(seed=5))
proto("classes in another order", *PARITY, make=lambda: change(classifier(), "fc.w", lambda array: array[::-1]))
proto("padding on the wrong side", *PARITY, make=lambda: attribute(classifier(), "c2", pads=[2, 2, 0, 0]))
proto("an activation that is another one", *PARITY, make=lambda: operator(classifier(), "r2", "Tanh"))
proto("an activation that is missing", *PARITY, make=lambda: without(classifier(), "r1"))
proto("its own reference", make=classifier)
proto("another network", make=lambda: classifier(width=4))


# ---- tricky, and sound


@entry("external data")
def _(folder: Path) -> Path:
    return _external(folder, lambda there: None)


@entry("external data in a folder below")
def _(folder: Path) -> Path:
    (folder / "parts").mkdir()
    onnx.save(classifier(), folder / "model.onnx", **{**EXTERNAL, "location": "parts/weights.bin"})
    return folder / "model.onnx"


def _multi() -> ModelProto:
    """Two inputs with samples, one without."""
    graph = Graph()
    pixels = graph.node("GlobalAveragePool", "pooled", "image")
    both = graph.node("Concat", "both", graph.node("Flatten", "flat", pixels), "extra", axis=1)
    scaled = graph.node("Mul", "scaled", both, "scale")
    weight = graph.constant("w", np.random.default_rng(2).standard_normal((7, 4)))
    graph.node("MatMul", "a", scaled, weight)
    graph.node("ReduceSum", "b", "a", graph.constant("axis", [1], np.int64))
    inputs = [("image", ["N", *SHAPE]), ("extra", ["N", 4]), ("scale", [1])]
    return graph.model(inputs, [("a", ["N", 4]), ("b", ["N", 1])])


def _half() -> ModelProto:
    """The classifier in float16, with inputs and outputs in float32."""
    made = classifier()
    for one in made.graph.initializer:
        one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float16), one.name))
    made.graph.node.insert(0, helper.make_node("Cast", ["x"], ["x.half"], "down", to=TensorProto.FLOAT16))
    node(made.graph, "c1").input[0] = "x.half"
    last = made.graph.node[-1]
    last.output[0] = "y.half"
    made.graph.node.append(helper.make_node("Cast", ["y.half"], ["y"], "up", to=TensorProto.FLOAT))
    return made


def _dynamic_integers() -> ModelProto:
    """Quantized while it runs: the scale of an activation is that of its batch."""
    generator, graph = np.random.default_rng(3), Graph()
    values = generator.standard_normal((12, 5))
    scale = np.abs(values).max() / 127
    graph.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["x.q", "x.s", "x.z"], "q"))
    graph.constant("w.q", np.round(values / scale), np.int8)
    whole = graph.node("MatMulInteger", "whole", "x.q", "w.q", "x.z")
    graph.node("Mul", "s", "x.s", graph.constant("w.s", scale))
    graph.node("Mul", "y", graph.node("Cast", "f", whole, to=TensorProto.FLOAT), "s")
    return graph.model([("x", ["N", 12])], [("y", ["N", 5])])


def _dynamic_origin() -> ModelProto:
    graph = Graph()
    graph.node("MatMul", "y", "x", graph.constant("w", np.random.default_rng(3).standard_normal((12, 5))))
    return graph.model([("x", ["N", 12])], [("y", ["N", 5])])


def _branches() -> ModelProto:
    """An If whose branches hold the weights, as exporters write control flow."""
    graph = Graph()
    graph.node("Greater", "positive", graph.node("ReduceMean", "mean", "x", keepdims=0), graph.constant("zero", 0.0))

    def branch(name: str, factor: float) -> Any:
        weight = np.random.default_rng(4).standard_normal((12, 5)).astype(np.float32) * factor
        output = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        inner = [numpy_helper.from_array(weight, f"{name}.w")]
        return helper.make_graph([helper.make_node("MatMul", ["x", f"{name}.w"], [name])], name, [], output, inner)

    graph.node("If", "y", "positive", then_branch=branch("yes", 1.0), else_branch=branch("no", 1.0))
    return graph.model([("x", ["N", 12])], [("y", ["N", 5])])


def _labels() -> ModelProto:
    made = classifier()
    made.graph.node.append(helper.make_node("ArgMax", ["y"], ["label"], "label", axis=1, keepdims=0))
    made.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]))
    return made


def _old_style() -> ModelProto:
    """Weights listed among the inputs, as before IR 4."""
    made = classifier(opset=11, ir=6)
    for one in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(one.name, one.data_type, one.dims))
    return made


def _masked() -> ModelProto:
    """A constant of minus infinity, which masks: not a weight that is broken."""
    made = classifier()
    mask = np.zeros((1, CLASSES), np.float32)
    mask[0, 2] = -np.inf
    made.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    made.graph.node.append(helper.make_node("Add", ["y", "mask"], ["masked"], "masked"))
    made.graph.node.append(helper.make_node("Softmax", ["masked"], ["p"], "p", axis=1))
    made.graph.output[0].name = "p"
    return made


def _odd_names() -> ModelProto:
    made = classifier()
    node(made.graph, "r1").name = '<script>alert("1")</script>\x1b[31m|`'
    made.graph.doc_string = "\x00"
    return made


proto("several inputs and outputs", make=_multi, reference=_multi)
proto("tokens and a mask of any length", make=_tokens, reference=_tokens)
proto("tokens of a fixed length", make=lambda: _tokens(length=32), reference=_tokens)
proto("float16", make=_half)
proto("BatchNormalization", make=lambda: classifier(batchnorm=True), reference=lambda: classifier(batchnorm=True))
proto("integers whose scale is found while it runs", make=_dynamic_integers, reference=_dynamic_origin)
proto("branches", make=_branches, reference=_branches)
proto("labels beside the answers", make=_labels, reference=_labels)
proto("weights among the inputs", make=_old_style)
proto("a mask of infinities", make=_masked, reference=_masked)
proto("names that are markup", make=_odd_names)
for _opset, _ir in (
    (11, 6),
    (12, 7),
    (13, 7),
    (15, 8),
    (18, 8),
    (19, 9),
    (20, 9),
    (21, 10),
    (22, 10),
    (23, 11),
    (24, 11),
    (25, 11),
    (26, 11),
):
    proto(f"opset {_opset}", make=lambda opset=_opset, ir=_ir: classifier(opset=opset, ir=ir))  # type: ignore[misc]


def _by_onnx_runtime(folder: Path, **options: Any) -> Path:
    """Return what ONNX Runtime's own quantizer makes of the classifier."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"x": samples()}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    save(classifier(), folder / "float.onnx")
    quantization.quantize_static(
        folder / "float.onnx", folder / "model.onnx", Reader(), reduce_range=True,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8, **options,
    )  # fmt: skip
    return folder / "model.onnx"


@entry("integers by ONNX Runtime", data="samples")
def _(folder: Path) -> Path:
    return _by_onnx_runtime(folder, per_channel=True)


@entry("operators on integers by ONNX Runtime", data="samples")
def _(folder: Path) -> Path:
    from onnxruntime.quantization import QuantFormat

    return _by_onnx_runtime(folder, quant_format=QuantFormat.QOperator)


@entry("integers by NNCF", data="samples")
def _(folder: Path) -> Path:
    import nncf

    images = nncf.Dataset([{"x": image[None]} for image in samples()])
    return save(nncf.quantize(classifier(opset=13), images, subset_size=SAMPLES), folder / "model.onnx")
