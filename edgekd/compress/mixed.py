"""Mixed precision by sensitivity: the layers that integers harm most stay in float, as few as the accuracy needs.

Where integers alone miss the limit, layers are ranked by what each of them alone does to the answers, a matter of
seconds. What counts is the accuracy of the converted graph on the whole validation split: layers go to float in that
order until it is within the limit, and each of them but the last is then tried as integers again. An interrupted search
goes on behind what it measured last.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
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
    integers: Callable[[Sequence[str]], GraphModule],
    options: Options,
    data: Data,
    inputs: Inputs,
    out: Path,
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the layers of a network that stay in float, with the facts of the search.

    Args:
        model: the float network.
        integers: makes its calibrated graph, given layers that stay in float.
        out: the partial artifact; its checkpoint holds what an interrupted search measured.
    """
    limit = MAX_DROP_PP if options.max_drop_pp is None else options.max_drop_pp
    task, accelerator = tasks.load(inputs.task), accelerate("cpu", "fp32")

    def score(network: nn.Module) -> float:
        return evaluate(network, data.validation, task, accelerator, divided=False)

    def ranked() -> dict[str, float]:
        return sensitivity.sqnr_db(integers(()), [torch.from_numpy(data.train.inputs[:SAMPLES])])

    begun = checkpoint.load(out, FORM) or {
        "form": FORM, "seconds": 0.0, "measured": [], "float_validation": score(model), "ranking": None,
    }  # fmt: skip
    tried, ended = _searched(
        begun, lambda layers: score(quantization.convert(integers(layers))), ranked, limit,
        options.minutes or MINUTES, inputs.progress, out,
    )  # fmt: skip
    best = better(tried, limit)
    return best.float_layers, {
        "validation": best.validation,
        "float_validation": begun["float_validation"],
        "drop_pp": best.drop_pp,
        "max_drop_pp": limit,
        "held": best.drop_pp <= limit,
        "ended": ended,
        "sensitivity": [
            {"layer": name, "sqnr_db": db if math.isfinite(db) else None}
            for name, db in (begun["ranking"] or {}).items()
        ],
        "tried": [asdict(one) for one in tried],
    }


def _searched(
    begun: dict[str, Any],
    scored: Callable[[Sequence[str]], float],
    ranked: Callable[[], dict[str, float]],
    limit: float,
    minutes: float,
    progress: Progress,
    out: Path,
) -> tuple[list[Tried], str]:
    """Search on behind what a checkpoint holds, and keep each measurement, and the ranking, in it."""
    began = time.monotonic()
    measured = [Tried(*one) for one in begun["measured"]]
    known = list(measured)  # the search asks for the same again, in the same order

    def seconds() -> float:
        return float(begun["seconds"]) + time.monotonic() - began

    def rank() -> list[str]:
        begun["ranking"] = begun["ranking"] or ranked()
        return list(begun["ranking"])

    def judge(float_layers: Sequence[str]) -> Tried:
        if known:
            return known.pop(0)
        found = scored(float_layers)
        drop_pp = round(100 * (begun["float_validation"] - found), 9)
        progress(len(measured), len(measured) + 1, f"drop {drop_pp:.2f} pp with {len(float_layers)} layers in float")
        measured.append(Tried(tuple(float_layers), found, drop_pp))
        checkpoint.save(out, {**begun, "seconds": seconds(), "measured": [astuple(one) for one in measured]})
        return measured[-1]

    return search(rank, judge, limit, lambda: not known and seconds() > 60 * minutes)


def search(
    rank: Callable[[], Sequence[str]],
    judge: Callable[[Sequence[str]], Tried],
    max_drop_pp: float,
    late: Callable[[], bool],
) -> tuple[list[Tried], str]:
    """Try which layers must stay in float.

    Args:
        rank: returns the layers, the most harmful first, if one has to stay in float. They never all do.
        judge: measures a choice.
        late: whether time is over; the first choice, without any layer in float, is measured anyway.

    Returns:
        What was tried, in order; and how it ended: "the limit holds", "no more layers", "out of time".
    """
    tried = [judge(())]
    ranking: Sequence[str] = ()
    while tried[-1].drop_pp > max_drop_pp:
        if late():
            return tried, "out of time"
        ranking = ranking or rank()
        if len(tried) >= len(ranking):
            return tried, "no more layers"
        tried.append(judge(ranking[: len(tried)]))
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
