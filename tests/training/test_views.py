"""Random views against a slow reference that looks at one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgekd.errors import StageError
from edgekd.options import Augment
from edgekd.training.views import background, draws, number, streamed, views_of


def reference(inputs: np.ndarray, augment: Augment, drawn: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Make the view of each image alone, pixel by pixel; the eight draws of an image are its column."""
    height, width = inputs.shape[2:]
    seen = inputs.astype(np.float64)
    for n, original in enumerate(inputs.astype(np.float64)):
        flip, top, left, light, contrast, row, column, erased = drawn[:, n]
        image = original[:, :, ::-1] if augment.flip and flip < 0.5 else original
        shifts = [int(draw * (2 * augment.crop + 1)) - augment.crop for draw in (top, left)]
        moved = np.empty_like(image)
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + shifts[0], x + shifts[1]
                inside = 0 <= from_y < height and 0 <= from_x < width
                moved[:, y, x] = image[:, from_y, from_x] if inside else fill
        black = fill[:, None, None]
        moved = black + (moved - black) * (1 + augment.brightness * (2 * light - 1))
        moved = moved.mean() + (moved - moved.mean()) * (1 + augment.contrast * (2 * contrast - 1))
        first = [int(row * height) - augment.erase // 2, int(column * width) - augment.erase // 2]
        for y in range(height):
            for x in range(width):
                square = all(begin <= at < begin + augment.erase for begin, at in zip(first, (y, x), strict=True))
                if square and erased < augment.erase_share:
                    moved[:, y, x] = fill
        seen[n] = moved
    return seen


@given(
    batch=st.integers(1, 4), channels=st.integers(1, 3), height=st.integers(4, 6), width=st.integers(4, 6),
    crop=st.integers(0, 3), flip=st.booleans(), brightness=st.sampled_from([0.0, 0.4]),
    contrast=st.sampled_from([0.0, 1.0]), erase=st.integers(0, 3), share=st.sampled_from([0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1), view=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=60)
def test_each_image_is_changed_as_drawn(
    batch, channels, height, width, crop, flip, brightness, contrast, erase, share, seed, view
):
    inputs = np.random.default_rng(seed).normal(size=(batch, channels, height, width)).astype(np.float32)
    augment = Augment(
        crop=crop, flip=flip, brightness=brightness, contrast=contrast, erase=erase, erase_share=share
    )  # fmt: skip
    look = views_of(inputs, augment, seed)
    if look is None:
        assert augment.model_copy(update={"erase_share": 1.0}) == Augment()
        return
    samples = torch.randperm(1000)[:batch]
    expected = reference(inputs, augment, draws(seed, view, samples.numpy()), inputs.min((0, 2, 3)))
    seen = look(torch.from_numpy(inputs), samples, view)
    assert seen.dtype == torch.float32
    np.testing.assert_allclose(seen.numpy(), expected, rtol=1e-5, atol=1e-5)


FULL = Augment(crop=2, flip=True, brightness=0.3, contrast=0.2, erase=2)


def test_a_view_belongs_to_the_sample_not_to_the_batch():
    inputs, samples = torch.randn(16, 2, 5, 5), torch.randperm(1000)[:16]
    before = inputs.clone()
    look = views_of(inputs, FULL, 7)
    whole = look(inputs, samples, 3)
    torch.manual_seed(5)
    assert torch.equal(torch.cat([look(inputs[:5], samples[:5], 3), look(inputs[5:], samples[5:], 3)]), whole)
    mixed = torch.randperm(16)
    assert torch.equal(look(inputs[mixed], samples[mixed], 3), whole[mixed])
    assert torch.equal(inputs, before)


def test_seed_and_number_make_other_views():
    inputs, samples = torch.randn(16, 2, 5, 5), torch.arange(16)
    seen = [views_of(inputs, FULL, seed)(inputs, samples, view) for seed, view in ((7, 3), (7, 4), (8, 3))]
    assert all(not torch.equal(seen[a], seen[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_the_draws_are_uniform_and_independent():
    """Against the uniform distribution (Kolmogorov-Smirnov), and no correlation between draws, samples or views."""
    samples = np.arange(20_000)
    one, two = draws(0, 0, samples), draws(0, 1, samples)
    assert one.shape == (8, 20_000)
    assert one.min() >= 0
    assert one.max() < 1
    for row in (*one, *two):
        assert stats.kstest(row, "uniform").pvalue > 1e-4
    assert np.abs(np.corrcoef(np.concatenate([one, two])) - np.eye(16)).max() < 0.03
    assert np.abs([np.corrcoef(row[1:], row[:-1])[0, 1] for row in one]).max() < 0.03


def test_the_draws_are_those_of_splitmix64():
    """The generator's published recurrence, step by step, from the same start."""
    state = int(np.random.SeedSequence((5, 2)).generate_state(8, np.uint64)[0])
    mask, expected = 2**64 - 1, []
    for _ in range(10):
        state = (state + 0x9E3779B97F4A7C15) & mask
        value = state
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        expected.append(((value ^ (value >> 31)) >> 11) / 2**53)
    assert draws(5, 2, np.arange(10))[0].tolist() == expected


def test_all_shifts_and_both_directions_occur_equally_often():
    """Chi-squared over the (2 crop + 1)^2 shifts; the limit is the 99.9 % point for 8 degrees of freedom."""
    inputs = torch.zeros(9000, 1, 5, 5)
    inputs[:, 0, 2, 2], inputs[:, 0, 2, 1] = 1.0, 2.0
    seen = views_of(inputs, Augment(crop=1, flip=True), 1)(inputs, torch.arange(9000), 0)
    ones, twos = ((seen == value).flatten(1).float().argmax(1) for value in (1, 2))
    counts = torch.bincount(ones, minlength=25).float()
    assert int((counts > 0).sum()) == 9
    assert float(((counts[counts > 0] - 1000) ** 2 / 1000).sum()) < 26.1
    right = int((twos - ones == 1).sum())
    assert right + int((twos - ones == -1).sum()) == 9000
    assert abs(right - 4500) < 4 * 9000**0.5 / 2


def test_erased_squares_hide_their_part_and_are_as_frequent_as_asked():
    inputs = torch.ones(4000, 1, 9, 9)
    inputs[0, 0, 0, 0] = -1.0
    seen = views_of(inputs, Augment(erase=3, erase_share=0.25), 1)(inputs, torch.arange(4000), 0)[1:]
    hidden = (seen == -1).flatten(1).sum(1)
    assert set(hidden.unique().tolist()) == {0, 4, 6, 9}  # in a corner, at an edge, within
    assert abs(float((hidden > 0).float().mean()) - 0.25) < 0.03


def test_the_border_is_the_darkest_value_of_the_channel_in_the_whole_split():
    inputs = torch.rand(50, 3, 4, 4) + torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    inputs[49, :, 0, 0] = torch.tensor([-1.0, -2.0, -3.0])
    assert background(inputs).tolist() == background(inputs.numpy()).tolist() == [-1.0, -2.0, -3.0]
    seen = views_of(inputs, Augment(crop=1), 0)(inputs[:40], torch.arange(40), 0)
    border = [(seen[:, channel] < 0).float().mean() for channel in range(3)]
    assert border[0] == border[1] == border[2] > 0.1
    for channel in range(3):
        outside = seen[:, channel][seen[:, channel] < 0]
        assert outside.unique().tolist() == [float(-1 - channel)]


class Lazy:
    """Inputs that know what was read of them."""

    streamed = True

    def __init__(self, inputs: np.ndarray) -> None:
        self.inputs, self.shape, self.read = inputs, inputs.shape, 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, chosen):
        self.read += len(chosen)
        return self.inputs[chosen]


def test_of_images_that_are_not_in_memory_some_are_looked_at():
    inputs = np.random.default_rng(0).random((3000, 1, 4, 4), np.float32)
    inputs[:, :, 0, 0] = -1.0
    lazy = Lazy(inputs)
    assert background(lazy).tolist() == [-1.0]
    assert lazy.read == 1024
    small = Lazy(inputs[:10])
    assert background(small).tolist() == [-1.0]
    assert small.read == 10
    assert streamed(lazy)
    assert not streamed(inputs)


def test_which_view_an_epoch_shows():
    assert [number(Augment(), epoch) for epoch in range(3)] == [0, 0, 0]
    assert [number(Augment(mixup=1.0), epoch) for epoch in range(3)] == [0, 0, 0]
    assert [number(Augment(flip=True), epoch) for epoch in range(3)] == [0, 1, 2]
    assert [number(Augment(flip=True, views=2), epoch) for epoch in range(5)] == [0, 1, 0, 1, 0]


def test_no_view_is_asked_for():
    assert views_of(torch.zeros(2, 5), Augment(), 0) is None
    assert views_of(torch.zeros(2, 5), Augment(mixup=0.2), 0) is None


@pytest.mark.parametrize(
    ("inputs", "augment", "message"),
    [
        (torch.zeros(2, 30), Augment(crop=1, erase=2), r"crop and erase are for images .* shape \(30,\); remove"),
        (torch.zeros(2, 7, 7), Augment(flip=True), r"flip is for images .* shape \(7, 7\)"),
        (torch.zeros(2, 7), Augment(cutmix=1.0), r"cutmix is for images .* shape \(7,\)"),
        (torch.zeros(2, 1, 8, 6), Augment(crop=6), "augment.crop: 6 pixels move an image of 8 x 6 out of sight"),
        (torch.zeros(2, 1, 8, 6), Augment(erase=6), "augment.erase: 6 pixels hide an image of 8 x 6; choose fewer"),
    ],
)
def test_views_that_cannot_be(inputs, augment, message):
    with pytest.raises(StageError, match=message):
        views_of(inputs, augment, 0)
