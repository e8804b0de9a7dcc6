from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgekd.report.baseline import wording
from edgekd.report.baseline.comparing import Change, compare
from edgekd.report.baseline.figures import KINDS
from edgekd.report.baseline.intervals import independent
from edgekd.report.baseline.snapshot import Figure, Snapshot
from edgekd.report.statistics import paired_difference_interval, wilson_interval

from .baselines import ratio, snapshot


def only(before: Snapshot, after: Snapshot, **options: Any) -> Change:
    (change,) = compare(before, after, **options).changes
    return change


# ---- intervals


def test_the_interval_of_two_proportions_is_that_of_newcombe() -> None:
    """Newcombe 1998, table II, (a) 56/70 and 48/80, method 10: 0.0524 to 0.3339."""
    a, b = (Figure(value=k / n, ci=wilson_interval(k, n)) for k, n in ((56, 70), (48, 80)))
    worsening, ci = independent(KINDS["accuracy"], a, b, 0.95)
    assert worsening == pytest.approx(20)
    assert ci == pytest.approx((5.24, 33.39), abs=0.01)


def test_equal_intervals_of_ratios_add_up_as_errors_do() -> None:
    """exp(±√2 s) around the ratio, whichever way is better."""
    a, b = ratio(4.0, 0.03), ratio(5.0, 0.03)
    half = math.sqrt(2) * math.log(1.03)
    for kind, centre in (("speedup", math.log(4 / 5)), ("size", math.log(5 / 4))):
        worsening, ci = independent(KINDS[kind], a, b, 0.95)
        assert worsening == pytest.approx(100 * math.expm1(centre))
        assert ci == pytest.approx([100 * math.expm1(centre - half), 100 * math.expm1(centre + half)])


def test_another_confidence_widens_as_the_normal_distribution_does() -> None:
    a, b = ratio(4.0, 0.03), Figure(value=4.0)
    _, ci = independent(KINDS["speedup"], a, b, 0.99)
    assert math.log1p(ci[1] / 100) == pytest.approx(math.log(1.03) * 2.575829 / 1.959964, rel=1e-5)


def test_a_bound_at_zero_leaves_a_ratio_open() -> None:
    _, ci = independent(KINDS["energy"], Figure(value=2.0, ci=(1.0, 3.0)), Figure(value=1.0, ci=(0.0, 2.0)), 0.95)
    assert ci[1] > 1e9
    before, after = ({"int8": {"energy": figure}} for figure in (ratio(2.0, 0.01), Figure(value=0.1, ci=(0.0, 9.0))))
    assert only(snapshot(before), snapshot(after)).outcome == "noise"


# ---- one figure


def _scores(n: int, wrong: range) -> np.ndarray:
    scores = np.ones(n)
    scores[list(wrong)] = 0
    return scores


def test_samples_are_compared_one_by_one() -> None:
    """20 more are wrong of 1000: as two proportions that is hidden by the others, as pairs it is not."""
    old, new = _scores(1000, range(300)), _scores(1000, range(320))
    found = only(snapshot(right={"int8": old}), snapshot(right={"int8": new}))
    assert (found.outcome, found.paired, found.worsening) == ("failed", True, pytest.approx(2.0))
    assert found.ci == pytest.approx([100 * bound for bound in paired_difference_interval(old, new)])
    alone = [
        snapshot({"int8": {"accuracy": Figure(value=s.mean(), ci=wilson_interval(s.sum(), 1000))}}) for s in (old, new)
    ]
    found = only(*alone)
    assert (found.outcome, found.paired) == ("noise", False)
    assert "no difference shown, and 6.0" in wording.sentence(found)


@pytest.mark.parametrize(
    ("tolerance", "outcome"), [({}, "failed"), ({"accuracy": 0.5}, "failed"), ({"accuracy": 1.5}, "worse")]
)
def test_a_change_fails_where_all_of_its_interval_is_beyond_what_is_allowed(tolerance, outcome) -> None:
    before, after = (snapshot(right={"int8": _scores(1000, range(k))}) for k in (10, 30))
    found = only(before, after, tolerances=tolerance)
    assert found.ci is not None
    assert 0.5 < found.ci[0] < 1.5
    assert found.outcome == outcome
    kept = before.model_copy(update={"tolerances": tolerance})
    assert only(kept, after).outcome == outcome
    assert only(kept, after, tolerances={"accuracy": 0.1}).outcome == "failed"  # what is asked now wins


