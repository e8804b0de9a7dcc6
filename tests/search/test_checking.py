"""A trained network is judged by its whole interval on what a smaller one does better, and on the validation split."""

from __future__ import annotations

import pytest

from edgekd.options import Gates
from edgekd.search import checking


def figures(speedup, ci, drop, size=100_000, error=None, energy=None):
    quality = {"drop_pp": drop, "drop_pp_ci": [drop - 1, drop + 1], "accuracy": 0.9, "accuracy_ci": [0.8, 1.0]}
    return {
        "validation": quality, "reasons": {}, "speedup": speedup, "speedup_ci": list(ci), "size_bytes": size,
        "latency_ns": {"p50": 1e6 / speedup, "p50_ci": [1e6 / ci[1], 1e6 / ci[0]], "p99": 2e6 / speedup},
        "peak_memory_bytes": None, "energy_j": energy, "energy_j_ci": energy and [energy, energy],
        "energy_reason": "there is no meter", "energy_simulated": None, "error": error,
    }  # fmt: skip


TEACHER = figures(1.0, (1.0, 1.0), 0.0, size=1_000_000)


def found(limits, **variants):
    return checking.best("cpu", {"teacher": TEACHER, **variants}, "teacher", Gates(**limits))


def test_a_network_that_holds_everything_misses_nothing():
    checked = found({"min_speedup": 3, "max_drop_pp": 1}, small=figures(3.4, (3.1, 3.6), 0.4))
    assert checked.missed == ()
    assert checked.drop_pp == 0.4


@pytest.mark.parametrize(
    ("limits", "variant", "excess"),
    [
        ({"min_speedup": 3}, figures(2.0, (1.5, 2.5), 0), 2.0),
        ({"min_speedup": 3}, figures(3.1, (2.5, 3.6), 0), 1.2),  # it may be too slow
        ({"max_p50_ms": 0.25}, figures(4.0, (2.0, 5.0), 0), 2.0),
        ({"max_p99_ms": 0.25}, figures(4.0, (2.0, 5.0), 0), 2.0),
        ({"max_size_mb": 0.05}, figures(4.0, (3.0, 5.0), 0), 2.0),
        ({"min_compression": 20}, figures(4.0, (3.0, 5.0), 0), 2.0),
        ({"max_energy_mj": 5}, figures(4.0, (3.0, 5.0), 0, energy=0.010), 2.0),
    ],
)
def test_what_a_smaller_network_would_do_better_says_by_how_much(limits, variant, excess):
    (missed,) = found(limits, small=variant).missed
    assert missed.cost
    assert missed.excess == pytest.approx(excess)
    assert missed.told.startswith("cpu: small: ")


def test_an_interval_that_reaches_beyond_is_told():
    (missed,) = found({"min_speedup": 3}, small=figures(3.1, (2.5, 3.6), 0)).missed
    assert missed.told.endswith(", but its interval reaches beyond the limit")


def test_accuracy_is_judged_by_its_estimate_and_no_smaller_network_mends_it():
    assert found({"min_speedup": 2, "max_drop_pp": 1}, small=figures(3, (2.9, 3.1), 0.9)).missed == ()
    (missed,) = found({"min_speedup": 2, "max_drop_pp": 1}, small=figures(3, (2.9, 3.1), 1.2)).missed
    assert not missed.cost
    assert "drop 1.20 pp" in missed.told


def test_what_cannot_be_measured_cannot_be_held():
    (missed,) = found({"max_energy_mj": 5}, small=figures(4.0, (3.0, 5.0), 0)).missed
    assert not missed.cost
    assert "there is no meter" in missed.told


def test_the_variant_that_misses_least_counts_then_the_fastest():
    variants = {
        "small": figures(2.0, (1.9, 2.1), 0.2), "small-int8": figures(4.0, (3.9, 4.1), 0.5),
        "small-qat": figures(5.0, (4.9, 5.1), 2.0), "small-x": figures(9.0, (8, 10), 0.0, error="it fails"),
    }  # fmt: skip
    checked = found({"min_speedup": 3, "max_drop_pp": 1}, **variants)
    assert checked.missed == ()
    assert checked.drop_pp == 0.5
