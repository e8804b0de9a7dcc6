from dataclasses import replace

import numpy as np
import onnx
import pytest
from handmade import IMAGE, template

from edgekd import profiles
from edgekd.dispatch import placing
from edgekd.dispatch.placing import Place
from edgekd.errors import DeviceError, StageError
from edgekd.graph.template import instance
from edgekd.making import Show
from edgekd.search import timing

TINY = replace(timing.METHOD, processes=1, seconds=0.01, inferences=30, warmup_seconds=0.01)
FEEDS = {"x": np.zeros((1, 2, IMAGE, IMAGE), np.float32)}


@pytest.fixture
def place():
    places, problems = placing.place(profiles.load_devices(["cpu"], {}))
    assert not problems
    return places["cpu"]


@pytest.fixture
def reference(tmp_path):
    onnx.save(template().model, tmp_path / "full.onnx")
    return tmp_path / "full.onnx"


def test_networks_are_timed_beside_the_reference_and_one_that_does_not_run_is_told(place, reference):
    broken = instance(template(), {})
    broken.graph.node[0].op_type = "Nonsense"
    networks = {"a/5": instance(template(), {"a": 5}), "the full one": reference, "broken": broken}
    noted = []
    show = Show(note=lambda *event: noted.append(event))
    found = timing.measure("cpu", place, networks, reference, FEEDS, method=TINY, show=show)
    assert noted == [("measuring", {"devices": ["cpu"]})]
    assert set(found.networks) == {"a/5", "the full one"}
    for timed in found.networks.values():
        assert 0 < timed.low <= timed.speedup <= timed.high
        assert 0 < timed.p50_ns <= timed.p99_ns
    assert found.noise_floor >= 0
    assert set(found.failed) == {"broken"}
    assert "Nonsense" in found.failed["broken"]
    assert found.simulated == ()


def test_figures_are_paired_in_the_rounds():
    """The machine becomes three times slower after the first round; the ratio does not."""
    speeds = np.array([[1], [3], [3], [3], [3]])
    reference, network = np.array([[400, 400, 400]]) * speeds, np.array([[100, 100, 100]]) * speeds
    samples = timing.LatencySamples(
        ("reference", "network-0", "reference#control"), ((reference, network, reference + speeds * 4),)
    )
    found, floor = timing._figures(samples, {"network-0": "n"})
    assert (found["n"].low, found["n"].speedup, found["n"].high) == pytest.approx((4, 4, 4))
    assert found["n"].p50_ns == 300
    assert floor == pytest.approx(0.01)


def test_calls_that_were_interrupted_do_not_count():
    """A busy machine interrupts most of the reference's calls, which are long, and few of the network's."""
    random = np.random.default_rng(0)
    reference = 4000 + random.integers(0, 40, (30, 5)) + 6000 * (random.random((30, 5)) < 0.8)
    network = 100 + random.integers(0, 2, (30, 5)) + 6000 * (random.random((30, 5)) < 0.02)
    samples = timing.LatencySamples(("reference", "network-0", "reference#control"), ((reference, network, reference),))
    found, floor = timing._figures(samples, {"network-0": "n"})
    assert found["n"].speedup == pytest.approx(40, rel=0.02)
    assert found["n"].low > 39
    assert found["n"].high < 41
    assert floor == 0


def test_a_reference_that_does_not_run_is_an_error(place, reference, tmp_path):
    broken = instance(template(), {})
    broken.graph.node[0].op_type = "Nonsense"
    onnx.save(broken, tmp_path / "broken.onnx")
    with pytest.raises(StageError, match=r"the reference does not run there: .*Nonsense"):
        timing.measure("cpu", place, {"a": reference}, tmp_path / "broken.onnx", FEEDS, method=TINY)


def test_a_device_that_is_not_here_cannot_time(place, reference):
    away = Place(place.device, "bundle", why="this machine is no cpu")
    with pytest.raises(DeviceError, match=r"cpu: this machine is no cpu; .*--at cpu=user@host"):
        timing.measure("cpu", away, {"a": reference}, reference, FEEDS)


def test_networks_come_in_groups():
    assert list(timing.groups({"a": 1, "b": 2, "c": 3}, 2)) == [{"a": 1, "b": 2}, {"c": 3}]
