"""One trial: values are chosen, the student is trained, and its validation score told epoch by epoch."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.trial import Trial

from edgekd import lessons
from edgekd.artifact import Abandoned, Artifact
from edgekd.errors import EdgekdError
from edgekd.making import Workshop
from edgekd.recipe import Recipe
from edgekd.space import Range
from edgekd.stage import Judged, unjudged
from edgekd.tuning.variations import Variations

AS_IT_IS, WORKER, REASON, FACTS = "as it is", "worker", "reason", "facts"
"""What a trial is marked with: that it is the recipe as it is, who runs it, why it ended, what its student is."""
SIZE = "edgekd.training.networks:size"


@dataclass(frozen=True)
class Bench:
    """Where trials are made.

    Args:
        cores: the processors that a student is trained on, None for all; what students share (teachers, their
            answers) is made on all, as `edgekd pipeline` would.
        made: what they share, by its key.
    """

    shop: Workshop
    variations: Variations
    cores: frozenset[int] | None = None
    made: dict[str, Artifact] = field(default_factory=dict)


def attempt(bench: Bench, trial: Trial) -> float:
    """Return the validation score of a trial's student in its best epoch.

    Raises:
        TrialPruned: it is worse than others after as many epochs, or its student larger than the recipe allows.
        EdgekdError: its values do not go together, or the training failed.
    """
    recipe = bench.variations.trial(chosen(bench.variations, trial))
    told: set[int] = set()
    try:
        _check_size(bench, recipe, trial)
        found = student(bench, recipe, f"trial {trial.number}", _judging(bench.variations, trial, told))
    except Abandoned as stopped:
        trial.set_user_attr(REASON, str(stopped))
        raise optuna.TrialPruned(str(stopped)) from None
    except EdgekdError as error:
        trial.set_user_attr(REASON, str(error))
        raise
    trial.set_user_attr(FACTS, {"seconds": found.seconds, "artifact": found.digest, **_size(found.facts)})
    curves = found.facts["curves"]
    for epoch, score in zip(curves["epoch"], curves["validation"], strict=True):
        if epoch not in told:  # an equal student was there already
            trial.report(score, epoch)
    return float(found.facts["validation"])


def student(
    bench: Bench, recipe: Recipe, label: str, judged: Judged = unjudged, *, seed: int | None = None
) -> Artifact:
    """Train a recipe's student, or take it from the store.

    Args:
        seed: of the student alone, in place of the recipe's.
    """
    known = lessons.prepared(recipe, bench.shop, bench.made)
    show = replace(bench.shop.show, judging=lambda title: judged if title == label else unjudged, say=_unsaid)
    with _on(bench.cores):
        own = recipe if seed is None else lessons.seeded(recipe, seed)
        return lessons.student(own, label, known, replace(bench.shop, show=show))


def chosen(variations: Variations, trial: Trial) -> dict[str, Any]:
    """Return the values of a trial. Of the recipe as it is, those that the space has, so that they are learned from."""
    asked = variations.search.space
    if trial.user_attrs.get(AS_IT_IS):
        asked = {path: asked[path] for path in variations.own()}
    return {path: _suggested(trial, path, values) for path, values in asked.items()}


def labels(values: tuple[Any, ...]) -> list[str]:
    """Return choices as texts, which any storage keeps."""
    return [json.dumps(value, sort_keys=True) for value in values]


def fixed(own: Mapping[str, Any], variations: Variations) -> dict[str, Any]:
    """Return values as a storage has them."""
    space = variations.search.space
    return {path: value if isinstance(space[path], Range) else labels((value,))[0] for path, value in own.items()}


def _suggested(trial: Trial, path: str, values: Range | tuple[Any, ...]) -> Any:
    if not isinstance(values, Range):
        return json.loads(trial.suggest_categorical(path, labels(values)))
    if values.whole:
        return trial.suggest_int(path, int(values.low), int(values.high), step=int(values.step or 1), log=values.log)
    return trial.suggest_float(path, values.low, values.high, step=values.step, log=values.log)


def _judging(variations: Variations, trial: Trial, told: set[int]) -> Judged:
    """Return what tells a trial's epochs, and ends the trial where others were better.

    Args:
        told: the epochs, added to.
    """
    stops = variations.search.pruner and not trial.user_attrs.get(AS_IT_IS)

    def judged(epoch: int, curves: Mapping[str, float]) -> None:
        trial.report(curves["validation"], epoch)
        told.add(epoch)
        if stops and epoch < variations.epochs and trial.should_prune():
            raise Abandoned(f"stopped after epoch {epoch}: half of the trials were better by then")

    return judged


def _check_size(bench: Bench, recipe: Recipe, trial: Trial) -> None:
    """Give up a student that is larger than it may be, before it is trained."""
    search = bench.variations.search
    limits = {"macs": search.max_macs, "parameters": search.max_parameters}
    if trial.user_attrs.get(AS_IT_IS) or not any(limits.values()):
        return
    module, _, function = SIZE.partition(":")
    size = getattr(importlib.import_module(module), function)(recipe.student, bench.shop.data)
    for name, limit in limits.items():
        if limit is not None and size[name] > limit:
            raise Abandoned(f"not trained: {size[name]:,} {name} are more than search.max_{name}: {limit:,}")


def _size(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("parameters", "macs")}


def _unsaid(text: str) -> None:
    """A search has a line of its own for each trial."""


@contextmanager
def _on(cores: frozenset[int] | None) -> Iterator[None]:
    """Run on some of the processors."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
