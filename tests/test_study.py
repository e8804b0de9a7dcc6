"""A study: which methods there are, what its trials share, and what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny import TINY

from edgekd import study
from edgekd.artifact import open_store
from edgekd.errors import UsageError
from edgekd.report.study import build

BRIEF = [*TINY, "student.epochs=2", "data.train_samples=200", "data.test_samples=60"]
VARY = ["distill.losses=kd,dkd+hint"]


def names(*vary: str) -> list[str]:
    return [method.name for method in study.methods(vary)]


def test_methods_are_all_combinations_of_what_is_varied():
    assert names() == ["distilled"]
    assert names("distill.losses=kd,dkd+hint") == ["kd", "dkd+hint"]
    assert names("distill.alpha=0.5,0.9", "distill.temperature=2,4") == [
        "alpha 0.5, temperature 2", "alpha 0.5, temperature 4", "alpha 0.9, temperature 2", "alpha 0.9, temperature 4",
    ]  # fmt: skip
    (only,) = study.methods(["distill={losses: [kd, hint], labels: 1}"])
    assert only.changes == ("distill={losses: [kd, hint], labels: 1}",)  # commas in brackets are the value's own


def test_the_short_form_gives_way_to_a_list_of_losses():
    kd, both = study.methods(VARY)
    assert kd.changes == ("distill.losses=[kd]", "distill.temperature=null", "distill.alpha=null")
    assert both.told() == {"distill.losses": "[dkd, hint]"}


@pytest.mark.parametrize(
    ("vary", "told"),
    [
        ("distill.losses", "write key=value,value"),
        ("distill.losses=", "write key=value,value"),
        ("student.width=4,8", "at an equal budget"),
        ("data.omit=[3]", "at an equal budget"),
    ],
)
def test_what_cannot_be_varied(vary, told):
    with pytest.raises(UsageError, match=told):
        study.methods([vary])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of two methods on two seeds, and the store it filled."""
    folder = tmp_path_factory.mktemp("study")
    store = folder / "store"
    return study.run("digits", seeds=2, vary=VARY, overrides=BRIEF, out=folder / "out", store=store), store


def test_every_trial_is_there_and_its_scores_are_those_of_the_test_split(finished):
    done, _ = finished
    content = json.loads((done.path / "study.json").read_text())
    assert [(row["method"], row["seed"]) for row in content["trials"]] == [
        (method, seed) for seed in (0, 1) for method in ("baseline", "kd", "dkd+hint")
    ]
    with np.load(done.path / "scores.npz", allow_pickle=False) as scores:
        assert set(scores) == {"teacher"} | {f"{row['method']}/{row['seed']}" for row in content["trials"]}
        assert {array.shape for array in scores.values()} == {(60,)}
        means = {name: float(array.mean()) for name, array in scores.items()}
    assert content["teacher"]["test"] == means["teacher"]
    rows = {row["name"]: row for row in done.results["methods"]}
    for name, row in rows.items():
        expected = [100 * (means[f"{name}/{seed}"] - means[f"baseline/{seed}"]) for seed in (0, 1)]
        assert row["difference_pp"] == pytest.approx(np.mean(expected))
        assert row["by_seed_pp"] == pytest.approx(expected)
    assert build.build(done.path) == done.results


def test_trials_differ_by_seed_and_share_teacher_and_samples(finished):
    done, store = finished
    made = sorted(path.name.rpartition("-")[0] for path in (store / "artifacts").iterdir())
    assert made.count("teacher") == made.count("targets") == 1
    assert (made.count("baseline"), made.count("distill"), made.count("score")) == (2, 4, 7)
    content = json.loads((done.path / "study.json").read_text())
    assert len({row["artifact"] for row in content["trials"]}) == 6
    plans = [json.loads(path.read_text())["parts"] for path in (store / "artifacts").glob("distill-*/manifest.json")]
    assert len({parts["data"] for parts in plans}) == 1
    assert {parts["seed"]["run"] for parts in plans} == {0, 1}
    assert {parts["seed"]["data"] for parts in plans} == {0}


def test_a_study_goes_on_where_it_was(finished, tmp_path):
    """Two seeds are there; asked for three, only the third one's trials are made."""
    _, store = finished
    before = set((store / "artifacts").iterdir())
    done = study.run("digits", seeds=3, vary=VARY, overrides=BRIEF, out=tmp_path / "out", store=store)
    new = sorted(path.name.rpartition("-")[0] for path in set((store / "artifacts").iterdir()) - before)
    assert new == ["baseline", "distill", "distill", "score", "score", "score"]
    assert done.results["seeds"] == [0, 1, 2]
    assert not list((open_store(store).root / "partial").iterdir())


def test_the_command_prints_a_table_or_json(finished, edgekd, monkeypatch):
    _, store = finished
    monkeypatch.setenv("EDGEKD_HOME", str(store))
    more = [part for change in BRIEF for part in ("--set", change)]
    outcome = edgekd("study", "digits", "--seeds", "2", "--vary", VARY[0], "--out", "again", *more)
    assert outcome.code == 0
    assert "INCONCLUSIVE" in outcome.out or "BEATS" in outcome.out or "DOES NOT BEAT" in outcome.out
    told = json.loads(
        edgekd("study", "digits", "--seeds", "2", "--vary", VARY[0], "--json", "--out", "again", *more).out
    )
    assert {row["name"] for row in told["methods"]} == {"kd", "dkd+hint"}


def test_a_training_that_fails_is_a_row_and_the_others_are_compared(finished, tmp_path):
    """A loss so large that nothing is finite, for one method alone."""
    _, store = finished
    vary = ["distill.losses=kd,{hint: {weight: 1.0e+39}}"]
    done = study.run("digits", seeds=2, vary=vary, overrides=BRIEF, out=tmp_path / "partly", store=store)
    assert done.failed == 2
    rows = json.loads((done.path / "study.json").read_text())["trials"]
    assert [row["status"] for row in rows] == ["done", "done", "failed"] * 2
    assert "the term hint became" in rows[2]["error"]
    methods = {row["name"]: row for row in done.results["methods"]}
    assert methods["kd"]["difference_pp"] is not None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--vary", "distill.losses=kdd"], "there is no loss 'kdd'"),
        (["--seeds", "0"], "0 is not in the range"),
        (["--set", "distill=false"], "nothing to study"),
        (["--vary", "student.width=8"], "at an equal budget"),
    ],
)
def test_wrong_studies_are_refused_before_any_work(arguments, told, edgekd, workplace):
    outcome = edgekd("study", "digits", *arguments)
    assert outcome.code == 2
    assert told in outcome.text
    assert not list((workplace.parent / "store").glob("artifacts/*"))
