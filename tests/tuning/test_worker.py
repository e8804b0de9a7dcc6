"""Workers on one storage: the total is met exactly, and nothing that is finished is lost when one of them is killed.

The trials are stand-ins without networks; `tests/soak/test_search.py` has the real ones.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.storages._heartbeat import HeartbeatThread
from optuna.trial import TrialState

from edgekd.errors import StageError
from edgekd.making import Show
from edgekd.tuning import crew, search, worker
from edgekd.tuning.storage import Heartbeat, opened
from edgekd.tuning.trial import AS_IT_IS, REASON, Bench, chosen
from edgekd.tuning.variations import Variations, written
from edgekd.tuning.worker import Order, counting
from tuning.postgresql import server
from tuning.standing_in import DOOMED, LIMIT_S, attempt, score, work

SPACE = {"distill.temperature": [1, 2, 4, 8], "student.learning_rate": {"low": 0.01, "high": 0.1}}
BEAT = Heartbeat(every_s=1, grace_s=6)


@pytest.fixture
def ready(write_recipe, workplace, monkeypatch) -> Iterator[Callable[..., tuple[Order, optuna.Study, Bench]]]:
    """Return a function that gives what a worker is told, its study and its bench, on a storage."""
    monkeypatch.setattr(worker, "attempt", attempt)

    def make(url: str, trials: int) -> tuple[Order, optuna.Study, Bench]:
        storage = closing.enter_context(opened(url, BEAT))
        variations = Variations(written(str(write_recipe(search={"space": SPACE, "trials": trials, "startup": 2})), ()))
        study = search._study(storage, "one", variations)
        order = Order(variations.written, url, "one", workplace / "store", None, BEAT)
        shop = worker.pipeline.open_workshop(variations.recipe, store=order.store, data_dir=None, show=Show())
        return order, study, Bench(shop, variations)

    with ExitStack() as closing:
        yield make


@contextmanager
def storage(kind: str) -> Iterator[str]:
    if kind == "sqlite":
        yield "sqlite:///trials.db"
    else:
        with server() as url:
            yield url


def ask(study: optuna.Study) -> optuna.Trial:
    """Take a trial, without a sign of life."""
    with pytest.warns(UserWarning, match="Heartbeat"):
        return study.ask()


def _finished(study: optuna.Study) -> dict[int, float | None]:
    return {trial.number: trial.value for trial in study.trials if trial.state.is_finished()}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_worker_that_is_killed_loses_no_finished_trial_and_its_own_is_tried_again(kind, ready):
    context = multiprocessing.get_context("spawn")
    with storage(kind) as url:
        order, study, _ = ready(url, 12)
        workers = [context.Process(target=work, args=(order,), daemon=True) for _ in range(2)]
        for process in workers:
            process.start()
        deadline = time.monotonic() + LIMIT_S
        running = None
        while running is None and time.monotonic() < deadline:
            time.sleep(0.05)
            found = [trial for trial in study.trials if trial.number == DOOMED and worker.WORKER in trial.user_attrs]
            running = found[0].user_attrs[worker.WORKER] if found and len(found[0].params) == 2 else None
        before = _finished(study)
        os.kill(int(running.partition(":")[2]), signal.SIGKILL)
        for process in workers:
            process.join(LIMIT_S)
        assert sorted(process.exitcode for process in workers) == [-signal.SIGKILL, 0]
        trials = counting(study.trials)
        assert len(before) >= 3
        assert before.items() <= _finished(study).items()
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 12
        again = next(trial for trial in trials if DOOMED in trial.system_attrs.get("retry_history", ()))
        lost = study.trials[DOOMED]
        assert (lost.state, again.system_attrs["retry_history"]) == (TrialState.FAIL, [DOOMED])
        assert again.params == lost.params
        assert again.value == pytest.approx(
            score({**again.params, "distill.temperature": int(again.params["distill.temperature"])})
        )


def test_the_first_trial_is_the_recipe_as_it_is_with_the_values_that_the_space_has(ready):
    order, study, bench = ready("sqlite:///trials.db", 3)
    worker.run(bench, study, order)
    first = study.trials[0]
    assert first.user_attrs[AS_IT_IS]
    assert first.params == {"distill.temperature": "4"}  # a learning rate of 0.001 is not within
    assert [trial.user_attrs.get(AS_IT_IS) for trial in study.trials[1:]] == [None, None]


def test_one_worker_repeats_itself_and_goes_on_as_if_it_had_not_stopped(ready):
    def values(study: optuna.Study) -> list[dict[str, Any]]:
        return [trial.params for trial in study.trials]

    order, study, bench = ready("sqlite:///whole.db", 6)
    worker.run(bench, study, order)
    order, parts, bench = ready("sqlite:///parts.db", 2)
    worker.run(bench, parts, order)
    assert len(parts.trials) == 2
    order, parts, bench = ready("sqlite:///parts.db", 6)
    worker.run(bench, parts, order)
    assert values(parts) == values(study)
    assert len({trial.params["student.learning_rate"] for trial in study.trials[1:]}) == 5


def test_a_trial_that_fails_is_told_and_counts(ready, monkeypatch):
    def fail(bench: Bench, trial: optuna.Trial) -> float:
        if trial.number == 1:
            trial.set_user_attr(REASON, "the loss became NaN")
            raise StageError("the loss became NaN")
        return attempt(bench, trial)

    monkeypatch.setattr(worker, "attempt", fail)
    order, study, bench = ready("sqlite:///trials.db", 3)
    said = []
    worker.run(bench, study, order, ended=said.append)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert [trial.number for trial in said] == [0, 1, 2]


def test_an_interrupted_trial_waits_to_be_tried_again_with_its_values(ready, monkeypatch):
    def interrupted(bench: Bench, trial: optuna.Trial) -> float:
        chosen(bench.variations, trial)
        raise KeyboardInterrupt

    order, study, bench = ready("sqlite:///trials.db", 2)
    monkeypatch.setattr(worker, "attempt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.run(bench, study, order)
    monkeypatch.setattr(worker, "attempt", attempt)
    worker.run(bench, study, order)
    assert [(trial.state.name, bool(trial.user_attrs.get(AS_IT_IS))) for trial in study.trials] == [
        ("FAIL", True), ("COMPLETE", True), ("COMPLETE", False),
    ]  # fmt: skip
    assert study.trials[0].params == study.trials[1].params


def test_a_trial_whose_worker_died_before_its_first_sign_does_not_hold_up_the_search(ready):
    order, study, bench = ready("sqlite:///trials.db", 2)
    ask(study)  # the first one, and nobody is there
    worker.run(bench, study, order)
    assert [trial.state.name for trial in counting(study.trials)] == ["COMPLETE", "COMPLETE"]
    assert study.trials[0].state == TrialState.FAIL
    assert sum(bool(trial.user_attrs.get(AS_IT_IS)) for trial in counting(study.trials)) == 1


def test_a_trial_whose_worker_has_a_name_has_had_a_sign_of_life(ready, monkeypatch):
    """Or nobody would notice the loss of one whose worker was killed before Optuna's thread had come to its turn."""
    signs = []

    def named(bench: Bench, trial: optuna.Trial) -> float:
        assert signs == [trial._trial_id]
        return attempt(bench, trial)

    order, study, bench = ready("sqlite:///trials.db", 1)
    monkeypatch.setattr(worker, "attempt", named)
    monkeypatch.setattr(HeartbeatThread, "start", lambda self: None)
    monkeypatch.setattr(HeartbeatThread, "join", lambda self: None)
    monkeypatch.setattr(RDBStorage, "record_heartbeat", lambda self, trial: signs.append(trial))
    worker.run(bench, study, order)
    assert len(signs) == 1


