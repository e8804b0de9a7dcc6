"""Which layers can be factorized, which are refused and why, and what a layer does for one sample."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from edgekd.compress import factorable
from edgekd.errors import StageError

from .small import Parts


def in_turn(net: Parts, x: Tensor) -> Tensor:
    for layer in net.children():
        x = layer(x)
    return x


class Standardized(nn.Conv2d):
    """Standardizes its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda *_: None)
    return layer


SHARED = nn.Conv2d(4, 4, 3, padding=1)
IMAGES = torch.zeros(1, 4, 8, 8)
ROWS = torch.zeros(1, 5, 16)
REFUSED = {
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), "a depthwise convolution (4 groups)"),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2), "a grouped convolution (2 groups)"),
    "transposed": (nn.ConvTranspose2d(4, 4, 3), "a transposed convolution, which this stage does not do"),
    "own kind": (
        Standardized(4, 4, 3),
        "a Standardized: what it does besides its product would be lost",
    ),
    "parametrized": (weight_norm(nn.Conv2d(4, 4, 3)), "a ParametrizedConv2d: what it does besides"),
    "hooked": (hooked(nn.Conv2d(4, 4, 3)), "it has hooks, which would be lost"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_kind_of_layer_is_refused_with_the_reason(kind):
    layer, reason = REFUSED[kind]
    model = Parts(in_turn, first=nn.Conv2d(4, 4, 1), other=layer).eval()
    (found,) = factorable.unfit(model, (), IMAGES).items()
    assert found[0] == "other"
    assert found[1].startswith(reason)


def tied() -> nn.Module:
    model = Parts(in_turn, one=nn.Linear(16, 16), two=nn.Linear(16, 16), three=nn.Linear(16, 16))
    model.three.weight = model.one.weight
    return model


NEEDED = {
    "a weight that is read": (
        lambda: Parts(lambda m, x: F.linear(m.one(x), m.two.weight), one=nn.Linear(16, 16), two=nn.Linear(16, 16)),
        {"two": "the network needs more of it than what it gives: 'Sequential' object has no attribute 'weight'"},
    ),
    "a size that is read": (
        lambda: Parts(lambda m, x: m.one(x)[..., : m.one.out_features], one=nn.Linear(16, 16)),
        {"one": "the network needs more of it than what it gives: 'Sequential' object has no attribute 'out_features'"},
    ),
    "one layer under two names": (
        lambda: Parts(lambda m, x: m.c(m.b(m.a(x))), a=SHARED, b=SHARED, c=nn.Conv2d(4, 4, 1)),
        {"a": "it shares its weights with b", "b": "it shares its weights with a"},
    ),
    "tied weights": (tied, {"one": "it shares its weights with three", "three": "it shares its weights with one"}),
    "a transformer that looks into its linear layers": (
        lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        {
            "self_attn.out_proj": "a NonDynamicallyQuantizableLinear: what it does besides its product would be lost",
            "linear1": "the network needs more of it than what it gives: 'Sequential' object has no attribute 'weight'",
            "linear2": "the network needs more of it than what it gives: 'Sequential' object has no attribute 'weight'",
        },
    ),
}


@pytest.mark.parametrize("name", NEEDED)
def test_a_layer_that_others_need_is_refused(name):
    make, expected = NEEDED[name]
    model = make().eval()
    before = dict(model.named_modules(remove_duplicate=False))
    images = any(isinstance(module, nn.Conv2d) for module in model.modules())
    assert factorable.unfit(model, (), IMAGES if images else ROWS) == expected
    assert dict(model.named_modules(remove_duplicate=False)) == before


def test_what_is_excluded_goes_with_all_that_is_in_it():
    inner = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    model = Parts(in_turn, one=nn.Linear(16, 16), inner=inner)
    assert factorable.unfit(model, ("inner",), ROWS) == {"inner.0": "excluded", "inner.2": "excluded"}
    with pytest.raises(StageError, match=r"factorize: no layer 'iner' to exclude; did you mean \"inner\"\?"):
        factorable.unfit(model, ("one", "iner"), ROWS)


def test_points_are_counted_over_all_calls():
    """A 3x3 convolution of stride 2 reads 64 points and writes 16; a linear layer works on each of 5 rows."""
    model = Parts(lambda m, x: m.b(m.a(x)) + m.b(m.a(x)), a=nn.Conv2d(4, 6, 3, 2, 1), b=nn.Conv2d(6, 3, (1, 3)))
    found = factorable.work(model, dict(factorable.layers(model)), IMAGES)
    assert {name: (one.given, one.gives) for name, one in found.items()} == {"a": (128, 32), "b": (32, 16)}
    model = Parts(lambda m, x: m.a(x), a=nn.Linear(16, 4), unused=nn.Linear(4, 4))
    found = factorable.work(model, dict(factorable.layers(model)), ROWS)
    assert {name: (one.given, one.gives) for name, one in found.items()} == {"a": (5, 5)}
    model = Parts(in_turn, a=nn.Conv1d(2, 3, 5))
    assert factorable.work(model, {"a": model.a}, torch.zeros(1, 2, 20))["a"].gives == 16
