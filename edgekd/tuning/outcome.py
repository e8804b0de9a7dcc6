"""What a search found: every trial, which values matter, and whether the best trial is better than the recipe was."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from edgekd import lessons, rundir, tasks
from edgekd.artifact import write_text
from edgekd.errors import StageError
from edgekd.report.study import comparing
from edgekd.tuning import plots
from edgekd.tuning.storage import shown
from edgekd.tuning.trial import AS_IT_IS, FACTS, REASON, Bench, student
from edgekd.tuning.variations import Changes, Variations, told
from edgekd.tuning.worker import FINISHED, Order, counting
from edgekd.version import __version__

SCHEMA = 1
FILE, BEST_FILE = "search.json", "best.yaml"
FEWEST = 4
"""Completed trials that say anything about which values matter."""
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "stopped", TrialState.FAIL: "failed"}
AS_WRITTEN, BEST = "recipe", "best"


def line(trial: FrozenTrial) -> str:
    """Return a trial in one line."""
    values = "the recipe as it is" if trial.user_attrs.get(AS_IT_IS) else told(changes(trial))
    state = STATES.get(trial.state, "lost") if trial.state != TrialState.FAIL or REASON in trial.user_attrs else "lost"
    score = f"  validation {trial.value:.4f}" if trial.state == TrialState.COMPLETE else ""
    why = f"  ({trial.user_attrs[REASON].splitlines()[0]})" if REASON in trial.user_attrs else ""
    return f"{f'trial {trial.number}':<12} {state}{score}  {values}{why}"


def changes(trial: FrozenTrial) -> dict[str, Any]:
    """Return the values of a trial."""
    return {path: json.loads(value) if isinstance(value, str) else value for path, value in trial.params.items()}


def results(bench: Bench, study: Study, order: Order, run_id: str, started: datetime) -> dict[str, Any]:
    """Return the content of search.json; the best trial is compared on fresh seeds first.

    Raises:
        StageError: no trial was trained to its end.
    """
    variations = bench.variations
    counted = [trial for trial in counting(study.get_trials()) if trial.state in FINISHED]
    done = [trial for trial in counted if trial.state == TrialState.COMPLETE]
    if not done:
        reasons = [trial.user_attrs.get(REASON, "its worker was lost") for trial in counted]
        raise StageError(f"none of {len(counted)} trials was trained to its end; the first one: {reasons[0]}")
    first = next((trial for trial in done if trial.user_attrs.get(AS_IT_IS)), None)
    best = max(done, key=lambda trial: (trial.value or 0.0, trial is first, -trial.number))
    command = rundir.provenance(started, recipe=variations.recipe.resolved(), data={"digest": bench.shop.data.digest})
    return {
        "edgekd": __version__,
        "schema": SCHEMA,
        "kind": "search",
        "recipe": variations.recipe.name,
        "run_id": run_id,
        "study": study.study_name,
        "storage": shown(order.storage),
        "metric": tasks.load(variations.recipe.task).metric,
        "split": "validation",
        "epochs": variations.epochs,
        "samples": len(bench.shop.data.validation),
        "counts": {state: sum(STATES[trial.state] == state for trial in counted) for state in STATES.values()},
        "best": best.number,
        "as_it_is": first.number if first else None,
        "trials": [_row(trial) for trial in counted],
        "importances": _importances(done, variations),
        "comparison": _comparison(bench, best, first),
        "provenance": {**command, "command": _without(command["command"], order.storage)},
    }


def write(folder: Path, found: Mapping[str, Any], variations: Variations) -> None:
    """Write search.json, best.yaml and the plots into a search's folder."""
    best = next(row for row in found["trials"] if row["number"] == found["best"])
    write_text(folder / BEST_FILE, best_recipe(found, best, variations))
    plots.write(folder, found, variations.search.space)
    write_text(folder / FILE, json.dumps(found, indent=1, allow_nan=False))


def best_recipe(found: Mapping[str, Any], best: Mapping[str, Any], variations: Variations) -> str:
    """Return the best trial's recipe as a file: its values, and all else, its epochs too, as the recipe has it."""
    values: Changes = {} if best["as_it_is"] else best["values"]
    content = variations.written.recipe(values).resolved()
    del content["search"]
    head = [
        f"The best of {len(found['trials'])} trials of `edgekd search` on {variations.written.source}.",
        "",
        f"Does:  as that recipe, with {told(values)}.",
        f"Gives: validation {best['validation']:.4f} after {found['epochs']} epochs; {found['comparison']['text']}",
        "",
        f"  edgekd pipeline {BEST_FILE}",
    ]
    comment = "\n".join(f"# {text}".rstrip() for text in head)
    return f"{comment}\n{yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)}"


