"""Random views of a batch of images, made on tensors and determined by their generator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from edgekd.options import Augment


def view(inputs: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Return a randomly flipped and cropped view of images (B, C, H, W); other shapes are returned as they are.

    The background of the padding is the batch's smallest value: black, whatever the normalisation.
    """
    if inputs.ndim != 4 or not (augment.flip or augment.crop):
        return inputs
    batch, _, height, width = inputs.shape
    if augment.flip:
        mirrored = torch.rand(batch, generator=generator) < 0.5
        inputs = torch.where(mirrored.to(inputs.device)[:, None, None, None], inputs.flip(3), inputs)
    if augment.crop:
        border = augment.crop
        padded = pad(inputs, (border,) * 4, value=float(inputs.min()))
        top, left = torch.randint(0, 2 * border + 1, (2, batch), generator=generator)
        rows = (top[:, None] + torch.arange(height)).to(inputs.device)
        columns = (left[:, None] + torch.arange(width)).to(inputs.device)
        samples = torch.arange(batch, device=inputs.device)
        # Advanced indexing puts the channel axis last: (B, H, W, C).
        inputs = padded[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return inputs
