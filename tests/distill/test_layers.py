"""Named layers: what is listed, what a paper would take, and what is seen while a network runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgekd.distill.layers import Layer, Taps, layers, shapes, usual
from edgekd.errors import StageError
from edgekd.models import convnet, mlp, resnet

IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BUILT = {
    "mlp": mlp.build(input_shape=[1, 8, 8], classes=10, widths=[12, 6]),
    "convnet": convnet.build(input_shape=[1, 8, 8], classes=10, width=4, blocks=[1, 1]),
    "resnet": resnet.build(input_shape=[1, 8, 8], classes=10, width=4, blocks=[1, 2]),
}


def test_an_mlp():
    assert layers(BUILT["mlp"], IMAGES) == [
        Layer("0", "Flatten", (64,), (1, 8, 8)),
        Layer("1", "Linear", (12,), (64,)),
        Layer("2", "ReLU", (12,), (12,)),
        Layer("3", "Linear", (6,), (12,)),
        Layer("4", "ReLU", (6,), (6,)),
        Layer("5", "Linear", (10,), (6,)),
    ]


def test_a_convnet():
    found = {layer.name: layer for layer in layers(BUILT["convnet"], IMAGES)}
    assert found["2"] == Layer("2", "ReLU", (4, 8, 8), (4, 8, 8))
    assert found["3"] == Layer("3", "Conv2d", (8, 4, 4), (4, 8, 8))
    assert found["6"] == Layer("6", "AdaptiveAvgPool2d", (8, 1, 1), (8, 4, 4))
    assert list(found)[-1] == "8"


def test_a_resnet_with_the_stages_after_what_is_inside_of_them():
    found = layers(BUILT["resnet"], IMAGES)
    shape = {layer.name: layer.shape for layer in found}
    assert (shape["stem"], shape["stages.0"], shape["stages.1"]) == ((4, 8, 8), (4, 8, 8), (8, 4, 4))
    assert (shape["stages.1.1.conv2"], shape["stages"], shape["head"]) == ((8, 4, 4), (8, 4, 4), (10,))
    names = [layer.name for layer in found]
    assert names.index("stages.1.0.conv1") < names.index("stages.1.0") < names.index("stages.1") < names.index("stages")
    assert found[-1] == Layer("head", "Linear", (10,), (8,))


def test_looking_leaves_no_trace():
    model = BUILT["resnet"].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers(model, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    broken = Broken()
    with pytest.raises(RuntimeError):
        layers(broken, IMAGES)
    assert not broken.inner._forward_hooks


@pytest.mark.parametrize(
    ("name", "last_map", "embedding"),
    [("mlp", "5:input", "5:input"), ("convnet", "5", "8:input"), ("resnet", "stages", "head:input")],
)
def test_the_layers_that_a_paper_would_take(name, last_map, embedding):
    found = layers(BUILT[name], IMAGES)
    assert usual(found, "map", "student") == last_map
    assert usual(found, "embedding", "student") == embedding
    (shape,) = shapes(found, [usual(found, "embedding", "student")], "student").values()
    (linear,) = [module for module in list(BUILT[name].modules())[-1:] if isinstance(module, nn.Linear)]
    assert shape == (linear.in_features,)


def test_a_network_without_a_linear_layer_ends_with_its_last_map():
    found = layers(nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU()), IMAGES)
    assert usual(found, "embedding", "student") == "1"
    with pytest.raises(StageError, match="the teacher big has no named layer"):
        usual([], "map", "teacher big")


def test_an_unknown_layer_is_told_with_the_nearest():
    found = layers(BUILT["resnet"], IMAGES)
    assert shapes(found, ["stages.1", "head:input"], "student") == {"stages.1": (8, 4, 4), "head:input": (8,)}
    with pytest.raises(StageError) as error:
        shapes(found, ["stages.1", "stage.0"], "teacher big")
    told = str(error.value)
    assert "the teacher big has no layer 'stage.0'; did you mean \"stages.0\"?" in told
    assert "edgekd recipe layers" in told


# ---- taps


def test_taps_see_what_layers_give_and_are_given():
    model = BUILT["resnet"].eval()
    taps = Taps(model, ["stages.0", "head", "head:input", "stages.0"], "student")
    outputs = model(IMAGES)
    seen = taps.take()
    assert seen.keys() == {"stages.0", "head", "head:input"}
    torch.testing.assert_close(seen["head"], outputs, rtol=0, atol=0)
    stage = model.stages[0](model.stem(IMAGES))
    torch.testing.assert_close(seen["stages.0"], stage, rtol=0, atol=0)
    torch.testing.assert_close(seen["head:input"] @ model.head.weight.T + model.head.bias, outputs)
    (gradient,) = torch.autograd.grad(seen["stages.0"].sum(), model.stem[0].weight)
    assert float(gradient.abs().sum()) > 0
    taps.close()
    assert not any(module._forward_hooks for module in model.modules())


def test_taps_are_of_the_last_run_and_forget_it():
    model = BUILT["mlp"]
    taps = Taps(model, ["1"], "student")
    model(IMAGES)
    model(IMAGES * 2)
    torch.testing.assert_close(taps.take()["1"], model[1](IMAGES.flatten(1) * 2))
    with pytest.raises(StageError, match="student: layer '1' did not run"):
        Taps(model, ["1"], "student").take()
    model[1](IMAGES.flatten(1))
    taps.take()
    with pytest.raises(StageError, match="did not run"):
        taps.take()
    taps.close()


def test_taps_give_float32_and_take_tensors_only():
    class Pairs(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    model = nn.Sequential(nn.Linear(2, 2, dtype=torch.bfloat16), Pairs())
    taps = Taps(model, ["0"], "student")
    model(torch.zeros(1, 2, dtype=torch.bfloat16))
    assert taps.take()["0"].dtype == torch.float32
    taps = Taps(model, ["1"], "teacher")
    model(torch.zeros(1, 2, dtype=torch.bfloat16))
    with pytest.raises(StageError, match="teacher: layer '1' gives tuple"):
        taps.take()
    assert [layer.name for layer in layers(model, torch.zeros(1, 2, dtype=torch.bfloat16))] == ["0"]
