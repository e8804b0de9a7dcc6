"""Methods that repair a calibrated network before it is stored; each stays only where the validation split says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from edgekd.compress import quantization, simulation
from edgekd.compress.bias_correction import correct_biases
from edgekd.compress.equalization import equalize
from edgekd.compress.histograms import Histogram
from edgekd.compress.rounding import round_weights
from edgekd.data import Split
from edgekd.report.statistics import Interval, t_interval
from edgekd.stage import Progress, silent
from edgekd.tasks import Task

Seen = Mapping[str, Histogram]
"""Of `quantization.calibrate`."""

Method = Callable[[GraphModule, GraphModule, Sequence[Tensor]], None]
"""Changes a calibrated graph in place, given that, the graph whose floats are to be met, and calibration inputs."""

ORDER: dict[str, Method] = {
    "equalize": equalize,
    "round": round_weights,
    "bias": correct_biases,
}
"""Integers are chosen in the scales that equalization leaves; means are right after the last change of a weight."""
AUTO: tuple[str, ...] = ("equalize", "bias")
"""What is tried unasked; choosing each rounding takes many times as long."""
SOUND_DB = 20.0
"""Answers of integers whose noise is at most a hundredth of their energy are left as they are."""
BLOCK = 20
"""Samples whose mean loss is one value of a comparison."""
AT_ONCE = 100
"""Samples that pass together: whole blocks."""


@dataclass(frozen=True)
class Judged:
    """What the validation split says of the integers of a graph: the score, and the mean loss of each block."""

    score: float
    losses: np.ndarray

    @property
    def loss(self) -> float:
        """The mean over the blocks."""
        return float(self.losses.mean())


def improve(
    names: Sequence[str] | Literal["auto"],
    prepared: GraphModule,
    batches: Sequence[Tensor],
    calibrate: Callable[[], Seen],
    split: Split,
    task: Task,
    progress: Progress = silent,
) -> tuple[Seen, list[dict[str, Any]]]:
    """Calibrate a graph, try methods on it one after the other, in place, and undo each that does not help.

    A method helps where the loss falls by more than chance, paired over blocks of samples (95 %, Student's t), and the
    score does not fall.

    Args:
        names: of `ORDER`, in which they are tried. "auto": those of `AUTO`, until the answers to the first batch are
            sound.
        batches: calibration inputs.
        calibrate: finds the ranges of the graph and returns what it saw.
        split: the validation split.

    Returns:
        What the calibration that counts saw, and for each method {"method", "kept", "score" and "loss" (before and
        after), "loss_change_95", "seconds"}; the interval is None where there are too few samples for one, and nothing
        is kept then.
    """
    seen, unasked = calibrate(), names == "auto"
    names = AUTO if unasked else names
    if not names or (unasked and _sound(prepared, batches)):
        return seen, []
    floats = quantization.duplicate(prepared)
    best, told = judge(prepared, split, task), []
    for number, name in enumerate(name for name in ORDER if name in names):
        progress(number, len(names), f"trying {name}")
        began, before = time.monotonic(), quantization.observed_state(prepared)
        ORDER[name](prepared, floats, batches)
        seen_now = seen
        if name == "equalize":
            quantization.forget(prepared)
            seen_now = calibrate()
        now = judge(prepared, split, task)
        change = _change(best, now)
        kept = change is not None and change[1] < 0 and now.score >= best.score
        told.append(
            {
                "method": name,
                "kept": kept,
                "score": [best.score, now.score],
                "loss": [best.loss, now.loss],
                "loss_change_95": None if change is None else list(change),
                "seconds": time.monotonic() - began,
            }
        )
        if kept:
            best, seen = now, seen_now
            if name == "equalize":  # the floats that are to be met have other channels from now on
                floats = quantization.duplicate(prepared)
        else:
            quantization.load_observed_state(prepared, before)
        if unasked and _sound(prepared, batches):
            break
    return seen, told


def _sound(prepared: GraphModule, batches: Sequence[Tensor]) -> bool:
    return simulation.sqnr_db(prepared, batches[0]) >= SOUND_DB


def judge(prepared: GraphModule, split: Split, task: Task) -> Judged:
    """Return how good a calibrated graph is, as it will be exported."""
    network = quantization.convert(prepared)
    scores, losses = np.zeros(len(split)), []
    with torch.no_grad():
        for begin in range(0, len(split), AT_ONCE):
            here = slice(begin, begin + AT_ONCE)
            outputs = network(torch.from_numpy(split.inputs[here])).float()
            scores[here] = task.score({"outputs": outputs.numpy()}, split.targets[here])
            blocks = zip(
                torch.split(outputs, BLOCK), torch.split(torch.from_numpy(split.targets[here]), BLOCK), strict=True
            )
            losses += [float(task.loss(logits, targets)) for logits, targets in blocks]
    return Judged(float(scores.mean()), np.array(losses))


def _change(before: Judged, after: Judged) -> Interval | None:
    """Return the 95 % interval of the change of the loss."""
    changes = after.losses - before.losses
    return t_interval(changes) if len(changes) > 1 else None
