"""Random views of a batch of images, made on tensors and determined by their generator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from edgekd.errors import StageError
from edgekd.options import Augment

Views = Callable[[Tensor, torch.Generator], Tensor]
"""(images (B, C, H, W), generator) -> a random view of each."""


def views_of(inputs: Tensor, augment: Augment) -> Views | None:
    """Return what makes random views of batches of these images (N, C, H, W); None where none are asked for.

    Raises:
        StageError: the inputs are no images, or the crop is as large as the image.
    """
    if not (augment.crop or augment.flip):
        return None
    if inputs.ndim != 4:
        raise StageError(
            "augment: crop and flip are for images (channels, height, width), and the inputs have shape "
            f"{tuple(inputs.shape[1:])}; remove augment from the recipe"
        )
    height, width = inputs.shape[2:]
    if augment.crop >= min(height, width):
        raise StageError(
            f"augment.crop: {augment.crop} pixels move an image of {height} x {width} out of sight; choose fewer"
        )
    return partial(view, augment=augment, fill=background(inputs))


def background(inputs: Tensor) -> Tensor:
    """Return the smallest value of each channel (C,) of images (N, C, H, W): black, whatever the normalisation."""
    return inputs.amin((0, 2, 3))


def view(inputs: Tensor, generator: torch.Generator, *, augment: Augment, fill: Tensor) -> Tensor:
    """Return a randomly flipped and cropped view of images (B, C, H, W).

    Args:
        generator: on the CPU, so that every processor trains on the same views.
        fill: the value of each channel (C,) around the image.
    """
    batch, _, height, width = inputs.shape
    if augment.flip:
        mirrored = (torch.rand(batch, generator=generator) < 0.5).to(inputs.device)
        inputs = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
    if augment.crop:
        border = augment.crop
        padded = fill[:, None, None].repeat(batch, 1, height + 2 * border, width + 2 * border)
        padded[:, :, border : border + height, border : border + width] = inputs
        top, left = torch.randint(0, 2 * border + 1, (2, batch), generator=generator).to(inputs.device)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2 border + 1, 2 border + 1, H, W), no copy
        inputs = windows[torch.arange(batch, device=inputs.device), :, top, left]
    return inputs
