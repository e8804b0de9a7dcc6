"""Losses on relations: how the samples of a batch lie to each other, whatever the two networks' widths.

In all of them x are features (B, ...), flattened to (B, D); D may differ between student and teacher. Every value
stands for pairs or triplets with one sample in common: "none" gives the mean over those of each sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import huber_loss
from torch.utils.checkpoint import checkpoint

from edgekd.distill.losses.precision import inner, positive, precise, reduce, same_batch, unit
from edgekd.options import Positive, Reduction

ON = "features"
DEFAULT_LAYER = {
    "sp": "map",
    "pkt": "embedding",
    "rkd_distance": "embedding",
    "rkd_angle": "embedding",
    "cc": "embedding",
}
SETTINGS: Mapping[str, Mapping[str, float]] = {
    # RepDistiller, CIFAR-100, beside the whole cross-entropy.
    "sp": {"weight": 3000.0},
    "pkt": {"weight": 30000.0},
    # RepDistiller: weight 1 of 25 distance + 50 angle.
    "rkd_distance": {"weight": 25.0},
    "rkd_angle": {"weight": 50.0},
    # Knowledge-Distillation-Zoo, CIFAR-10. RepDistiller's 0.02 belongs to another formula under this name.
    "cc": {"weight": 100.0},
}

_ELEMENTS = 2**22
"""Of the angles computed at a time: 16 MiB in float32."""
_PRODUCTS = 2**31
"""From so many products on, angles are computed from fewer coordinates, which costs a decomposition first."""


def sp(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return the similarity-preserving loss (Tung & Mori 2019, arXiv:1907.09682, eq. 4).

        |G_s - G_t|_F^2 / B^2,  G = x x^T with each row divided by its L2 length

    A row of G is one sample's similarities to all. The value does not change with a factor on all features, and
    is halved when every sample is there twice, since the rows have length 1 however long they are.

    Args:
        student: features (B, ...); published for the last feature map, flattened.
        teacher: features (B, ...); no gradient flows into them.
        reduction: "none" gives (B,), a row's sum of squares / B; "mean" a scalar.
    """
    student, teacher = _rows(student, teacher, "sp")
    of_student, of_teacher = (unit(inner(x, x)) for x in (_scaled(student), _scaled(teacher)))
    return reduce((of_student - of_teacher).square().mean(-1), reduction)


def cc(
    student: Tensor, teacher: Tensor, *, gamma: Positive = 0.4, order: PositiveInt = 2, reduction: Reduction = "mean"
) -> Tensor:
    """Return correlation congruence (Peng et al. 2019, arXiv:1904.01802, eq. 6-8).

        |C_s - C_t|_F^2 / B^2,  C = exp(-2 gamma) sum_{p=0..P} (2 gamma)^p / p! (u u^T)^p  (powers of elements)

    with u the features at length 1: the Taylor series of the Gaussian kernel exp(-gamma |u_i - u_j|^2).

    Args:
        student: features (B, ...).
        teacher: features (B, ...); no gradient flows into them.
        gamma: of the kernel.
        order: P, the last power of the series.
        reduction: "none" gives (B,), a row's mean square; "mean" a scalar.
    """
    positive(gamma=gamma, order=order)
    rows = _rows(student, teacher, "cc")
    of_student, of_teacher = (_kernel(inner(u, u), gamma, order) for u in map(unit, rows))
    return reduce((of_student - of_teacher).square().mean(-1), reduction)


