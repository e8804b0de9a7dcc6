"""Mixed batches: mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgekd.options import Augment
from edgekd.training.objective import Mixing


def mixes(augment: Augment) -> bool:
    """Return whether batches are mixed."""
    return bool(augment.mixup or augment.cutmix)


def mix(inputs: Tensor, augment: Augment, seed: int) -> tuple[Tensor, Mixing]:
    """Mix each sample of a batch with another one, all in the same way.

    Mixup adds them, in shares from Beta(alpha, alpha). CutMix pastes a rectangle of the other image, whose part of the
    area has that distribution before the image's edges cut it. Where both are asked for, each has every other batch.

    Args:
        inputs: (B, ...), for CutMix (B, C, H, W).

    Returns:
        The mixed inputs, and how they were mixed; with CutMix the share is the part of the area that was kept.
    """
    random = np.random.default_rng(seed)
    pastes = bool(augment.cutmix) and not (augment.mixup and random.random() < 0.5)
    alpha = augment.cutmix if pastes else augment.mixup
    share = float(random.beta(alpha, alpha))
    partner = torch.from_numpy(random.permutation(len(inputs))).to(inputs.device)
    others = inputs.index_select(0, partner)
    if not pastes:
        return torch.lerp(others, inputs, share), Mixing(partner, share)
    top, bottom, left, right = _rectangle(random, inputs.shape[-2:], 1 - share)
    mixed = inputs.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    area = (bottom - top) * (right - left) / (inputs.shape[-2] * inputs.shape[-1])
    return mixed, Mixing(partner, 1 - area)


def _rectangle(random: np.random.Generator, size: torch.Size, area: float) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) of a rectangle in the image's proportions, its centre anywhere in the image."""
    found: list[int] = []
    for length in size:
        centre, half = int(random.integers(length)), round(length * area**0.5) / 2
        found += [max(0, int(np.ceil(centre - half))), min(length, int(np.ceil(centre + half)))]
    return found[0], found[1], found[2], found[3]
