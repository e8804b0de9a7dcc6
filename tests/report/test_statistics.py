from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgekd.report import statistics as own


@given(
    st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95, 0.99])
)
def test_wilson_is_scipys(counts: tuple[int, int], confidence: float) -> None:
    successes, n = counts
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert own.wilson_interval(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_stays_within_the_possible_at_the_ends() -> None:
    assert own.wilson_interval(0, 20)[0] == 0.0
    assert own.wilson_interval(20, 20)[1] == 1.0
    # At p = 0 the upper bound is z²/(n + z²).
    z = stats.norm.ppf(0.975)
    assert own.wilson_interval(0, 20)[1] == pytest.approx(z**2 / (20 + z**2))


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (5, 4), (-1, 4)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        own.wilson_interval(successes, n)


def test_mean_interval_of_right_and_wrong_is_wilson() -> None:
    scores = np.repeat([1.0, 0.0], [930, 70])
    assert own.mean_interval(scores) == own.wilson_interval(930, 1000)


def test_mean_interval_of_graded_scores_is_near_the_t_interval() -> None:
    scores = np.random.default_rng(1).beta(8, 2, 800)
    low, high = stats.t.interval(0.95, 799, scores.mean(), stats.sem(scores))
    assert own.mean_interval(scores) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_paired_difference_is_agresti_and_mins_formula() -> None:
    # 100 pairs: both right 80, reference only 12, variant only 5, neither 3.
    reference = np.repeat([1.0, 1.0, 0.0, 0.0], [80, 12, 5, 3])
    variant = np.repeat([1.0, 0.0, 1.0, 0.0], [80, 12, 5, 3])
    d = (12 - 5) / 102
    half = stats.norm.ppf(0.975) * math.sqrt((12.5 + 5.5) - (12.5 - 5.5) ** 2 / 102) / 102
    assert own.paired_difference_interval(reference, variant) == pytest.approx((d - half, d + half))


@given(st.integers(10, 300), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_paired_difference_changes_sign_when_the_sides_are_exchanged(n: int, seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 2, (2, n)).astype(float)
    low, high = own.paired_difference_interval(a, b)
    assert own.paired_difference_interval(b, a) == pytest.approx((-high, -low))


def test_paired_difference_interval_covers_the_true_difference() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        cell = rng.choice(3, 300, p=[0.90, 0.07, 0.03])  # agree; reference only; variant only
        low, high = own.paired_difference_interval((cell != 2).astype(float), (cell != 1).astype(float))
        covered += low <= 0.04 <= high
    assert covered / 400 >= 0.93


def test_paired_graded_scores_use_the_pairs() -> None:
    rng = np.random.default_rng(2)
    reference = rng.uniform(0.2, 0.9, 500)
    variant = reference - 0.05 + rng.normal(0, 0.01, 500)
    low, high = own.paired_difference_interval(reference, variant)
    assert low < 0.05 < high
    assert high - low < 0.004  # unpaired, the spread of the samples alone would make it 0.05


def test_unpaired_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="not paired"):
        own.paired_difference_interval(np.zeros(3), np.zeros(4))


def test_percentiles_interpolate_order_statistics() -> None:
    assert own.percentiles(np.arange(1, 102)) == (51.0, 91.0, 100.0)


def test_summary_of_known_latencies() -> None:
    process = np.arange(1, 101, dtype=np.int64).reshape(10, 10) * 1000
    summary = own.summarise_latency([process, process])
    assert (summary.p50, summary.mean, summary.min, summary.n, summary.rounds) == (50_500, 50_500, 1000, 200, 20)
    assert summary.p99 == pytest.approx(np.percentile(np.concatenate([process, process]), 99))
    assert summary.processes_range == 0
    assert summary.unstable  # the rounds go from 5.5 to 95.5 microseconds


def test_a_steady_machine_is_not_unstable_and_a_slow_process_is() -> None:
    steady = [np.full((20, 10), 1000, np.int64)] * 4
    assert not own.summarise_latency(steady).unstable
    assert not own.summarise_latency([*steady, np.full((20, 10), 1090, np.int64)]).unstable
    slow = own.summarise_latency([*steady, np.full((20, 10), 1110, np.int64)])
    assert (slow.unstable, slow.processes_range) == (True, pytest.approx(0.11))


def test_speedup_of_a_constructed_double_is_two_although_the_machine_wanders() -> None:
    rng = np.random.default_rng(0)
    reference, variant = [], []
    for _ in range(5):
        state = rng.choice([1.0, 1.9], size=(60, 1))  # the machine's speed, the same for both in a round
        reference.append((200_000 * state * rng.normal(1, 0.01, (60, 10))).astype(np.int64))
        variant.append((100_000 * state * rng.normal(1, 0.01, (60, 10))).astype(np.int64))
    found = own.paired_medians([own.ratios(own.round_medians(reference), own.round_medians(variant))])[0]
    assert found.value == pytest.approx(2.0, rel=0.003)
    assert found.ci[0] <= 2.0 <= found.ci[1]
    assert found.ci[1] - found.ci[0] < 0.02


def test_the_bootstrap_repeats_itself() -> None:
    rounds = [np.random.default_rng(k).normal(1, 0.1, 30) for k in range(3)]
    assert own.paired_medians([rounds], seed=3) == own.paired_medians([rounds], seed=3)


def test_the_vectorised_bootstrap_is_the_plain_one() -> None:
    rng = np.random.default_rng(0)
    processes = [rng.normal(mean, 0.1, size) for mean, size in ((1.0, 12), (1.1, 20), (0.95, 7))]
    plain = []
    for _ in range(4000):
        drawn = [processes[k] for k in rng.integers(3, size=3)]
        plain.append(np.median(np.concatenate([rng.choice(rounds, len(rounds)) for rounds in drawn])))
    low, high = np.quantile(plain, [0.025, 0.975])
    found = own.paired_medians([processes])[0]
    assert found.value == np.median(np.concatenate(processes))
    assert found.ci == pytest.approx((low, high), abs=0.012)


@pytest.mark.parametrize(("between", "least"), [(0.0, 0.95), (0.01, 0.80)])
def test_the_interval_covers_the_truth(between: float, least: float) -> None:
    # Five processes, each with an offset of its own: the outer level has five points, so coverage falls a little.
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(150):
        processes = [2.0 + rng.normal(0, between) + rng.normal(0, 0.02, 20) for _ in range(5)]
        low, high = own.paired_medians([processes], seed=trial)[0].ci
        covered += low <= 2.0 <= high
    assert covered / 150 >= least


def test_many_rounds_are_resampled_in_blocks_of_neighbours() -> None:
    rng = np.random.default_rng(0)
    rounds = [rng.normal(3, 0.3, 20_000) for _ in range(2)]
    found = own.paired_medians([rounds])[0]
    assert found.value == np.median(np.concatenate(rounds))
    assert found.ci[0] < 3 < found.ci[1]
    assert found.ci[1] - found.ci[0] < 0.03


def test_noise_floor_is_the_furthest_reach_of_the_control() -> None:
    assert own.noise_floor(own.Estimate(1.0, (0.98, 1.01))) == pytest.approx(1 / 0.98 - 1)
    assert own.noise_floor(own.Estimate(1.0, (0.99, 1.03))) == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("ratio", "ci", "floor", "same"),
    [
        (1.02, (1.01, 1.03), 0.03, True),  # within the floor
        (0.98, (0.97, 0.99), 0.03, True),  # the other way round too
        (1.05, (1.03, 1.07), 0.03, False),
        (1.05, (0.99, 1.11), 0.03, True),  # its own interval contains 1
        (1.02, (1.01, 1.03), None, False),  # without a control the interval decides
    ],
)
def test_a_difference_inside_the_noise_floor_is_none(
    ratio: float, ci: tuple[float, float], floor: float | None, same: bool
) -> None:
    assert own.is_no_difference(own.Estimate(ratio, ci), floor) is same
