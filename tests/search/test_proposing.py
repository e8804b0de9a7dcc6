"""Candidates hold the limits on all devices of a point, as predicted, and cost no more than they must."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from edgekd.search import descent, proposing
from edgekd.search.proposing import EITHER, FLOAT, INT8, Allowed, Proposer, correction

FACTS = {
    "levels": [
        {
            "removed": [],
            "harm": 0.0,
            "groups": [
                {"name": "a", "sections": 1, "importance": [float(value) for value in range(1, 33)]},
                {"name": "b", "sections": 1, "importance": [1.0] * 32},
            ],
        },
        {"removed": ["block"], "harm": 0.7, "groups": [{"name": "a", "sections": 1, "importance": [1.0] * 32}]},
    ]
}
STRUCTURES = proposing.structures(FACTS, 8)


@dataclass(frozen=True)
class Device:
    """A device whose time is known: a constant, and the channels."""

    factor: float = 1.0
    int8: float = 0.5
    precisions: tuple[str, ...] = (FLOAT, INT8)

    def predict(self, structure, precision, networks):
        factor = self.factor * (1 if precision == FLOAT else self.int8)
        return [factor * (0.05 + sum(widths.values()) / 100) for widths in networks]

    def size_bytes(self, structure, precision, networks):
        return [sum(widths.values()) * (4 if precision == FLOAT else 1) for widths in networks]


def proposer(clocks, allowed, corrections=None):
    return Proposer(STRUCTURES, clocks, allowed, corrections or {})


def test_structures_know_their_groups_and_what_their_blocks_were_worth():
    assert [(one.removed, one.harm) for one in STRUCTURES] == [((), 0.0), (("block",), 0.7)]
    assert [one.name for one in STRUCTURES[0].groups] == ["a", "b"]
    assert descent.full(STRUCTURES[0].groups) == {"a": 32, "b": 32}


def test_candidates_hold_the_limit_and_the_least_harmful_comes_first():
    found = proposer({"cpu": Device()}, {"cpu": Allowed(time=0.45)})
    candidates = found.candidates()
    assert [one.harm for one in candidates] == sorted(one.harm for one in candidates)
    assert len({one.shape for one in candidates}) == len(candidates)
    for one in candidates:
        (cost,) = found.costs(one.structure, one.precision)([one.widths])
        assert cost <= 1
    assert (candidates[0].structure, candidates[0].precision, candidates[0].harm) == (0, EITHER, 0.0)  # int8 at 0.35
    assert {(one.structure, one.precision, one.how) for one in candidates} >= {
        (0, FLOAT, "descent"),
        (1, FLOAT, "descent"),
    }


def test_a_point_holds_on_the_worst_of_its_devices():
    clocks = {"cpu": Device(), "slow": Device(factor=2.0, int8=1.5)}
    found = proposer(clocks, {"cpu": Allowed(time=0.45), "slow": Allowed(time=0.6)})
    for one in found.candidates():
        assert min(found.times("cpu", one).values()) <= 0.45
        assert min(found.times("slow", one).values()) <= 0.6
    whole = proposing.Candidate(0, EITHER, "descent", {"a": 32, "b": 32}, 0.0)
    assert found.times("slow", whole) == {FLOAT: pytest.approx(1.38), INT8: pytest.approx(2.07)}
    assert found.costs(0, EITHER)([whole.widths]) == [pytest.approx(1.38 / 0.6)]


def test_the_size_counts_of_the_variant_that_is_used():
    found = proposer({"cpu": Device()}, {"cpu": Allowed(size_bytes=64)})
    assert found.costs(0, EITHER)([{"a": 32, "b": 32}]) == [1.0]
    assert found.costs(0, FLOAT)([{"a": 32, "b": 32}]) == [4.0]


SLOWER = {("cpu", 0, FLOAT): [({"a": 32, "b": 32}, 1.5)]}


def test_what_was_measured_corrects_what_is_predicted():
    plain = proposer({"cpu": Device(precisions=(FLOAT,))}, {"cpu": Allowed(time=0.45)})
    corrected = proposer({"cpu": Device(precisions=(FLOAT,))}, {"cpu": Allowed(time=0.45)}, SLOWER)
    one = plain.candidates()[0]
    assert corrected.times("cpu", one)[FLOAT] == pytest.approx(1.5 * plain.times("cpu", one)[FLOAT])
    assert {one.precision for one in corrected.candidates()} == {FLOAT}
    first = {one.structure: one for one in reversed(corrected.candidates())}
    assert sum(first[0].widths.values()) < sum(one.widths.values())


def test_where_nothing_is_fast_enough_there_is_the_cheapest():
    found = proposer({"cpu": Device()}, {"cpu": Allowed(time=0.01)})
    assert found.candidates() == []
    assert (found.cheapest().structure, found.cheapest().precision, found.cheapest().widths) == (1, EITHER, {"a": 8})


def test_a_network_is_predicted_as_it_was_measured_and_those_between_by_what_is_near():
    known = [({"a": 8, "b": 8}, 0.8), ({"a": 32, "b": 8}, 1.25), ({"a": 8, "b": 32}, 2.0)]
    for widths, factor in known:
        assert correction(known, widths) == factor
    assert correction([], {"a": 8, "b": 8}) == 1
    assert correction(known[:1], {"a": 32, "b": 32}) == pytest.approx(0.8)
    assert correction(known[:2], {"a": 16, "b": 8}) == pytest.approx(1.0)  # as far from both: sqrt(0.8 * 1.25)
    # log 2 from the one and 3 log 2 from the other, so they count 9 to 1
    assert correction(known[:2], {"a": 4, "b": 8}) == pytest.approx(0.8 ** (9 / 10) * 1.25 ** (1 / 10))