def test_a_gain_is_said_to_be_one() -> None:
    found = only(*(snapshot(right={"int8": _scores(1000, range(k))}) for k in (30, 10)))
    assert found.outcome == "better"
    assert wording.moved(found) == "2.00 pp better [1.11, 2.88]"


@pytest.mark.parametrize(
    ("after", "floor", "outcome"),
    [(5.0, 0.0, "same"), (4.98, 0.0, "noise"), (4.8, 0.0, "worse"), (4.8, 0.03, "noise"), (4.5, 0.0, "failed"),
     (4.5, 0.03, "failed"), (5.2, 0.0, "better"), (5.2, 0.03, "noise")],
)  # fmt: skip
def test_a_speed_must_leave_the_noise_of_both_runs_and_the_tolerance(after, floor, outcome) -> None:
    """Intervals of ±1 %; the floors of the two runs multiply: 3 % each are 6.1 %. Allowed are 5 %."""
    runs = [snapshot({"int8": {"speedup": ratio(x, 0.01)}}, device={"noise_floor": floor}) for x in (5.0, after)]
    assert only(*runs).outcome == outcome


@pytest.mark.parametrize(("size", "outcome"), [(1000, "same"), (1009, "worse"), (1011, "failed"), (900, "better")])
def test_a_size_has_no_noise(size, outcome) -> None:
    found = only(*(snapshot({"int8": {"size": Figure(value=one)}}) for one in (1000, size)))
    assert found.outcome == outcome


def test_all_intervals_hold_together() -> None:
    figures = {name: {"speedup": ratio(2.0, 0.01), "size": Figure(value=10)} for name in "abcde"}
    found = compare(snapshot(figures), snapshot(figures))
    assert found.confidence == pytest.approx(1 - 0.05 / 5)  # sizes have no interval


def test_two_runs_of_equal_networks_rarely_fail_and_a_worse_one_does() -> None:
    """10 networks of 90 % on 500 samples, drawn anew: at most one comparison in twenty may fail, by chance."""
    rng = np.random.default_rng(0)
    names = [str(k) for k in range(10)]

    def run(accuracy: float) -> Snapshot:
        return snapshot(right={name: (rng.random(500) < accuracy).astype(float) for name in names})

    failed = [any(one.outcome == "failed" for one in compare(run(0.9), run(0.9)).changes) for _ in range(200)]
    assert np.mean(failed) < 0.05
    found = [one.outcome for _ in range(10) for one in compare(run(0.9), run(0.75)).changes]
    assert found.count("failed") > 95


# ---- what cannot be compared


def test_what_is_gone_is_missing_and_what_is_new_is_new() -> None:
    figure = {"size": Figure(value=10)}
    before = snapshot({"a": figure, "b": figure, "c": {"speedup": ratio(2, 0.1)}})
    after = snapshot({"a": figure | {"speedup": ratio(2, 0.1)}, "c": figure, "d": figure})
    found = {(one.variant, one.figure): one for one in compare(before, after).changes}
    assert {key: one.outcome for key, one in found.items()} == {
        ("a", "size"): "same", ("a", "speedup"): "new", ("b", None): "missing", ("c", "speedup"): "missing",
        ("c", "size"): "new", ("d", None): "new",
    }  # fmt: skip
    assert "the run has no such variant; it has a, c, d" in wording.sentence(found["b", None])


def test_a_variant_that_failed_on_the_device_says_why() -> None:
    after = snapshot({}, device={"failed": {"int8": "ConvInteger is not implemented"}})
    found = only(snapshot({"int8": {"size": Figure(value=1)}}), after)
    assert (found.outcome, found.why) == ("missing", "ConvInteger is not implemented")


