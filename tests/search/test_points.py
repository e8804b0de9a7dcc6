"""The order of things in the search for a point, on devices whose truth differs from what is predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from edgekd.search import points, proposing
from edgekd.search.points import Checked, Missed
from edgekd.search.proposing import FLOAT, INT8, Allowed, Candidate, Proposer
from tests.search.test_proposing import FACTS, STRUCTURES, Device


@dataclass
class Bench:
    """A device that is slower than predicted, and networks whose accuracy is known.

    Args:
        truth: measured over predicted time, of a candidate.
        hair: the time of a trained network over that of an untrained one.
        accurate: whether a candidate is accurate enough.
        nearly: up to which excess only the interval reaches beyond the limit.
        disturbed: the time of a trained network that is measured for the first time over that of another time.
        gate: the limit that a slow network misses.
        tries: how often something may be tried again.
    """

    proposer: Proposer
    limit: float
    truth: object = lambda candidate: 1.0
    hair: float = 1.0
    accurate: object = lambda candidate: True
    nearly: float = 1.0
    disturbed: float = 1.0
    gate: str = "min_speedup"
    tries: int = 10
    told: list[str] = field(default_factory=list)
    timed: list = field(default_factory=list)
    scored: list = field(default_factory=list)
    checked: list = field(default_factory=list)
    again: list = field(default_factory=list)

    def _times(self, candidate, factor):
        return {
            device: {precision: time * factor for precision, time in self.proposer.times(device, candidate).items()}
            for device in self.proposer.allowed
        }

    def time(self, candidates):
        self.timed += [one.shape for one in candidates]
        return [self._times(one, self.truth(one)) for one in candidates]

    def score(self, candidate, times):
        self.scored.append(candidate)
        return math.exp(-candidate.harm) - (0.5 if candidate.how == "uniform" else 0)

    def check(self, candidate, *, again=False):
        (self.again if again else self.checked).append(candidate)
        missed, disturbed = [], 1.0 if again else self.disturbed
        for device, times in self._times(candidate, self.truth(candidate) * self.hair * disturbed).items():
            excess = min(times.values()) / self.limit
            if excess > 1:
                nearly = excess < self.nearly
                missed.append(Missed(device, self.gate, excess, "too slow", cost=True, nearly=nearly))
        if not self.accurate(candidate):
            missed.append(Missed("cpu", "max_drop_pp", 1.0, "too inexact", cost=False))
        return Checked(tuple(missed), drop_pp=candidate.harm)

    def time_is_left(self):
        self.tries -= 1
        return self.tries >= 0

    def say(self, text):
        self.told.append(text)


def bench(limit=0.45, structures=STRUCTURES, **truth):
    device = Device(precisions=truth.pop("precisions", (FLOAT, INT8)))
    proposer = Proposer(structures, {"cpu": device}, {"cpu": Allowed(time=limit)}, {})
    return Bench(proposer, limit, **truth)


def find(given, finalists=3):
    return points.find("small", given.proposer, given, finalists)


def test_the_most_accurate_finalist_that_holds_as_measured_is_trained_once():
    given = bench()
    found = find(given)
    assert found.refused is None
    assert found.best.checked == Checked((), found.best.candidate.harm)
    assert len(given.checked) == 1
    assert len(given.scored) == 3
    assert {one.how for one in given.scored} == {"descent", "uniform"}
    assert found.best.score == max(one.score for one in found.tried)
    assert len(set(given.timed)) == len(given.timed)  # nothing is measured twice


@pytest.mark.parametrize("truth", [0.7, 1.4, 1.9])
def test_predictions_are_corrected_by_what_is_measured(truth):
    """What is found uses the limit as well as where the prediction was right."""
    given = bench(truth=lambda candidate: truth, precisions=(FLOAT,))
    found = find(given)
    assert found.refused is None
    (time,) = found.best.measured["cpu"].values()
    assert time <= 0.45
    wider = [
        {**found.best.candidate.widths, name: width + 8}
        for name, width in found.best.candidate.widths.items()
        if width < 32
    ]
    structure = found.best.candidate.structure
    for widths in wider:
        assert truth * given.proposer.clocks["cpu"].predict(structure, FLOAT, [widths])[0] > 0.45


def test_a_search_whose_networks_are_slower_than_predicted_is_not_lost_for_another_whose_are_not():
    """Those of the descent take longer than predicted, uniform ones as long: each kind comes to fill the limit.

    That is what it gives where the prediction knows how long its networks take.
    """
    fine = proposing.structures(FACTS, 1)
    given = bench(
        structures=fine, truth=lambda candidate: 1.0 if candidate.how == "uniform" else 1.25, precisions=(FLOAT,)
    )
    found = find(given, finalists=2)
    assert {one.candidate.how for one in found.tried} == {"descent", "uniform"}
    for one in found.tried:
        factor = given.truth(one.candidate)
        knowing = Proposer(fine, {"cpu": Device(factor, precisions=(FLOAT,))}, given.proposer.allowed, {})
        harms = [other.harm for other in knowing.candidates() if other.how == one.candidate.how]
        assert one.candidate.harm == min(harms)


def test_finalists_are_the_least_harmful_of_each_kind_then_the_next():
    kinds = [("descent", 0.3), ("descent", 0.1), ("descent", 0.2), ("uniform", 0.9), ("other", 0.5)]
    given = [Candidate(0, FLOAT, how, {"a": width}, harm) for width, (how, harm) in enumerate(kinds)]
    for count in range(1, 7):
        assert [one.widths["a"] for one in points.finals(given, count)] == [1, 4, 3, 2, 0][:count]


def test_a_missed_limit_is_tightened_until_the_measured_value_holds():
    given = bench(hair=1.15, precisions=(FLOAT,))
    found = find(given)
    assert found.refused is None
    assert len(given.checked) >= 2
    assert given.told[:2] == ["small: too slow; untrained it held that, so it is measured once more", "small: too slow"]
    assert min(found.best.measured["cpu"].values()) * 1.15 <= 0.45


def test_a_disturbed_measurement_costs_a_second_one_and_no_training():
    given = bench(disturbed=1.4)
    found = find(given)
    assert found.refused is None
    assert given.checked == given.again == [found.best.candidate]


def test_accuracy_size_and_what_was_too_slow_before_are_not_measured_again():
    inexact = bench(accurate=lambda candidate: False)
    assert find(inexact).refused
    slow = bench(truth=lambda candidate: 100.0, tries=0)
    assert find(slow).refused
    large = bench(disturbed=1.4, gate="max_size_mb", tries=0)
    assert find(large).refused
    assert [inexact.again, slow.again, large.again] == [[], [], []]


def test_an_inexact_finalist_makes_room_for_the_next():
    refused = []

    def accurate(candidate):
        refused.append(candidate)
        return len(refused) > 1

    given = bench(accurate=accurate)
    found = find(given)
    assert found.refused is None
    assert [one.shape for one in given.checked] == [one.shape for one in refused]
    assert found.best.candidate.shape == refused[1].shape
    assert found.best.score == sorted((one.score for one in found.tried), reverse=True)[1]


def test_a_budget_that_none_meets_is_refused_with_the_best_so_far():
    found = find(bench(accurate=lambda candidate: False))
    assert found.refused == "too inexact: no finalist was accurate enough after its whole training"
    assert found.best.checked.drop_pp == min(one.checked.drop_pp for one in found.tried if one.checked)


def test_the_time_for_further_tries_ends():
    given = bench(hair=1.5, tries=0)
    found = find(given)
    assert found.refused == "too slow: the time for further tries (budget.minutes) is over"
    assert len(given.checked) == 1


def test_the_impossible_is_said_before_anything_is_trained_and_the_smallest_is_measured_all_the_same():
    given = bench(limit=0.01)
    found = find(given)
    assert given.scored == []
    assert found.refused.startswith(
        "too slow: even the smallest network is predicted to need 6.50 times what is allowed"
    )
    assert given.told[0].endswith("it is trained and measured all the same")
    assert found.best.candidate.widths == {"a": 8}


def test_the_impossible_is_possible_where_the_prediction_was_wrong():
    given = bench(limit=0.06, truth=lambda candidate: 0.5)
    found = find(given)
    assert found.refused is None
    assert found.best.candidate.how == "smallest"


def test_where_the_time_is_over_a_network_whose_estimates_hold_is_not_refused():
    given = bench(hair=1.5, nearly=2.0, tries=0)
    found = find(given)
    assert found.refused is None
    assert [missed.nearly for missed in found.best.checked.missed] == [True]
