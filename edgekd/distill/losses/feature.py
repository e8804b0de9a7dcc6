"""Losses on features: what the layers inside compute, sample by sample or as a distribution."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus

from edgekd.distill.adapters import resize
from edgekd.distill.losses.precision import dimensions, inner, positive, precise, reduce, same_batch, same_shape, unit
from edgekd.options import Positive, Reduction

ON = "features"
DEFAULT_LAYER = "map"
EQUAL_SHAPES = ("hint", "mad", "mmd")
ALIASES = {"at": "attention"}
SETTINGS = {
    # RepDistiller, CIFAR-100, beside the whole cross-entropy.
    "hint": {"weight": 100.0},
    "attention": {"weight": 1000.0},
    "nst": {"weight": 50.0},
    "vid": {"weight": 1.0},
    # No setting is published for these two in distillation.
    "mad": {"weight": 1.0},
    "mmd": {"weight": 1.0},
}

_NOISE = 1e-5
"""Smallest variance of `vid`, and what keeps its logarithm finite."""


def hint(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return the mean squared difference of features (FitNets, Romero et al. 2015, arXiv:1412.6550, eq. 3).

        mean_d (x_s[d] - x_t[d])^2

    The paper has half the sum over d, minimised first and alone; the mean, beside the labels, is what the published
    weight of 100 is for.

    Args:
        student: features (B, ...), of the teacher's shape (by an adapter, where they differ).
        teacher: features (B, ...); no gradient flows into them.
        reduction: "none" gives (B,), "mean" a scalar.
    """
    student, teacher = _rows(student, teacher, "hint")
    if reduction == "mean":
        return mse_loss(student, teacher)
    return reduce((student - teacher).square().mean(1), reduction)


