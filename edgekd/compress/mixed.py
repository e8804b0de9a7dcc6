"""Mixed precision by sensitivity: the layers that integers harm most stay in float, as few as the accuracy needs.

Layers are ranked by what each of them alone does to the answers, a matter of seconds. What then counts is the accuracy
of the converted graph on the whole validation split: layers go to float in that order until it is within the limit, and
each of them but the last is then tried as integers again. An interrupted search goes on behind what it measured last.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from edgekd import tasks
from edgekd.compress import quantization, sensitivity
from edgekd.data import Data
from edgekd.stage import Inputs, Progress
from edgekd.stages.quantize import Options
from edgekd.training import checkpoint
from edgekd.training.engine import accelerate
from edgekd.training.evaluation import evaluate

MAX_DROP_PP = 1.0
MINUTES = 10.0
SAMPLES = 128
"""Training samples that layers are ranked on."""
FORM = "mixed"
"""Of its checkpoint."""


@dataclass(frozen=True)
class Tried:
    """What was measured of one choice.

    Args:
        float_layers: the layers in float.
        validation: the score of the converted graph on the validation split.
        drop_pp: what it loses against the float network, in percentage points.
    """

    float_layers: tuple[str, ...]
    validation: float
    drop_pp: float


def choose(
    model: nn.Module,
    calibrated: Callable[[Collection[str]], GraphModule],
    excluded: Collection[str],
    options: Options,
    data: Data,
    inputs: Inputs,
    out: Path,
) -> tuple[Collection[str], dict[str, Any]]:
    """Return the layers of a network that stay in float, with the facts of the search.

    Args:
        model: the float network.
        calibrated: prepares and calibrates it, given the layers in float.
        excluded: the layers that are in float anyway.
        out: the partial artifact; its checkpoint holds what an interrupted search measured.
    """
    limit = MAX_DROP_PP if options.max_drop_pp is None else options.max_drop_pp
    task, accelerator = tasks.load(inputs.task), accelerate("cpu", "fp32")

    def score(network: nn.Module) -> float:
        return evaluate(network, data.validation, task, accelerator, divided=False)

    def with_floats(float_layers: Sequence[str]) -> float:
        return score(quantization.convert(calibrated({*excluded, *float_layers})))

    begun = checkpoint.load(out, FORM) or {
        "form": FORM, "seconds": 0.0, "measured": [], "float_validation": score(model),
        "ranking": sensitivity.sqnr_db(calibrated(excluded), [torch.from_numpy(data.train.inputs[:SAMPLES])]),
    }  # fmt: skip
    whole, ranking = begun["float_validation"], begun["ranking"]
    tried, ended = _searched(begun, with_floats, limit, options.minutes or MINUTES, inputs.progress, out)
    best = better(tried, limit)
    return {*excluded, *best.float_layers}, {
        "validation": best.validation,
        "float_validation": whole,
        "drop_pp": best.drop_pp,
        "max_drop_pp": limit,
        "held": best.drop_pp <= limit,
        "ended": ended,
        "sensitivity": [{"layer": n, "sqnr_db": db if math.isfinite(db) else None} for n, db in ranking.items()],
        "tried": [asdict(one) for one in tried],
    }


def _searched(
    begun: Mapping[str, Any],
    with_floats: Callable[[Sequence[str]], float],
    limit: float,
    minutes: float,
    progress: Progress,
    out: Path,
) -> tuple[list[Tried], str]:
    """Search on behind what a checkpoint holds, and keep each measurement in it."""
    began, ranking = time.monotonic(), list(begun["ranking"])
    measured = [Tried(*one) for one in begun["measured"]]
    known = list(measured)  # the search asks for the same again, in the same order

    def seconds() -> float:
        return float(begun["seconds"]) + time.monotonic() - began

    def judge(float_layers: Sequence[str]) -> Tried:
        if known:
            return known.pop(0)
        found = with_floats(float_layers)
        drop_pp = round(100 * (begun["float_validation"] - found), 9)
        progress(len(float_layers), len(ranking), f"drop {drop_pp:.2f} pp with layers in float")
        measured.append(Tried(tuple(float_layers), found, drop_pp))
        checkpoint.save(out, {**begun, "seconds": seconds(), "measured": [astuple(one) for one in measured]})
        return measured[-1]

    return search(ranking, judge, limit, lambda: not known and seconds() > 60 * minutes)


def search(
    ranking: Sequence[str],
    judge: Callable[[Sequence[str]], Tried],
    max_drop_pp: float,
    late: Callable[[], bool],
) -> tuple[list[Tried], str]:
    """Try which layers must stay in float.

    Args:
        ranking: layers, the most harmful first. They never all stay in float.
        judge: measures a choice.
        late: whether time is over; the first choice, without any layer in float, is measured anyway.

    Returns:
        What was tried, in order; and how it ended: "the limit holds", "no more layers", "out of time".
    """
    tried: list[Tried] = []
    for count in range(len(ranking)):
        tried.append(judge(ranking[:count]))
        if tried[-1].drop_pp <= max_drop_pp:
            break
        if late():
            return tried, "out of time"
    else:
        return tried, "no more layers"
    kept = list(tried[-1].float_layers)
    for name in reversed(kept[:-1]):  # without the last one the limit did not hold
        if late():
            return tried, "out of time"
        tried.append(judge([other for other in kept if other != name]))
        if tried[-1].drop_pp <= max_drop_pp:
            kept.remove(name)
    return tried, "the limit holds"


def better(tried: Sequence[Tried], max_drop_pp: float) -> Tried:
    """Return the best of what was tried: the fewest layers in float within the limit, else the smallest drop."""

    def rank(one: Tried) -> tuple[bool, float, float]:
        if one.drop_pp <= max_drop_pp:
            return False, len(one.float_layers), one.drop_pp
        return True, one.drop_pp, len(one.float_layers)

    return min(tried, key=rank)
