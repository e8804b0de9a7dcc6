"""Knowledge review: a student's layer learns from the teacher's, with what the deeper layers already know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from edgekd.distill.adapters import resize
from edgekd.distill.losses.precision import dimensions, positive, precise, reduce, same_shape
from edgekd.options import Reduction

ON = "features"
DEFAULT_LAYER = "map"
SETTINGS = {
    # mdistiller's default: it rises to this over 20 epochs, beside the whole cross-entropy; the embedding is one pair.
    "reviewkd": {"weight": 1.0},
}

_LEVELS = (4, 2, 1)
"""Heights and widths that the maps are pooled to."""


def reviewkd(student: Sequence[Tensor], teacher: Sequence[Tensor], *, reduction: Reduction = "mean") -> Tensor:
    """Return the hierarchical context loss of knowledge review (Chen et al. 2021, arXiv:2104.09044, section 3).

        sum_{pairs} sum_l w_l mean((pool_l(x_s) - pool_l(x_t))^2) / sum_l w_l

    pool_0 leaves the map as it is, the others average it to 4x4, 2x2 and 1x1, where that is smaller than the map.
    w_0 is 1, and each level that is used weighs half the one before it.

    Args:
        student: maps (B, C, H, W), one for each pair of layers, as `reviewkd_parts` fuses them.
        teacher: maps of the same shapes; no gradient flows into them.
        reduction: "none" gives (B,), "mean" a scalar.
    """
    if len(student) != len(teacher) or not student:
        raise ValueError(f"reviewkd needs pairs of maps, not {len(student)} of the student and {len(teacher)}")
    pairs = [_context(ours, theirs) for ours, theirs in zip(student, teacher, strict=True)]
    return reduce(torch.stack(pairs).sum(0), reduction)


def reviewkd_parts(
    student: Sequence[tuple[int, ...]],
    teacher: Sequence[tuple[int, ...]],
    *,
    samples: int,
    channels: PositiveInt = 64,
) -> Review:
    """Return what `reviewkd` learns: the fusion of each student's layer with the deeper ones.

    Args:
        student: shapes (C, H, W) of the student's maps, or (D) of an embedding, a map of one pixel; without the batch
            axis and in any order: the smaller the map, the deeper the layer; of one size, the later the deeper.
        teacher: shapes of the maps that they are paired with.
        samples: of the training split; nothing is kept of them.
        channels: of the maps while they are fused.
    """
    del samples
    return Review(student, teacher, channels)


class Review(nn.Module):
    """From the deepest pair to the shallowest: fuse what the student has there with what came from the deeper ones.

    Args:
        student: shapes (C, H, W) or (D) of the student's features.
        teacher: shapes of the teacher's.
        channels: of the maps while they are fused.
    """

    def __init__(self, student: Sequence[tuple[int, ...]], teacher: Sequence[tuple[int, ...]], channels: int) -> None:
        super().__init__()
        positive(channels=channels)
        if (
            len(student) != len(teacher)
            or not student
            or any(len(shape) not in {1, 3} for shape in (*student, *teacher))
        ):
            raise ValueError(
                f"reviewkd needs pairs of maps (C, H, W) or vectors (D), not {list(student)} and {list(teacher)}"
            )
        self._order = sorted(range(len(student)), key=lambda pair: (math.prod(student[pair][1:]), -pair))
        self.fusions = nn.ModuleList(
            Fusion(ours[0], channels, theirs[0], deepest=pair == self._order[0])
            for pair, (ours, theirs) in enumerate(zip(student, teacher, strict=True))
        )

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], *, samples: Tensor, targets: Tensor
    ) -> dict[str, Any]:
        """Return the arguments of `reviewkd`, the pairs in the order that they came in."""
        theirs = [_map(features.detach()) for features in teacher]
        fused: dict[int, Tensor] = {}
        deeper: Tensor | None = None
        for pair in self._order:
            size = (theirs[pair].shape[2], theirs[pair].shape[3])
            fused[pair], deeper = self.fusions[pair](_map(student[pair]), deeper, size)
        return {"student": [fused[pair] for pair in range(len(student))], "teacher": theirs}


class Fusion(nn.Module):
    """Attention-based fusion: at each pixel, how much of this layer and how much of the deeper ones.

    Args:
        inputs: channels of the student's map.
        channels: of the fused map, which goes on to the next shallower layer.
        outputs: channels of the teacher's map.
        deepest: nothing comes from deeper layers.
    """

    def __init__(self, inputs: int, channels: int, outputs: int, *, deepest: bool) -> None:
        super().__init__()
        self.narrow = nn.Sequential(nn.Conv2d(inputs, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * channels, 2, 1), nn.Sigmoid())
        self.widen = nn.Sequential(nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return maps with the teacher's channels and size (height, width), and the fused ones for the next layer."""
        fused: Tensor = self.narrow(maps.to(next(self.parameters()).dtype))
        if self.attention is not None and deeper is not None:
            deeper = resize(deeper, (fused.shape[2], fused.shape[3]))
            shares = self.attention(torch.cat([fused, deeper], dim=1))
            fused = shares[:, :1] * fused + shares[:, 1:] * deeper
        return self.widen(resize(fused, size)), fused


def _map(features: Tensor) -> Tensor:
    """Return maps as they are, vectors (B, D) as maps of one pixel (B, D, 1, 1)."""
    return features[..., None, None] if features.ndim == 2 else features


def _context(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the hierarchical context loss of one pair of maps (B,)."""
    same_shape(student, teacher, "reviewkd")
    dimensions(student, "B, C, H, W", "reviewkd")
    student, teacher = precise(student, teacher.detach())
    difference = student - teacher  # averaging is linear: the difference of the averages is the average of this
    levels = [difference]
    levels += [adaptive_avg_pool2d(difference, size) for size in _LEVELS if size < min(difference.shape[2:])]
    weights = [0.5**level for level in range(len(levels))]
    means = [weight * level.square().mean((1, 2, 3)) for weight, level in zip(weights, levels, strict=True)]
    return torch.stack(means).sum(0) / sum(weights)
