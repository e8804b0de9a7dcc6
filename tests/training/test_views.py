"""Random views against a slow reference that moves one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import StageError
from edgekd.options import Augment
from edgekd.training.views import background, view, views_of


def reference(inputs: np.ndarray, augment: Augment, seed: int, fill: np.ndarray) -> np.ndarray:
    """Flip and shift each image alone; the random draws come in the same order."""
    batch, channels, height, width = inputs.shape
    generator, seen = torch.Generator().manual_seed(seed), np.empty_like(inputs)
    mirrored = torch.rand(batch, generator=generator).numpy() < 0.5 if augment.flip else np.zeros(batch, bool)
    border = augment.crop
    shifts = (
        torch.randint(0, 2 * border + 1, (2, batch), generator=generator).numpy() if border else np.zeros((2, batch))
    )
    for n in range(batch):
        image = inputs[n, :, :, ::-1] if mirrored[n] else inputs[n]
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    from_y, from_x = int(y + shifts[0, n]) - border, int(x + shifts[1, n]) - border
                    inside = 0 <= from_y < height and 0 <= from_x < width
                    seen[n, c, y, x] = image[c, from_y, from_x] if inside else fill[c]
    return seen


@given(
    batch=st.integers(1, 4), channels=st.integers(1, 3), height=st.integers(2, 6), width=st.integers(2, 6),
    crop=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_each_image_is_flipped_and_shifted_as_drawn(batch, channels, height, width, crop, flip, seed):
    inputs = np.random.default_rng(seed).normal(size=(batch, channels, height, width)).astype(np.float32)
    fill = np.arange(channels, dtype=np.float32) - 9
    augment = Augment(crop=crop, flip=flip)
    generator = torch.Generator().manual_seed(seed)
    seen = view(torch.from_numpy(inputs), generator, augment=augment, fill=torch.from_numpy(fill))
    np.testing.assert_array_equal(seen.numpy(), reference(inputs, augment, seed, fill))


def test_the_generator_alone_decides_and_the_inputs_stay_as_they_are():
    inputs = torch.randn(16, 2, 5, 5)
    before = inputs.clone()
    look = views_of(inputs, Augment(crop=2, flip=True))
    first, again, other = (look(inputs, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(inputs, before)
    torch.manual_seed(5)
    assert torch.equal(look(inputs, torch.Generator().manual_seed(3)), first)


def test_the_border_is_the_darkest_value_of_the_channel_in_the_whole_split():
    inputs = torch.rand(50, 3, 4, 4) + torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    inputs[49, :, 0, 0] = torch.tensor([-1.0, -2.0, -3.0])
    assert background(inputs).tolist() == [-1.0, -2.0, -3.0]
    look = views_of(inputs, Augment(crop=1))
    seen = look(inputs[:40], torch.Generator().manual_seed(0))
    border = [(seen[:, channel] < 0).float().mean() for channel in range(3)]
    assert border[0] == border[1] == border[2] > 0.1
    for channel in range(3):
        outside = seen[:, channel][seen[:, channel] < 0]
        assert outside.unique().tolist() == [float(-1 - channel)]


def test_all_shifts_and_both_directions_occur_equally_often():
    """Chi-squared over the (2 crop + 1)^2 shifts x 2; the limit is the 99.9 % point for 17 degrees of freedom."""
    inputs = torch.zeros(9000, 1, 3, 3)
    inputs[:, 0, 1, 1], inputs[:, 0, 1, 0] = 1.0, 2.0
    seen = views_of(inputs, Augment(crop=1, flip=True))(inputs, torch.Generator().manual_seed(1))
    ones = (seen == 1).flatten(1).float().argmax(1)
    # A flipped image has the 2 right of the 1. Where the shift has moved the 2 out of sight, the direction is unknown.
    twos = (seen == 2).flatten(1)
    visible = twos.any(1)
    counts = torch.zeros(9, 3)
    for place in range(9):
        here = ones == place
        right = (twos.float().argmax(1) - ones) == 1
        counts[place] = torch.tensor(
            [(here & visible & right).sum(), (here & visible & ~right).sum(), (here & ~visible).sum()]
        )
    assert counts.sum() == 9000
    columns = counts.view(3, 3, 3).sum(0)  # by the 1's column: at the edge one of the directions is out of sight
    assert columns[0, 1] == 0
    assert columns[2, 0] == 0
    expected = torch.full((9,), 1000.0)
    assert float(((counts.sum(1) - expected) ** 2 / expected).sum()) < 26.1
    middle = counts.view(3, 3, 3)[:, 1, :2].sum(0)
    assert abs(float(middle[0] - middle[1])) < 4 * float(middle.sum()) ** 0.5


def test_no_view_is_asked_for():
    assert views_of(torch.zeros(2, 5), Augment()) is None


@pytest.mark.parametrize(
    ("inputs", "augment", "message"),
    [
        (torch.zeros(2, 30), Augment(crop=1), r"crop and flip are for images .* shape \(30,\); remove augment"),
        (torch.zeros(2, 7, 7), Augment(flip=True), r"shape \(7, 7\)"),
        (torch.zeros(2, 1, 8, 6), Augment(crop=6), "augment.crop: 6 pixels move an image of 8 x 6 out of sight"),
    ],
)
def test_views_that_cannot_be(inputs, augment, message):
    with pytest.raises(StageError, match=message):
        views_of(inputs, augment)