def rkd_distance(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return the distance part of relational distillation (Park et al. 2019, arXiv:1904.05068, eq. 5-7).

        mean_{i,j} huber(d_s[i, j] / mu_s - d_t[i, j] / mu_t),  d[i, j] = |x_i - x_j|_2,  huber with delta 1

    mu is the mean of the distances that are not zero, which is that over all i != j where no two samples agree. The
    mean is over all B^2 pairs, a sample's with itself too, as in the code that the published weight is for.

    Args:
        student: features (B, ...).
        teacher: features (B, ...); no gradient flows into them.
        reduction: "none" gives (B,), the mean over a row; "mean" a scalar.
    """
    student, teacher = _rows(student, teacher, "rkd_distance")
    return reduce(huber_loss(_distances(student), _distances(teacher), reduction="none").mean(-1), reduction)


def rkd_angle(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return the angle part of relational distillation (Park et al. 2019, arXiv:1904.05068, eq. 8-10).

        mean_{i,j,k} huber(a_s[i, j, k] - a_t[i, j, k]),  a[i, j, k] = cos of the angle at j between i and k

    with Huber's delta 1 and the mean over all B^3 triplets, as in the code that the published weight is for. The cosine
    is 0 where i or k agrees with j up to rounding. Exact at any B: samples j are taken in groups, which are computed
    again for the gradient, so that memory does not grow with B^3.

    Args:
        student: features (B, ...).
        teacher: features (B, ...); no gradient flows into them.
        reduction: "none" gives (B,), the mean over the angles at each sample; "mean" a scalar.
    """
    student, teacher = map(_coordinates, _rows(student, teacher, "rkd_angle"))
    batch = len(student)
    group = max(1, _ELEMENTS // (batch * (batch + max(student.shape[1], teacher.shape[1]))))
    if group >= batch:
        return reduce(_angle_loss(student, teacher, 0, batch), reduction)
    groups = [
        checkpoint(_angle_loss, student, teacher, first, first + group, use_reentrant=False, preserve_rng_state=False)
        for first in range(0, batch, group)
    ]
    return reduce(torch.cat(groups), reduction)


def pkt(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return probabilistic knowledge transfer (Passalis & Tefas 2018, arXiv:1803.10837, section 3).

        mean_{i,j} p_t[i, j] log((p_t[i, j] + e) / (p_s[i, j] + e)),  p[i, j] = c[i, j] / sum_k c[i, k]

    with c = (cos(x_i, x_j) + 1) / 2 and e = 1e-7. The mean over B^2, where the paper has a sum, is that of the authors'
    code, which the published weight is for; it is halved when every sample is there twice. A factor on a sample's
    features changes nothing.

    Args:
        student: features (B, ...).
        teacher: features (B, ...); no gradient flows into them.
        reduction: "none" gives (B,), the mean over a row; "mean" a scalar.
    """
    of_student, of_teacher = map(_affinities, _rows(student, teacher, "pkt"))
    ratio = (of_teacher + 1e-7).log() - (of_student + 1e-7).log()
    return reduce((of_teacher * ratio).mean(-1), reduction)


def _rows(student: Tensor, teacher: Tensor, name: str) -> tuple[Tensor, ...]:
    """Return both features as (B, D), wide enough, the teacher's without gradient."""
    same_batch(student, teacher, name)
    for who, features in (("student", student), ("teacher", teacher)):
        if features.ndim < 2 or features.numel() == 0:
            raise ValueError(f"{name} needs features (B, ...); the {who}'s have shape {tuple(features.shape)}")
    return precise(student.flatten(1), teacher.detach().flatten(1))


def _scaled(rows: Tensor) -> Tensor:
    """Return features with 1 as largest element, for what does not change with a factor: no square overflows."""
    largest = rows.detach().abs().amax()
    return rows / largest.where(largest != 0, 1)


def _kernel(cosines: Tensor, gamma: float, order: int) -> Tensor:
    """Return the Taylor series of exp(-gamma |u - v|^2) = exp(-2 gamma) exp(2 gamma u.v) to an order, by Horner."""
    series = torch.ones_like(cosines)
    for power in range(order, 0, -1):
        series = 1 + series * cosines * (2 * gamma / power)
    return series * math.exp(-2 * gamma)


def _distances(rows: Tensor) -> Tensor:
    """Return the distances (B, B) over their mean.

    From differences, not from inner products: those leave rounding where the distance is 0, and the root's gradient
    blows it up. cdist gives equal rows no gradient.
    """
    distances = torch.cdist(_scaled(rows), _scaled(rows), compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (distances.detach() > 0).sum().clamp(min=1)
    return distances / mean.where(mean.detach() != 0, 1)


def _coordinates(rows: Tensor) -> Tensor:
    """Return features with the same angles, less their mean and with 1 as largest element, in at most B coordinates.

    Angles see only the plane that the samples span. To first order they do not change when a sample leaves it, so that
    its basis can be taken as constant: value and gradient stay exact.
    """
    rows = _scaled(rows - rows.detach().mean(0))
    batch, width = rows.shape
    if width <= batch or batch**3 * width < _PRODUCTS:
        return rows
    basis, _ = torch.linalg.qr(rows.detach().mT)
    return inner(rows, basis.mT)


def _angle_loss(student: Tensor, teacher: Tensor, first: int, last: int) -> Tensor:
    """Return the mean loss of the angles at each of the samples [first, last)."""
    return huber_loss(_cosines(student, first, last), _cosines(teacher, first, last), reduction="none").mean((1, 2))


def _cosines(rows: Tensor, first: int, last: int) -> Tensor:
    """Return the cosines (last - first, B, B) of the angles at samples [first, last) between all pairs."""
    differences = rows[None] - rows[first:last, None]
    apart = differences.detach().abs().amax(-1, keepdim=True) > 32 * torch.finfo(rows.dtype).eps
    directions = unit(differences.where(apart | differences.isnan(), 0))
    return inner(directions, directions)


def _affinities(rows: Tensor) -> Tensor:
    """Return (B, B) probabilities of each sample's neighbours: (cosine + 1) / 2 over a row's sum."""
    directions = unit(rows)
    # A cosine may pass -1 by rounding.
    affinities = ((inner(directions, directions) + 1) / 2).clamp(min=0)
    return affinities / affinities.sum(-1, keepdim=True)
