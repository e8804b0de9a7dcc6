"""What bridges features of different shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d

from edgekd.distill.adapters import adapter, resize

SIZES = st.integers(1, 9)
MAPS = st.tuples(st.integers(1, 4), SIZES, SIZES)


@given(MAPS, MAPS)
@settings(max_examples=50)
def test_maps_get_the_teachers_shape(student, teacher):
    module = adapter(student, teacher)
    assert (module is None) == (student == teacher)
    if module is not None:
        assert module(torch.randn(2, *student)).shape == (2, *teacher)


@pytest.mark.parametrize(("student", "teacher"), [((5,), (7,)), ((5, 4, 3), (7,)), ((5, 4, 3), (5,)), ((6, 5), (6, 7))])
def test_vectors_and_sequences_get_the_teachers_shape(student, teacher):
    assert adapter(student, teacher)(torch.randn(2, *student)).shape == (2, *teacher)


@pytest.mark.parametrize("shape", [(5,), (5, 4), (5, 4, 3), (2, 3, 4, 5)])
def test_equal_shapes_need_none(shape):
    assert adapter(shape, shape) is None


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((5,), (5, 4, 4)),
        ((5,), (4, 5)),
        ((4, 5), (5,)),
        ((4, 5), (6, 5)),
        ((4, 5), (6, 7)),
        ((5, 4, 4), (16, 5)),
        ((1, 2, 3, 4), (2, 2, 3, 4)),
        ((), (5,)),
        ((5, 0, 4), (5, 4, 4)),
    ],
)
def test_what_cannot_be_bridged_is_said_with_both_shapes(student, teacher):
    with pytest.raises(ValueError, match="no adapter") as caught:
        adapter(student, teacher)
    assert str(student) in str(caught.value)
    assert str(teacher) in str(caught.value)


def test_the_weights_come_from_torchs_seed():
    def drawn(seed):
        torch.manual_seed(seed)
        return torch.cat([parameter.flatten() for parameter in adapter((3, 8, 8), (5, 4, 4)).parameters()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize("size", [(4, 4), (16, 16), (4, 16), (3, 5)])
def test_convolving_before_or_after_the_size_changes_is_the_same(size):
    torch.manual_seed(0)
    module = adapter((3, 8, 8), (5, *size)).double()
    maps = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    weight, bias = module.convolution.weight.flatten(1), module.convolution.bias
    converted = torch.einsum("bchw,dc->bdhw", maps, weight) + bias[:, None, None]
    torch.testing.assert_close(module(maps), resize(converted, size))
    torch.testing.assert_close(
        module(maps), torch.einsum("bchw,dc->bdhw", resize(maps, size), weight) + bias[:, None, None]
    )


def test_a_longer_axis_is_averaged_and_a_shorter_one_interpolated():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    torch.testing.assert_close(resize(maps, (2, 2)), avg_pool2d(maps, 2))
    line = torch.tensor([[[[0.0, 1.0]]]])
    torch.testing.assert_close(resize(line, (1, 4)), torch.tensor([[[[0.0, 0.25, 0.75, 1.0]]]]))
    torch.testing.assert_close(resize(line.expand(1, 1, 4, 2), (2, 4)), torch.tensor([[[[0.0, 0.25, 0.75, 1.0]] * 2]]))
    assert resize(maps, (4, 4)) is maps


def test_a_map_becomes_a_vector_by_its_mean():
    module = adapter((3, 4, 4), (5,))
    maps = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(module(maps), maps.mean((2, 3)) @ module.linear.weight.T + module.linear.bias)


@pytest.mark.parametrize(
    ("student", "teacher"), [((3, 8, 8), (5, 4, 4)), ((3, 4, 4), (5, 8, 8)), ((3,), (5,)), ((3, 4, 4), (5,))]
)
def test_gradients_reach_the_student_and_every_weight_and_half_precision_is_widened(student, teacher):
    module = adapter(student, teacher)
    features = torch.randn(2, *student, dtype=torch.bfloat16, requires_grad=True)
    adapted = module(features)
    assert adapted.dtype is torch.float32
    adapted.square().sum().backward()
    assert features.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())