def test_a_device_that_was_not_measured() -> None:
    before = snapshot({"int8": {"size": Figure(value=1)}})
    other = snapshot(devices={"jetson": before.devices["cpu"]})
    found = only(before, other)
    assert (found.outcome, found.pending) == ("missing", False)
    assert "it has jetson" in found.why
    waiting = snapshot(device={"error": "pending: run the bundle", "pending": True})
    assert only(before, waiting).pending
    assert compare(before, other, devices=["jetson"]).changes == ()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"processor": "B"}, "it was measured on A, now on B"),
        ({"macs": 20}, "the reference is another network"),
        ({"batch_size": 8}, "the batch size was 1, now 8"),
    ],
)
def test_a_ratio_of_another_place_is_not_compared(changed, why) -> None:
    figures = {"int8": {"speedup": ratio(5, 0.01), "size": Figure(value=1)}}
    slow = {"int8": {"speedup": ratio(2, 0.01), "size": Figure(value=1)}}
    before, after = snapshot(figures), snapshot(slow, device=changed)
    found = {one.figure: one for one in compare(before, after).changes}
    assert found["speedup"].outcome == "incomparable"
    assert why in found["speedup"].why
    assert found["size"].outcome == "same"


def test_another_processor_is_compared_where_somebody_says_how_much_it_may_differ() -> None:
    before, after = (
        snapshot({"int8": {"speedup": ratio(x, 0.01)}}, device={"processor": p}) for x, p in ((5, "A"), (2, "B"))
    )
    assert only(before, after, tolerances={"speedup": 25}).outcome == "failed"
    assert only(before, after, tolerances={"speedup": 200}).outcome == "worse"


def test_energy_that_was_not_measured_is_no_failure() -> None:
    before = snapshot({"int8": {"energy": ratio(3, 0.01)}}, device={"energy_scope": "package"})
    assert only(before, snapshot({"int8": {}})).outcome == "incomparable"
    other = snapshot({"int8": {"energy": ratio(1, 0.01)}}, device={"energy_scope": "board"})
    assert "the energy was that of the package, now of the board" in only(before, other).why


@pytest.mark.parametrize("change", [{"recipe": "other"}, {"task": "other"}, {"reference": None}])
def test_another_recipe_task_or_reference_is_told(change) -> None:
    run = snapshot(right={"int8": np.ones(10)})
    found = compare(run, snapshot(right={"int8": np.ones(10)}, **change))
    assert len(found.mismatches) == 1
    assert found.mismatches[0].startswith(next(iter(change)))
    assert found.changes[0].outcome == "incomparable"


def test_other_data_are_told_and_so_are_other_labels_of_the_same_data() -> None:
    run = snapshot(right={"int8": np.ones(10)})
    for data, text in (
        ({"digest": "e"}, "data: digest d"),
        ({"labels": "m"}, "test split: 10 labels of digest l"),
        ({"samples": 9}, "test split: 10 labels of digest l"),  # a file edited by hand: nothing is paired
    ):
        other = run.model_copy(update={"data": run.data.model_copy(update=data)})
        assert compare(run, other).mismatches[0].startswith(text)


def test_what_else_is_different_is_told() -> None:
    before = snapshot(settings={"prune.ratio": "0.5", "seed": "0"}, versions={"onnxruntime": "1.30"})
    after = snapshot(
        settings={"prune.ratio": "0.25", "seed": "0"}, versions={"onnxruntime": "1.31"}, device={"recommended": "int8"}
    )
    assert compare(before, after).notes == (
        "cpu: recommended variant none, now int8", "prune.ratio: 0.5, now 0.25", "onnxruntime: 1.30, now 1.31",
    )  # fmt: skip


def test_cases_are_red_where_the_outcome_is() -> None:
    figure = {"size": Figure(value=10)}
    found = compare(snapshot({"a": figure, "b": figure}), snapshot({"a": {"size": Figure(value=20)}, "c": figure}))
    assert [(case.name, case.group, case.status) for case in wording.cases(found)] == [
        ("a: size", "cpu", "failed"), ("b", "cpu", "error"), ("c", "cpu", "skipped"),
    ]  # fmt: skip
    assert wording.cases(found)[0].message == "10.0 B -> 20.0 B: 100.0 % larger, 1 % allowed"
    assert [bool(case.detail) for case in wording.cases(found)] == [True, True, False]
    assert wording.headline(found) == "1 worse by more than is allowed, 1 missing, 1 new"
