"""Cut from a template, a network is what an export of the pruned network gives, but for the values of its weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from edgekd import models
from edgekd.compress import channels, quantization
from edgekd.compress.template import make_template
from edgekd.device import Scheme
from edgekd.errors import StageError
from edgekd.graph.export import export_onnx
from edgekd.graph.template import instance, load, save
from edgekd.models.resnet import build
from edgekd.stages.prune import Options

SHAPE = (1, 8, 8)
SCHEME = Scheme(activations="u8", reduce_range=True)


class Everything(nn.Module):
    """Depthwise and grouped convolutions, an addition, a concatenation, a flattened map, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 16, 1)
        self.grouped = nn.Conv2d(16, 12, 3, padding=1, groups=4)
        self.same = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(20, 10, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(10 * 2 * 2, 24)
        self.head = nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        left = relu(self.grouped(relu(self.point(relu(self.depthwise(x))))))
        right = relu(self.same(x) + x)
        x = self.pool(relu(self.last(torch.cat([left, right], 1))))
        return self.head(relu(self.hidden(x.flatten(1))))


def everything() -> nn.Module:
    torch.manual_seed(0)
    return Everything().eval()


def exported(model, scheme, path):
    """Return the true export of a network."""
    example, layers = (models.example(SHAPE),), None
    if scheme is not None:
        prepared = quantization.prepare(model, example, scheme)
        quantization.calibrate(prepared, [torch.randn(4, *SHAPE)])
        layers = len(quantization.quantized_layers(prepared))
        model = quantization.convert(prepared)
    export_onnx(
        model, example, path, input_names=["input"], output_names=["logits"], metadata={}, max_opset=20,
        quantized_layers=layers,
    )  # fmt: skip
    return onnx.load(path)


def form(model):
    """Return every operator with its attributes, links, and the shape and type of each constant that it takes."""
    stored = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer}
    places = {
        tensor.name: onnx.numpy_helper.to_array(tensor).tolist()
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64
    }
    found = []
    for node in model.graph.node:
        inputs = [(stored.get(name, name), places.get(name)) for name in node.input]
        attributes = [attribute.SerializeToString(deterministic=True) for attribute in node.attribute]
        found.append((node.name, node.op_type, list(node.output), inputs, attributes))
    return found


@pytest.mark.parametrize("scheme", [None, SCHEME], ids=["float", "int8"])
def test_an_instance_is_the_export_of_the_pruned_network(scheme, tmp_path):
    template = make_template(everything, SHAPE, scheme)
    _, found = channels.groups(everything(), Options(), SHAPE)
    assert template.widths == {group.name: group.channels for group in found}
    assert template.steps["grouped"] == 4
    widths = {group: {8: 5, 10: 9, 12: 8, 16: 8, 24: 7}[full] for group, full in template.widths.items()}
    pruned = everything()
    channels.remove(pruned, Options(widths=widths), SHAPE)
    true = exported(pruned, scheme, tmp_path / "true.onnx")
    cut = instance(template, widths)
    assert form(cut) == form(true)
    onnx.checker.check_model(cut, full_check=True)
    x = np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32)
    (by_one,) = onnxruntime.InferenceSession(cut.SerializeToString()).run(None, {"input": x})
    onnx.save(cut, tmp_path / "cut.onnx")
    by_other = openvino.compile_model(tmp_path / "cut.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
    assert by_one.shape == (2, 3)
    np.testing.assert_allclose(by_one, by_other, atol=1e-5 if scheme is None else 0.1 * np.abs(by_one).max())
    if scheme is None:  # the first channels of the full network, and nothing else, are in it
        full = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in template.model.graph.initializer}
        for tensor in cut.graph.initializer:
            kept = onnx.numpy_helper.to_array(tensor)
            if tensor.name not in template.values:
                np.testing.assert_array_equal(kept, full[tensor.name][tuple(map(slice, kept.shape))])
    save(template, tmp_path)
    assert form(instance(load(tmp_path), widths)) == form(cut)


def test_blocks_are_taken_out_before_and_excluded_layers_keep_their_widths():
    def resnet() -> nn.Module:
        torch.manual_seed(0)
        return build(input_shape=SHAPE, classes=3, width=4, blocks=[1, 1]).eval()

    template = make_template(resnet, SHAPE, removed=["stages.0.0"], exclude=["stem"])
    assert set(template.widths) == {"stages.1.0.shortcut.0", "stages.1.0.conv1"}
    cut = instance(template, {"stages.1.0.conv1": 3})
    convolutions = [node for node in cut.graph.node if node.op_type == "Conv"]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in cut.graph.initializer}
    assert sorted(shapes[node.input[1]] for node in convolutions) == [
        (3, 4, 3, 3),
        (4, 1, 3, 3),
        (8, 3, 3, 3),
        (8, 4, 1, 1),
    ]


class Branching(nn.Module):
    """Has another structure where it is narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.head(relu(x) if x.shape[1] == 8 else torch.sigmoid(x))


def test_a_network_whose_structure_depends_on_its_widths_is_refused_with_what_differs():
    with pytest.raises(StageError, match=r"another structure where channels are fewer: .*Relu.* became .*Sigmoid"):
        make_template(Branching, (4,))