def _row(trial: FrozenTrial) -> dict[str, Any]:
    facts = trial.user_attrs.get(FACTS, {})
    return {
        "number": trial.number,
        "state": STATES[trial.state],
        "validation": trial.value if trial.state == TrialState.COMPLETE else None,
        "as_it_is": bool(trial.user_attrs.get(AS_IT_IS)),
        "values": changes(trial),
        "epochs": {str(epoch): score for epoch, score in sorted(trial.intermediate_values.items())},
        **{name: facts.get(name) for name in ("parameters", "macs", "seconds", "artifact")},
        "worker": trial.user_attrs.get("worker"),
        "retries": len(trial.system_attrs.get("retry_history", ())),
        "reason": trial.user_attrs.get(REASON) or ("its workers were lost" if trial.state == TrialState.FAIL else None),
    }


def _importances(done: Sequence[FrozenTrial], variations: Variations) -> dict[str, Any]:
    """Return each place's share of what the better trials have in common (PED-ANOVA; Watanabe et al. 2023)."""
    whole = [trial for trial in done if set(trial.params) == set(variations.search.space)]
    if len(whole) < FEWEST:
        return {"shares": None, "why": f"{len(whole)} completed trials are too few; at least {FEWEST}"}
    if len({trial.value for trial in whole}) == 1:
        return {"shares": None, "why": "all completed trials have the same score"}
    if len(variations.search.space) == 1:
        return {"shares": None, "why": "only one place is varied"}
    copied = optuna.create_study(direction="maximize")
    copied.add_trials(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about trials that are equally good
        shares = optuna.importance.get_param_importances(copied)
    return {"shares": shares, "why": None}


def _comparison(bench: Bench, best: FrozenTrial, first: FrozenTrial | None) -> dict[str, Any]:
    """Train the best trial and the recipe as it is on fresh seeds, and compare them on the validation split.

    The best trial's own score is the largest of many: some of that is luck, which fresh seeds do not have.
    """
    variations, seeds = bench.variations, bench.variations.search.seeds
    nothing: dict[str, Any] = {"verdict": None, "difference_pp": None, "ci_pp": None, "by_seed_pp": [], "seeds": []}
    if best is first:
        return {**nothing, "text": "no trial is better than the recipe as it is."}
    if seeds == 0:
        return {**nothing, "text": "not compared with the recipe as it is on other seeds (search.seeds: 0)."}
    scores: dict[str, dict[int, Any]] = {AS_WRITTEN: {}, BEST: {}}
    recipes = {AS_WRITTEN: variations.trial({}), BEST: variations.trial(changes(best))}
    fresh = range(variations.recipe.seed + 1, variations.recipe.seed + 1 + seeds)
    for seed in fresh:
        for name, recipe in recipes.items():
            label = f"{name}, seed {seed}"
            found = student(bench, recipe, label, seed=seed)
            scores[name][seed] = lessons.scores(recipe, found, bench.shop, label, "validation")
            bench.shop.show.say(f"{label:<24} validation {found.facts['validation']:.4f}")
    compared = comparing.compare(scores, AS_WRITTEN).methods[BEST]
    by_seed = dict(zip(compared.seeds, compared.by_seed, strict=True))
    return {
        "verdict": compared.verdict,
        "difference_pp": compared.difference,
        "ci_pp": compared.ci,
        "by_seed_pp": list(by_seed.values()),
        "seeds": list(by_seed),
        "text": _verdict(compared),
    }


def _verdict(compared: comparing.Comparison) -> str:
    span = f" [{compared.ci[0]:+.2f}, {compared.ci[1]:+.2f}]" if compared.ci else ""
    figures = f"{compared.difference:+.2f} pp{span} on {len(compared.seeds)} fresh seeds"
    if compared.verdict == comparing.BEATS:
        return f"better than the recipe as it is: {figures}."
    if compared.verdict == comparing.DOES_NOT_BEAT:
        return f"not better than the recipe as it is: {figures}; {compared.why}."
    return f"not told apart from the recipe as it is: {figures}; {compared.why}."


def _without(command: Sequence[str], url: str) -> list[str]:
    """Return a command line without a storage's password."""
    return [part.replace(url, shown(url)) for part in command]
