"""Random views of a batch of images, made on tensors and determined by their generator."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd.errors import StageError
from edgekd.options import Augment


def check(augment: Augment, input_shape: tuple[int, ...]) -> None:
    """Refuse views that the inputs cannot have.

    Raises:
        StageError: the inputs are no images (channels, height, width), or the crop is as large as the image.
    """
    if not (augment.crop or augment.flip):
        return
    if len(input_shape) != 3:
        raise StageError(
            f"augment: crop and flip are for images (channels, height, width); the inputs have the shape {input_shape}; "
            "remove augment from the recipe"
        )
    if augment.crop >= min(input_shape[1:]):
        raise StageError(
            f"augment.crop: {augment.crop} pixels move an image of {input_shape[1]} x {input_shape[2]} out of sight; "
            "choose fewer"
        )


def background(inputs: Tensor) -> Tensor:
    """Return the smallest value of each channel (C,) of images (N, C, H, W): black, whatever the normalisation."""
    return inputs.amin((0, 2, 3))


def view(inputs: Tensor, augment: Augment, generator: torch.Generator, fill: Tensor) -> Tensor:
    """Return a randomly flipped and cropped view of images (B, C, H, W).

    Args:
        generator: on the CPU, so that every processor trains on the same views.
        fill: the value of each channel (C,) around the image.
    """
    batch, channels, height, width = inputs.shape
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
