from fractions import Fraction

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import StageError, UsageError
from edgekd.graph.dyeing import Dye, OpenError, derive
from edgekd.graph.template import Size, instance, load

DYE = Dye({"a": (16, 5, 9), "b": (16, 11, 6), "c": (8, 7, 3)})


@pytest.mark.parametrize(
    ("numbers", "size"),
    [
        ((3, 3, 3), Size(3)),
        ((-1, -1, -1), Size(-1)),
        ((16, 11, 6), Size(0, (("b", Fraction(1)),))),
        ((8 * 49, 7 * 49, 3 * 49), Size(0, (("c", Fraction(49)),))),
        ((19, 8, 12), Size(3, (("a", Fraction(1)),))),
        ((32, 16, 15), Size(0, (("a", Fraction(1)), ("b", Fraction(1))))),
        ((40, 17, 21), Size(0, (("a", Fraction(2)), ("c", Fraction(1))))),
    ],
)  # fmt: skip
def test_a_size_is_the_simplest_sum_of_widths(numbers, size):
    assert DYE.explain(numbers, "a size") == size
    widths = {group: of[1] for group, of in DYE.widths.items()}
    assert size.of(widths) == numbers[1]


def test_a_size_that_is_no_sum_is_told_with_where_it_is():
    with pytest.raises(OpenError, match="axis 1 of w: 7, 6, 100 do not follow from the widths"):
        DYE.explain((7, 6, 100), "axis 1 of w")


def test_a_size_that_may_be_several_is_not_guessed():
    dye = Dye({"a": (8, 4), "b": (16, 8)})
    with pytest.raises(OpenError, match="8, 4 may be 1 x a or 1/2 x b"):
        dye.explain((8, 4), "axis 0 of w")


def product(width):
    """Return x (batch, 4) through matrices of (4, width) and (width, 2), repeated 4 times the width."""
    constants = {"w": np.ones((4, width), np.float32), "v": np.ones((width, 2), np.float32)}
    constants["s"] = np.array([1, 4 * width])
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["y"], "first"),
        helper.make_node("Gemm", ["y", "v"], ["u"], "second"),
        helper.make_node("Tile", ["u", "s"], ["t"], "third"),
    ]
    return model(nodes, constants, {"x": 4}, ["t"])


def model(nodes, constants, inputs, outputs):
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_weights_and_constants_that_say_shapes_follow_the_width():
    widths = [{"a": 6}, {"a": 3}, {"a": 5}]
    template = derive([product(of["a"]) for of in widths], widths)
    made = {tensor.name: numpy_helper.to_array(tensor) for tensor in instance(template, {"a": 4}).graph.initializer}
    assert (made["w"].shape, made["v"].shape, made["s"].tolist()) == ((4, 4), (4, 2), [1, 16])
    assert {name: template.values[name][1] for name in template.values} == {"s": Size(0, (("a", Fraction(4)),))}


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"a": 7}, "a has 1 to 6 channels, not 7"),
        ({"a": 0}, "a has 1 to 6 channels, not 0"),
        ({"a": 5}, "a is 2 equal parts: 5 channels are no multiple of that"),
        ({"aa": 4}, "there is no group of channels 'aa'; did you mean \"a\"?"),
    ],
)
def test_widths_that_cannot_be(widths, message):
    template = derive([product(6), product(4)], [{"a": 6}, {"a": 4}], {"a": 2})
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        instance(template, widths)


def test_a_constant_that_two_layers_share_at_full_width_is_parted_where_their_widths_differ():
    """The exporter stores equal values once: zero biases of layers that are equally wide."""

    def net(one, other):
        tensors = {f"w{i}": np.ones((size, 1), np.float32) for i, size in ((0, one), (1, other))}
        biases = {f"b{size}": np.zeros(size, np.float32) for size in (one, other)}
        nodes = [
            helper.make_node("Gemm", ["x", f"w{i}", f"b{size}"], [f"y{i}"], f"layer{i}", transB=1)
            for i, size in ((0, one), (1, other))
        ]  # fmt: skip
        return model(nodes, {**tensors, **biases}, {"x": 1}, ["y0", "y1"])

    widths = [{"a": 8, "b": 8}, {"a": 3, "b": 5}]
    template = derive([net(8, 8), net(3, 5)], widths)
    made = instance(template, {"a": 2, "b": 7})
    shapes = {tensor.name: tuple(tensor.dims) for tensor in made.graph.initializer}
    assert [[shapes[name] for name in node.input[1:]] for node in made.graph.node] == [[(2, 1), (2,)], [(7, 1), (7,)]]


def test_other_operators_are_told():
    one, other = product(6), product(4)
    other.graph.node[1].op_type = "MatMul"
    with pytest.raises(StageError, match=r"second \(Gemm: .* became second \(MatMul: "):
        derive([one, other], [{"a": 6}, {"a": 4}])


def test_a_folder_without_a_template_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no template of a network"):
        load(tmp_path)
