import numpy as np
import pytest
from handmade import template

from edgekd.graph.workload import workload
from edgekd.search.regression import errors, features, fit


def networks(count=80):
    generator = np.random.default_rng(1)
    work = workload(template())
    return [
        work.at({"a": int(generator.integers(1, 17)), "b": int(generator.integers(1, 9)) * 2}) for _ in range(count)
    ]


def test_times_that_go_up_in_steps_of_the_channels_are_learned():
    """A machine that computes 8 channels at once, and takes 40 units to start an operator."""

    def time(network):
        layers = [one for one in network if one.inputs]
        computing = sum(one.inputs * -(-one.outputs // 8) * 8 * one.kernel * one.positions for one in layers)
        return 40.0 * len(network) + computing + 0.5 * sum(one.given for one in network)

    seen = networks()
    found = fit(seen, np.array([time(one) for one in seen]))
    assert found.errors.networks == 80
    assert found.errors.mape < 0.01
    assert found.errors.within_10 == 1.0
    assert found.errors.spearman > 0.999
    work = workload(template())
    narrow, step, wide = found.predict([work.at({"a": a, "b": 16}) for a in (9, 16, 8)])
    assert step == pytest.approx(time(work.at({"a": 16, "b": 16})), rel=0.02)
    assert wide < narrow <= step


def test_nothing_is_learned_from_noise_and_the_errors_say_so():
    generator = np.random.default_rng(0)
    found = fit(networks(), generator.uniform(1.0, 4.0, 80))
    assert found.errors.mape > 0.2
    assert abs(found.errors.spearman) < 0.5


def test_errors_are_relative_and_ranks_count():
    found = errors(np.array([1.09, 1.9, 4.0, 6.0]), np.array([1.0, 2.0, 5.0, 4.0]))
    assert found.mape == pytest.approx((0.09 + 0.05 + 0.2 + 0.5) / 4)
    assert found.within_10 == 0.5
    assert found.spearman == pytest.approx(0.8)  # one pair of neighbours in the wrong order: 1 - 6 * 2 / (4 * 15)


def test_features_round_channels_up_and_tell_uneven_ones():
    work = workload(template()).at({"a": 12, "b": 6})[2]
    found = {name.split(": ")[1]: value for name, value in features(work).items()}
    assert found["both in 1"] == found["outputs in 1"] == 12 * 6 * 36
    assert found["outputs in 8"] == 12 * 8 * 36
    assert (found["both in 8"], found["both in 16"]) == (16 * 8 * 36, 16 * 16 * 36)
    assert found["gathered"] == 12 * 36
    assert (found["macs, inputs not in 4"], found["macs, inputs not in 8"]) == (0, 12 * 6 * 36)
    assert (found["given, outputs not in 16"], found["gathered, inputs not in 4"]) == (6 * 36, 0)
