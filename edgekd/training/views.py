"""Random views of the training inputs, each determined by a seed, the sample and the number of the view.

Nothing else decides: not the batch that a sample is in, its place there, the process, or the order of the epochs. So
what a teacher said about a view may be kept, and is right whenever that view is shown again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import StageError
from edgekd.options import Augment

LOOKED_AT = 1024
"""Samples that tell the darkest value of inputs which are not in memory."""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class Views:
    """Makes views of images.

    Args:
        fill: the darkest value of each channel (C,), for what lies outside of the image or is erased.
    """

    augment: Augment
    fill: Tensor
    seed: int

    def __call__(self, inputs: Tensor, samples: Tensor, view: int) -> Tensor:
        """Return a view of each image.

        Args:
            inputs: (B, C, H, W) on any device.
            samples: int64 (B,) on the CPU: which samples of the training split they are.
            view: which of a sample's views, from 0.
        """
        asked, size = self.augment, inputs.shape[2:]
        drawn = draws(self.seed, view, samples.numpy())
        fill = self.fill.to(inputs.device)[:, None, None]
        if asked.flip:
            mirrored = torch.from_numpy(drawn[0] < 0.5).to(inputs.device)
            inputs = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
        if asked.crop:
            inputs = _shifted(inputs, _integers(drawn[1:3], (2 * asked.crop + 1,) * 2, inputs.device), asked.crop, fill)
        if asked.brightness:
            inputs = fill + (inputs - fill) * _factors(drawn[3], asked.brightness, inputs)
        if asked.contrast:
            mean = inputs.mean((1, 2, 3), keepdim=True)
            inputs = mean + (inputs - mean) * _factors(drawn[4], asked.contrast, inputs)
        if asked.erase:
            chosen = torch.from_numpy(drawn[7] < asked.erase_share).to(inputs.device)
            inputs = _erased(inputs, _integers(drawn[5:7], size, inputs.device), asked.erase, chosen, fill)
        return inputs


def views_of(inputs: Any, augment: Augment, seed: int) -> Views | None:
    """Return what makes random views of these images (N, C, H, W); None where none are asked for.

    Args:
        inputs: an array or tensor, or what is read when it is indexed.
        seed: with the sample and the number of the view it determines a view.

    Raises:
        StageError: the inputs are no images, or nothing of an image would be left.
    """
    asked = [name for name in ("crop", "flip", "brightness", "contrast", "erase", "cutmix") if getattr(augment, name)]
    if asked and len(inputs.shape) != 4:
        listed = " and ".join(asked) + (" are" if len(asked) > 1 else " is")
        raise StageError(
            f"augment: {listed} for images (channels, height, width), and the inputs have shape "
            f"{tuple(inputs.shape[1:])}; remove augment from the recipe"
        )
    if not _varied(augment):
        return None
    height, width = inputs.shape[2:]
    size = f"an image of {height} x {width}"
    for name, effect in (("crop", f"move {size} out of sight"), ("erase", f"hide {size}")):
        if getattr(augment, name) >= min(height, width):
            raise StageError(f"augment.{name}: {getattr(augment, name)} pixels {effect}; choose fewer")
    return Views(augment, background(inputs), seed)


def number(augment: Augment, epoch: int) -> int:
    """Return which view of each sample an epoch (from 0) shows; without random views there is one."""
    if not _varied(augment):
        return 0
    return epoch % augment.views if augment.views else epoch


def background(inputs: Any) -> Tensor:
    """Return the smallest value of each channel (C,) of images (N, C, H, W): black, whatever the normalisation.

    Of images that are not in memory, that is the smallest one of 1024 of them.
    """
    if isinstance(inputs, Tensor):
        return inputs.amin((0, 2, 3))
    if streamed(inputs):
        inputs = inputs[np.unique(np.linspace(0, len(inputs) - 1, LOOKED_AT).astype(np.int64))]
    return torch.from_numpy(np.asarray(inputs.min((0, 2, 3))))


def streamed(inputs: Any) -> bool:
    """Return whether inputs are read when they are indexed, because they may not fit into memory."""
    return isinstance(inputs, np.memmap) or bool(getattr(inputs, "streamed", False))


def draws(seed: int, view: int, samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return eight random numbers in [0, 1) for each sample (8, B).

    Each row is the stream of SplitMix64 (Steele, Lea, Flood 2014) from a start of its own, read at the samples'
    indices: it gives its n-th number at once, so that nothing is kept for the samples that are not asked for.
    """
    starts = _starts(seed, view)
    state = starts[:, None] + (samples.astype(np.uint64) + np.uint64(1)) * GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    drawn: NDArray[np.float64] = (state >> np.uint64(11)) * 2.0**-53
    return drawn


@lru_cache(maxsize=4)
def _starts(seed: int, view: int) -> NDArray[np.uint64]:
    return np.asarray(np.random.SeedSequence((seed, view)).generate_state(8, np.uint64), np.uint64)


def _varied(augment: Augment) -> bool:
    return bool(augment.crop or augment.flip or augment.brightness or augment.contrast or augment.erase)


def _integers(drawn: NDArray[np.float64], limits: Sequence[int], device: torch.device) -> Tensor:
    """Return integers in [0, limit), int64 (2, B)."""
    return torch.from_numpy((drawn * np.array(limits)[:, None]).astype(np.int64)).to(device)


def _factors(drawn: NDArray[np.float64], strength: float, like: Tensor) -> Tensor:
    """Return factors in [1 - strength, 1 + strength), (B, 1, 1, 1)."""
    return torch.from_numpy(1 + strength * (2 * drawn - 1)).to(like)[:, None, None, None]


def _shifted(inputs: Tensor, corners: Tensor, border: int, fill: Tensor) -> Tensor:
    """Return the cuts of the original size at corners (2, B), as (top, left), out of images with a border."""
    batch, _, height, width = inputs.shape
    padded = fill.repeat(batch, 1, height + 2 * border, width + 2 * border)
    padded[:, :, border : border + height, border : border + width] = inputs
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2 border + 1, 2 border + 1, H, W), no copy
    return windows[torch.arange(batch, device=inputs.device), :, corners[0], corners[1]]


def _erased(inputs: Tensor, centres: Tensor, side: int, chosen: Tensor, fill: Tensor) -> Tensor:
    """Return images with a square around centres (2, B), as (row, column), filled; of an even side, up and left."""
    rows, columns = (
        ((offset := torch.arange(length, device=inputs.device) - centre[:, None] + side // 2) >= 0) & (offset < side)
        for length, centre in zip(inputs.shape[2:], centres, strict=True)
    )
    hidden = (rows[:, :, None] & columns[:, None, :] & chosen[:, None, None])[:, None]
    return torch.where(hidden, fill, inputs)
