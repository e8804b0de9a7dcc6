from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgekd.report.study import comparing
from edgekd.report.study.comparing import BEATS, DOES_NOT_BEAT, INCONCLUSIVE, Comparison, compare

Array = np.ndarray


def against(differences: Array, **options: float) -> Comparison:
    """Compare a method with these differences [seeds, N], as fractions, to a baseline of nothing."""
    zeros = np.zeros(differences.shape[1])
    scores = {"baseline": dict.fromkeys(range(len(differences)), zeros), "kd": dict(enumerate(differences))}
    return compare(scores, "baseline", **options).methods["kd"]  # type: ignore[arg-type]


def crossed(rng: np.random.Generator, seeds: int, items: int, of: tuple[float, float, float]) -> Array:
    """Differences [seeds, items] with standard deviations of seeds, items, and both together."""
    a, b, e = of
    return (
        a * rng.normal(size=(seeds, 1)) + b * rng.normal(size=(1, items)) + e * rng.normal(size=(seeds, items))
    )  # fmt: skip


def closed_form(differences: Array) -> tuple[float, float]:
    """Welch's interval in percentage points: variances of seeds and items added, t with Satterthwaite's degrees."""
    n, items = differences.shape
    of_seeds = differences.mean(axis=1).var(ddof=1) / n
    of_items = differences.mean(axis=0).var() / items
    total = of_seeds + of_items
    half = stats.t.ppf(0.975, (n - 1) * (total / of_seeds) ** 2) * math.sqrt(total)
    return 100 * (differences.mean() - half), 100 * (differences.mean() + half)


@pytest.mark.parametrize(("seeds", "of"), [(5, (0.05, 0.3, 0.5)), (10, (0.1, 0.3, 0.5)), (30, (0.3, 0.3, 0.5))])
def test_the_interval_is_the_normal_approximation_of_the_crossed_variance(
    seeds: int, of: tuple[float, float, float]
) -> None:
    differences = crossed(np.random.default_rng(1), seeds, 400, of)
    expected = closed_form(differences)
    assert against(differences).ci == pytest.approx(expected, abs=0.08 * (expected[1] - expected[0]))


def test_of_items_alone_it_is_the_bootstrap_of_their_mean() -> None:
    items = np.random.default_rng(3).integers(-1, 2, 500).astype(float)
    found = against(np.stack([items, items, items]))  # the seeds do not differ
    expected = stats.bootstrap((100 * items,), np.mean, method="percentile", rng=np.random.default_rng(0))
    assert found.ci == pytest.approx(expected.confidence_interval, abs=0.3)