def attention(
    student: Tensor,
    teacher: Tensor,
    *,
    mode: Literal["code", "paper", "seed"] = "code",
    power: Positive = 2.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return attention transfer (Zagoruyko & Komodakis 2017, arXiv:1612.03928, eq. 2).

        a = q / |q|_2,  q[h, w] = mean_c |x[c, h, w]|^power
        code    |a_s - a_t|_2^2 / (H W)     the authors' code, and what the weight of 1000 is for
        paper   |a_s - a_t|_2               the paper's formula, without its factor beta / 2
        seed    |a_s - a_t|_2^2 / 2         = code * H W / 2, a form that many texts give

    Where the maps differ in height or width, the longer axis is average-pooled to the shorter, before the powers.
    Channels may differ. A map of zeros has no attention: a = 0. Where both agree, the gradient of "paper" is 0.

    Args:
        student: maps (B, C, H, W).
        teacher: maps (B, C', H', W'); no gradient flows into them.
        mode: which of the three.
        power: of the activations; the larger, the more the strongest places count.
        reduction: "none" gives (B,), "mean" a scalar.
    """
    positive(power=power)
    difference = torch.sub(*(_attention(maps, power) for maps in _maps(student, teacher, "attention")))
    match mode:
        case "code":
            return reduce(difference.square().mean(1), reduction)
        case "seed":
            return reduce(difference.square().sum(1) / 2, reduction)
        case "paper":
            return reduce(torch.linalg.vector_norm(difference, dim=1), reduction)
    raise ValueError(f'mode is "code", "paper" or "seed", not {mode!r}')


def mad(
    student: Tensor, teacher: Tensor, *, features: Literal["sum", "mean"] = "sum", reduction: Reduction = "mean"
) -> Tensor:
    """Return the mean absolute deviation of paired, normalised features.

        sum_d |u_s[d] - u_t[d]|,  u = x / |x|_2 of the whole flattened feature

    Some texts call this the "maximum mean discrepancy". It is none: it compares sample i with sample i, and is not zero
    for one set in two orders. The distance of distributions is `mmd`.

    Args:
        student: features (B, ...), of the teacher's shape (by an adapter, where they differ).
        teacher: features (B, ...); no gradient flows into them.
        features: "sum" over d, as the formula says, or "mean", which is smaller by their number.
        reduction: "none" gives (B,), "mean" a scalar.
    """
    deviation = torch.sub(*map(unit, _rows(student, teacher, "mad"))).abs()
    match features:
        case "sum":
            return reduce(deviation.sum(1), reduction)
        case "mean":
            return reduce(deviation.mean(1), reduction)
    raise ValueError(f'features is "sum" or "mean", not {features!r}')


def mmd(
    student: Tensor,
    teacher: Tensor,
    *,
    bandwidths: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0),
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the unbiased squared maximum mean discrepancy (Gretton et al. 2012, JMLR 13, lemma 6).

        mean_{i != j} k(s_i, s_j) + mean_{i != j} k(t_i, t_j) - 2 mean_{i, j} k(s_i, t_j)
        k(x, y) = mean_b exp(-|x - y|^2 / (2 (b sigma)^2))

    with sigma the median distance of two different ones of the n + m features together, taken as a constant ("median
    heuristic"). It compares two distributions, whichever sample is whose pair. Being unbiased it is around zero, and as
    often below as above, where the distributions agree. It changes when every sample is there twice.

    Args:
        student: features (n, ...), each of the teacher's shape (by an adapter, where they differ).
        teacher: features (m, ...); no gradient flows into them.
        bandwidths: b, multiples of sigma.
        reduction: "mean" gives a scalar. "none" needs n = m and gives (n,), the terms with one sample of each pair.

    Raises:
        ValueError: for fewer than two samples on a side, of which nothing unbiased can be said.
    """
    if not bandwidths:
        raise ValueError("bandwidths needs one number at least")
    positive(**{f"bandwidths[{index}]": multiple for index, multiple in enumerate(bandwidths)})
    if student.ndim < 2 or student.shape[1:] != teacher.shape[1:] or min(len(student), len(teacher)) < 2:
        raise ValueError(
            "mmd needs two samples at least on each side, with features of one shape, "
            f"not {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    n, m = len(student), len(teacher)
    students, teachers, across = _rbf(*precise(student.flatten(1), teacher.detach().flatten(1)), bandwidths=bandwidths)
    of_students = (students.sum(1) - students.diagonal()) / (n - 1)
    of_teachers = (teachers.sum(1) - teachers.diagonal()) / (m - 1)
    if reduction == "none" and n == m:
        return of_students + of_teachers - across.mean(1) - across.mean(0)
    if reduction == "none":
        raise ValueError(f'mmd gives values per sample (reduction "none") for as many on each side, not {n} and {m}')
    return reduce(of_students.mean() + of_teachers.mean() - 2 * across.mean(), reduction)


def nst(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return neuron selectivity transfer (Huang & Wang 2017, arXiv:1707.01219, polynomial kernel of degree 2).

        mean_{c, c'} (t_c . t_c')^2 + mean_{c, c'} (s_c . s_c')^2 - 2 mean_{c, c'} (s_c . t_c')^2

    where s_c and t_c are the channels of one sample's maps at length 1: the (biased) squared MMD of two sets of spatial
    patterns. It is also |G_s - G_t|_F^2 with G = mean_c x_c x_c^T, (HW, HW); the smaller of the two forms is computed,
    so that memory does not grow with B C C' H W. Heights and widths that differ are average-pooled to the smaller.
    Channels may differ.

    Args:
        student: maps (B, C, H, W).
        teacher: maps (B, C', H', W'); no gradient flows into them.
        reduction: "none" gives (B,), "mean" a scalar.
    """
    of_student, of_teacher = (unit(maps.flatten(2)) for maps in _maps(student, teacher, "nst"))
    if of_student.shape[2] <= max(of_student.shape[1], of_teacher.shape[1]):
        difference = torch.sub(*(inner(x.mT, x.mT) / x.shape[1] for x in (of_student, of_teacher)))
        return reduce(difference.square().sum((1, 2)), reduction)
    pairs = ((of_teacher, of_teacher), (of_student, of_student), (of_student, of_teacher))
    teachers, students, across = (inner(x, y).square().mean((1, 2)) for x, y in pairs)
    return reduce(teachers + students - 2 * across, reduction)


def vid(student: Tensor, teacher: Tensor, *, variance: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return variational information distillation (Ahn et al. 2019, arXiv:1904.05835, section 3).

        mean_{c, h, w} ((x_t - mu)^2 / v[c] + log v[c]) / 2

    which is -log q(x_t | student) of a normal distribution, but for log(2 pi) / 2: the smaller, the higher the lower
    bound of the information that the student's features have of the teacher's. It may be negative.

    Args:
        student: mu, the teacher's features as regressed from the student's: maps (B, C, H, W) or vectors (B, C).
        teacher: features of the same shape; no gradient flows into them.
        variance: v (C,), above 0; learned.
        reduction: "none" gives (B,), "mean" a scalar.
    """
    same_shape(student, teacher, "vid")
    if student.ndim not in {2, 4} or 0 in student.shape or variance.shape != student.shape[1:2]:
        raise ValueError(
            "vid needs maps (B, C, H, W) or vectors (B, C) and a variance (C,), "
            f"not {tuple(student.shape)} and {tuple(variance.shape)}"
        )
    student, teacher, variance = precise(student, teacher.detach(), variance)
    variance = variance.view(-1, *[1] * (student.ndim - 2))
    return reduce((((student - teacher).square() / variance + variance.log()) / 2).flatten(1).mean(1), reduction)


def vid_parts(student: tuple[int, ...], teacher: tuple[int, ...], *, samples: int) -> Regression:
    """Return what `vid` learns: the regression of the teacher's features, and their variance.

    Args:
        student: shape of the student's features without the batch axis: (C, H, W) or (D).
        teacher: the teacher's, of the same kind.
        samples: of the training split; a regression keeps nothing of them.
    """
    del samples
    if len(student) != len(teacher) or len(student) not in {1, 3}:
        raise ValueError(f"vid needs two maps (C, H, W) or two vectors (D), not {student} and {teacher}")
    return Regression(student, teacher)


class Regression(nn.Module):
    """Three 1x1 convolutions (for vectors: linear layers) with ReLU between them, as wide as the teacher's features.

    Maps get the teacher's height and width first, as `resize` does it. The variance of each of the teacher's channels
    is softplus(r) + 1e-5, and 5 at the start.

    Args:
        student: shape (C, H, W) or (D).
        teacher: shape (C', H', W') or (D').
    """

    def __init__(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
        super().__init__()
        inputs, outputs = student[0], teacher[0]
        layers = [
            nn.Conv2d(width, outputs, kernel_size=1) if len(teacher) == 3 else nn.Linear(width, outputs)
            for width in (inputs, outputs, outputs)
        ]
        self.mean = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        self.raw_variance = nn.Parameter(torch.full((outputs,), math.log(math.expm1(5.0 - _NOISE))))

    def forward(self, student: Tensor, teacher: Tensor, *, samples: Tensor, targets: Tensor) -> dict[str, Any]:
        """Return the arguments of `vid`."""
        features = student.to(self.raw_variance.dtype)
        if features.ndim == 4:
            features = resize(features, (teacher.shape[2], teacher.shape[3]))
        return {
            "student": self.mean(features),
            "teacher": teacher.detach(),
            "variance": softplus(self.raw_variance) + _NOISE,
        }


def _rows(student: Tensor, teacher: Tensor, name: str) -> tuple[Tensor, ...]:
    """Return features of one shape as (B, D), wide enough, the teacher's without gradient."""
    same_shape(student, teacher, name)
    if student.ndim < 2 or 0 in student.shape:
        raise ValueError(f"{name} needs features (B, ...), not {tuple(student.shape)}")
    return precise(student.flatten(1), teacher.detach().flatten(1))


def _maps(student: Tensor, teacher: Tensor, name: str) -> tuple[Tensor, ...]:
    """Return maps of one height and width, the smaller ones, wide enough, the teacher's without gradient."""
    same_batch(student, teacher, name)
    for maps in (student, teacher):
        dimensions(maps, "B, C, H, W", name)
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return tuple(resize(maps, size) for maps in precise(student, teacher.detach()))


def _attention(maps: Tensor, power: float) -> Tensor:
    """Return where maps (B, C, H, W) are strong, (B, HW), each of length 1."""
    if power == 2:  # the usual case, for which no sign has to be taken away
        return unit(maps.square().mean(1).flatten(1))
    strength = maps.abs()
    zero = strength == 0  # where the slope of a power below 1 is infinite
    powers = strength.pow(power) if power >= 1 else strength.masked_fill(zero, 1).pow(power).masked_fill(zero, 0)
    return unit(powers.mean(1).flatten(1))


def _rbf(student: Tensor, teacher: Tensor, *, bandwidths: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Return the kernels of features (n, D) and (m, D): (n, n) of the student's, (m, m) of the teacher's, (n, m)."""
    # Distances are blind to a shift; around zero the differences below lose least.
    centre = torch.cat([student.detach(), teacher]).mean(0)
    student, teacher = student - centre, teacher - centre
    blocks = [_squared_distances(x, y) for x, y in ((student, student), (teacher, teacher), (student, teacher))]
    students, teachers, across = (block.detach() for block in blocks)
    within = [
        block[*torch.triu_indices(len(block), len(block), 1, device=block.device)] for block in (students, teachers)
    ]
    median = torch.cat([*within, across.flatten()]).median()
    scale = median.where(median > 0, 1)
    return tuple(torch.stack([torch.exp(block / (-2 * b**2 * scale)) for b in bandwidths]).mean(0) for block in blocks)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared distances (n, m) of rows (n, D) and (m, D)."""
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * inner(x, y)).clamp_min(0)
