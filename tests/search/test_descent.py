"""The network that harms least within a cost: against all networks there are, on synthetic models of the cost."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.search import descent
from edgekd.search.descent import LIMIT, group


def in_steps(width, step):
    """Time of a layer on a device that computes so many channels at once."""
    return math.ceil(width / step) * step


def chain(groups, weights, limit, step=1):
    """Return the cost of layers one behind the other, each reading the channels of the one before."""

    def costs(networks):
        found = []
        for widths in networks:
            sizes = [3, *(in_steps(widths[one.name], step) for one in groups), 10]
            parts = [weight * a * b for weight, a, b in zip(weights, sizes, sizes[1:], strict=False)]
            found.append(sum(parts) / limit)
        return found

    return costs


def every(groups):
    names = [one.name for one in groups]
    for chosen in product(*(one.choices for one in groups)):
        yield dict(zip(names, chosen, strict=True))


def test_a_groups_widths_are_multiples_that_its_sections_divide():
    assert group("g", [1.0] * 24, 1, 8).choices == (8, 16, 24)
    assert group("g", [1.0] * 20, 1, 8).choices == (8, 16, 20)
    assert group("g", [1.0] * 24, 3, 4).choices == (12, 24)
    assert group("g", [1.0] * 6, 1, 8).choices == (6,)


def test_harm_is_minus_the_logarithm_of_what_the_most_important_channels_keep():
    one = group("g", [1.0, 4.0, 2.0, 1.0], 1, 1)
    kept = [4 / 8, 6 / 8, 7 / 8, 1.0]
    assert list(one.harms.values()) == pytest.approx([-math.log(part) for part in kept])
    nothing = group("g", [0.0] * 4, 1, 2)  # no channel counts: then each as much as the others
    assert list(nothing.harms.values()) == pytest.approx([math.log(2), 0.0])


importances = st.lists(st.floats(0.01, 10), min_size=4, max_size=12)


@given(
    drawn=st.lists(importances, min_size=1, max_size=3), weights=st.lists(st.floats(0.1, 5), min_size=4, max_size=4),
    part=st.floats(0.2, 1.1), step=st.sampled_from([1, 4]),
)  # fmt: skip
@settings(max_examples=60)
def test_nothing_more_fits_and_the_best_of_all_is_hardly_better(drawn, weights, part, step):
    groups = [group(f"g{index}", values, 1, 2) for index, values in enumerate(drawn)]
    (whole,) = chain(groups, weights, 1.0, step)([descent.full(groups)])
    costs = chain(groups, weights, part * whole, step)
    allowed = [widths for widths in every(groups) if costs([widths])[0] <= LIMIT]
    found = descent.search(groups, costs)
    if found is None:
        assert not allowed  # costs rise with every width, so that the descent ends at the cheapest network of all
        return
    assert costs([found])[0] <= LIMIT
    for one in groups:
        for width in one.choices:
            assert width <= found[one.name] or costs([{**found, one.name: width}])[0] > LIMIT
    best = min(descent.harm(groups, widths) for widths in allowed)
    assert best - 1e-9 <= descent.harm(groups, found) <= best * 1.25 + 0.05
    if len(groups) <= 2:  # every exchange of two is looked at
        assert descent.harm(groups, found) <= best * 1.1 + 0.02


def test_width_that_costs_nothing_is_taken():
    """The device computes 16 channels at once, so 8 cost what 16 do; and the limit leaves room for 32 of 64."""
    groups = [group("a", [1.0] * 64, 1, 8), group("b", [1.0] * 64, 1, 8)]

    def costs(networks):
        return [(in_steps(w["a"], 16) + in_steps(w["b"], 16)) / 80 for w in networks]

    found = descent.search(groups, costs)
    assert found is not None
    assert sorted(found.values()) == [32, 48]


def test_a_network_that_only_gets_slower_on_the_way_is_still_left_behind():
    """Narrower by one step costs more (odd channels), by two much less: a descent step by step would stop."""
    groups = [group("a", [1.0] * 8, 1, 2)]
    cost = {8: 2.0, 6: 3.0, 4: 0.9, 2: 0.8}
    assert descent.search(groups, lambda networks: [cost[w["a"]] for w in networks]) == {"a": 4}


def test_where_even_the_smallest_is_too_slow_there_is_none():
    groups = [group("a", [1.0] * 8, 1, 2)]
    assert descent.search(groups, lambda networks: [1.5 + w["a"] for w in networks]) is None
    assert descent.uniform(groups, lambda networks: [1.5 + w["a"] for w in networks]) is None
    assert descent.smallest(groups) == {"a": 2}


def test_uniform_networks_keep_the_same_part_everywhere():
    groups = [group("a", [1.0] * 16, 1, 8), group("b", [1.0] * 32, 1, 8)]

    def costs(networks):
        return [(w["a"] + w["b"]) / 24 for w in networks]

    assert descent.uniform(groups, costs) == {"a": 8, "b": 16}