@pytest.mark.parametrize(("seeds", "of"), [(3, (0.05, 0.3, 0.5)), (5, (0.05, 0.3, 0.5)), (5, (0.2, 0.3, 0.5))])
def test_the_interval_covers_the_truth(seeds: int, of: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(300):
        ci = against(crossed(rng, seeds, 100, of), resamples=600, seed=trial).ci
        assert ci is not None
        covered += ci[0] <= 0 <= ci[1]
    assert covered / 300 >= 0.91


def test_under_no_difference_hardly_any_study_says_that_a_method_beats() -> None:
    rng = np.random.default_rng(11)
    fooled = 0
    for trial in range(100):
        shared = crossed(rng, 4, 100, (0.2, 0.1, 0.2))
        scores = {
            name: dict(enumerate(0.5 * shared + crossed(rng, 4, 100, (0.1, 0.1, 0.3))))
            for name in ("baseline", "a", "b", "c", "d")
        }
        compared = compare(scores, "baseline", resamples=2000, seed=trial)
        fooled += any(one.verdict == BEATS for one in compared.methods.values())
    assert fooled / 100 <= 0.06  # 2.5 % of the studies, of which the interval leaves out the other side


def test_identical_methods_do_not_beat() -> None:
    scores = np.random.default_rng(0).integers(0, 2, (4, 100)).astype(float)
    by_seed = dict(enumerate(scores))
    found = compare({"baseline": by_seed, "copy": by_seed}, "baseline").methods["copy"]
    assert (found.difference, found.ci, found.verdict) == (0.0, (0.0, 0.0), DOES_NOT_BEAT)
    assert (found.wins, found.ties) == (0, 4)
    assert found.why == "even the upper end of the interval is below the margin of 0.1 pp"


def test_a_big_difference_beats_and_its_reverse_does_not() -> None:
    rng = np.random.default_rng(2)
    low = dict(enumerate((rng.random((5, 2000)) < 0.80).astype(float)))
    high = dict(enumerate((rng.random((5, 2000)) < 0.95).astype(float)))
    better = compare({"baseline": low, "kd": high}, "baseline").methods["kd"]
    worse = compare({"baseline": high, "kd": low}, "baseline").methods["kd"]
    assert (better.verdict, better.wins) == (BEATS, 5)
    assert better.difference == pytest.approx(15, abs=1.5)
    assert (worse.verdict, worse.why) == (DOES_NOT_BEAT, "it is worse: the whole interval lies below 0")
    assert better.ci is not None
    assert worse.ci == pytest.approx((-better.ci[1], -better.ci[0]), abs=0.1)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_order_does_not_matter(seeds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.random((3, seeds, 200)) < 0.8).astype(float)
    names = ("baseline", "a", "b")
    plain = {name: dict(enumerate(one)) for name, one in zip(names, scores, strict=True)}
    turned = {name: dict(reversed(plain[name].items())) for name in reversed(names)}
    assert compare(plain, "baseline") == compare(turned, "baseline")
    shuffled = rng.permutation(200)
    moved = {name: {key: one[shuffled] for key, one in by_seed.items()} for name, by_seed in plain.items()}
    for name in ("a", "b"):
        here, there = (compare(each, "baseline").methods[name] for each in (plain, moved))
        assert here.by_seed == pytest.approx(there.by_seed, abs=1e-9)
        assert here.ci is not None
        # The items drawn are others: the same interval, but for the noise of 10,000 resamples.
        assert there.ci == pytest.approx(here.ci, abs=0.12 * (here.ci[1] - here.ci[0]) + 1e-9)


def test_a_method_does_not_depend_on_the_others_but_its_verdict_allows_for_their_number() -> None:
    rng = np.random.default_rng(5)
    scores = {name: dict(enumerate((rng.random((4, 500)) < 0.8).astype(float))) for name in ("baseline", "a", "b", "c")}
    alone = compare({name: scores[name] for name in ("baseline", "a")}, "baseline")
    together = compare(scores, "baseline")
    assert alone.verdict_confidence == pytest.approx(0.95)
    assert together.verdict_confidence == pytest.approx(1 - 0.05 / 3)
    one, same = alone.methods["a"], together.methods["a"]
    assert one.ci == one.verdict_ci
    assert one.ci is not None
    assert same.verdict_ci is not None
    assert same.ci == pytest.approx(one.ci, abs=1e-5)  # float32 sums of another shape
    assert same.verdict_ci[0] < one.ci[0] < one.ci[1] < same.verdict_ci[1]


def test_it_repeats_itself() -> None:
    differences = crossed(np.random.default_rng(4), 3, 50, (0.1, 0.1, 0.1))
    assert against(differences, seed=3) == against(differences, seed=3) != against(differences, seed=4)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = crossed(np.random.default_rng(4), 3, 50, (0.1, 0.1, 0.1))
    whole = against(differences).ci
    monkeypatch.setattr(comparing, "_CHUNK", 7 * 50)
    assert against(differences).ci == pytest.approx(whole, abs=1e-4)


def test_one_seed_is_no_ground_for_a_verdict() -> None:
    found = against(np.full((1, 100), 0.5))
    assert (found.difference, found.ci, found.verdict_ci, found.verdict) == (50.0, None, None, INCONCLUSIVE)
    assert found.why == "one seed does not tell how much seeds differ; run at least 2, better 5"


def test_only_common_seeds_are_compared() -> None:
    wins, loses = np.full(10, 0.9), np.full(10, 0.1)
    half = np.full(10, 0.5)
    scores = {"baseline": {0: half, 1: half, 2: half}, "kd": {3: loses, 2: wins, 1: wins}, "never": {}}
    found = compare(scores, "baseline").methods
    assert (found["kd"].seeds, found["kd"].by_seed) == ((1, 2), pytest.approx((40.0, 40.0)))
    assert (found["never"].difference, found["never"].verdict) == (None, INCONCLUSIVE)
    assert "no seed has both" in found["never"].why


@pytest.mark.parametrize(
    ("ci", "verdict", "why"),
    [
        ((0.01, 0.5), BEATS, "above 0"),
        ((0.01, 0.05), BEATS, "if below 0.1 pp"),
        ((-0.5, 0.099), DOES_NOT_BEAT, "even the upper end"),
        ((-0.5, -0.1), DOES_NOT_BEAT, "worse"),
        ((-0.5, 0.1), INCONCLUSIVE, "0.1 pp or more"),
        ((0.0, 0.5), INCONCLUSIVE, "0.1 pp or more"),
    ],
)
def test_the_verdicts_limits(ci: tuple[float, float], verdict: str, why: str) -> None:
    found, told = comparing.judge(5, ci, 0.1)
    assert found == verdict
    assert why in told


@pytest.mark.parametrize("bad", [lambda: np.zeros(3), lambda: np.zeros((2, 4)), lambda: np.zeros(0)])
def test_scores_of_other_items_are_refused(bad: Callable[[], Array]) -> None:
    with pytest.raises(ValueError, match="one value per item"):
        compare({"baseline": {0: np.zeros(4)}, "kd": {0: bad()}}, "baseline")
