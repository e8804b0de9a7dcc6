"""Several teachers become one: each gets a weight, per sample, and their softened answers are mixed.

Every weighting mixes probabilities, so that the gradient of KL(mixture || student) is the weighted mean of the single
teachers' gradients, and equal teachers are one teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

LARGEST_SHARE = 0.6
"""Of one teacher in the gradient's weighting (C in Du et al. 2020); no less than an equal share."""
SWEEPS = 100
ROUNDING = 1e-9
"""A smaller share, and a smaller change of one, is none."""


def mean(logits: Tensor) -> Tensor:
    """Return equal weights.

    Args:
        logits: the teachers' answers (M, B, K).

    Returns:
        (M, B), each column sums to 1; so do all functions here.
    """
    return torch.full(logits.shape[:2], 1 / len(logits), device=logits.device)


def weighted(logits: Tensor, shares: Sequence[float]) -> Tensor:
    """Return fixed weights, in proportion to `shares` (M,), which are above 0."""
    given = torch.tensor(shares, dtype=torch.float32, device=logits.device)
    return (given / given.sum())[:, None].expand(logits.shape[:2])


def entropy(logits: Tensor) -> Tensor:
    """Return more weight for teachers that are surer of a sample (EBKD, Kwon et al. 2020).

        w_m = (1 - H_m / sum_n H_n) / (M - 1),  H the entropy of softmax(z)

    Equal weights where all are certain.
    """
    log_p = log_softmax(logits.float(), dim=-1)
    uncertainty = -(log_p.exp() * log_p).sum(-1)
    total = uncertainty.sum(0)
    share = torch.where(total > 0, uncertainty / total.where(total > 0, 1), 1 / len(logits))
    return (1 - share) / max(1, len(logits) - 1) if len(logits) > 1 else torch.ones_like(share)


def confidence(logits: Tensor, wrong: Tensor) -> Tensor:
    """Return more weight for teachers that are right about a sample (Zhang et al. 2022, arXiv:2201.00007, eq. 3).

        w_m = (1 - softmax_m(CE_m)) / (M - 1),  M teachers (CA-MKD)

    Args:
        wrong: the cross-entropy of each teacher with the label (M, B).
    """
    if len(logits) == 1:
        return torch.ones_like(wrong)
    return (1 - softmax(wrong, dim=0)) / (len(logits) - 1)


def gradient(logits: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return the weights whose mixed gradient is the shortest (AEKD, Du et al. 2020, NeurIPS, eq. 7).

        min over a of || sum_m a_m g_m ||^2,  0 <= a_m <= C,  sum_m a_m = 1,  g_m = dKL(p_m || p_s)/dz_s = p_s - p_m

    up to factors that do not matter, over the answers to the whole batch; one weight per teacher for all its samples.

    Args:
        student: its answers (B, K).
    """
    own = softmax(student.detach().float() / temperature, dim=-1)
    gradients = (own - softmax(logits.float() / temperature, dim=-1)).flatten(1)
    chosen = least_norm((gradients @ gradients.T).tolist(), max(LARGEST_SHARE, 1 / len(logits)))
    return torch.tensor(chosen, device=logits.device)[:, None].expand(logits.shape[:2])


def least_norm(gram: list[list[float]], largest: float) -> list[float]:
    """Return the a that minimises a' G a with sum a = 1 and 0 <= a <= largest, by moves between two entries (SMO).

    Args:
        gram: positive semidefinite (M, M).
        largest: at least 1 / M.
    """
    count = len(gram)
    chosen = [1 / count] * count
    slopes = [sum(row) / count for row in gram]
    for _ in range(SWEEPS * count):
        giver = max((i for i in range(count) if chosen[i] > ROUNDING), key=slopes.__getitem__)
        taker = min((i for i in range(count) if chosen[i] < largest - ROUNDING), key=slopes.__getitem__, default=giver)
        curvature = gram[giver][giver] + gram[taker][taker] - 2 * gram[giver][taker]
        room = min(chosen[giver], largest - chosen[taker])
        fall = slopes[giver] - slopes[taker]
        move = min(room, fall / curvature) if curvature > 0 else 0.0
        if move <= ROUNDING:
            break
        chosen[giver] -= move
        chosen[taker] += move
        slopes = [s + move * (row[taker] - row[giver]) for s, row in zip(slopes, gram, strict=True)]
    return chosen


def fused(logits: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Return the logits (B, K) whose softened probabilities are the weighted mean of the teachers'.

        z = T * (log sum_m w_m softmax(z_m / T) + sum_m w_m logsumexp(z_m / T))

    The second part is a constant per sample, which makes equal teachers give back their own logits.

    Args:
        logits: (M, B, K).
        weights: (M, B).
    """
    scaled = logits.float() / temperature
    sizes = scaled.logsumexp(-1, keepdim=True)
    mixed = (weights.log()[..., None] + scaled - sizes).logsumexp(0)
    return temperature * (mixed + (weights[..., None] * sizes).sum(0))