def test_of_two_who_ask_for_the_last_trial_one_has_asked_in_vain(ready):
    _, study, bench = ready("sqlite:///trials.db", 1)
    taken = ask(study)
    worker._one(bench, study, lambda trial: None)
    study.tell(taken, 0.5)
    assert [trial.number for trial in counting(study.trials)] == [0]
    assert len(study.trials) == 2


def test_a_storage_that_goes_away_ends_the_work_with_a_message(ready, monkeypatch):
    order, study, bench = ready("sqlite:///trials.db", 2)

    def gone(*_: Any, **__: Any) -> None:
        raise optuna.exceptions.StorageInternalError("gone")

    monkeypatch.setattr(study._storage, "get_all_trials", gone)
    with pytest.raises(StageError, match=r"sqlite:///trials.db was lost.*run the same command again"):
        worker.run(bench, study, order)


def test_workers_have_parts_of_the_processors_of_equal_size(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 5, 7, 9})
    assert [worker.share(index, 2) for index in range(2)] == [{1, 3}, {5, 7}]
    assert worker.share(0, 1) is None
    assert worker.share(0, 6) is None


def test_what_is_at_work_is_told_in_one_line(ready):
    _, study, _ = ready("sqlite:///trials.db", 3)
    trial, _ = ask(study), ask(study)
    trial.report(0.5, 1)
    trial.report(0.75, 2)
    assert crew._running(study.trials) == "trial 0 (epoch 2: 0.7500), trial 1"
