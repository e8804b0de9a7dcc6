"""Losses on the network's answers."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax


def kd(
    student: Tensor, teacher: Tensor, *, temperature: float = 4.0, reduction: Literal["none", "mean"] = "mean"
) -> Tensor:
    """Return T^2 * KL(teacher || student) of the softened answers (Hinton et al. 2015, arXiv:1503.02531, section 2).

        p = softmax(z / T);  T^2 * sum_k p_t[k] * (log p_t[k] - log p_s[k])

    The sum is over classes and the mean over samples ("batchmean"); a mean over elements would divide by the number of
    classes and weaken the teacher. T^2 keeps the gradient's size when T changes. All in log space and float32, so that
    saturated logits of any precision give finite values.

    Args:
        student: logits (B, K).
        teacher: logits (B, K); no gradient flows into them.

    Returns:
        (B,) for reduction "none", a scalar for "mean".
    """
    log_student = log_softmax(student.float() / temperature, dim=-1)
    log_teacher = log_softmax(teacher.detach().float() / temperature, dim=-1)
    per_sample = kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1) * temperature**2
    return per_sample if reduction == "none" else per_sample.mean()
