"""Learning with a device that is a formula: what is measured, what is kept, what is predicted."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from handmade import IMAGE, template

from edgekd.artifact import open_store
from edgekd.device import Device, Quantization
from edgekd.dispatch.placing import Place
from edgekd.errors import DeviceError, StageError
from edgekd.graph.macs import count_macs
from edgekd.graph.template import instance
from edgekd.graph.workload import workload
from edgekd.making import Show
from edgekd.search import latency_model, samples, timing
from edgekd.search.latency_model import draw, learn, random_widths
from edgekd.search.timing import Timed, Timing

FEEDS = {"x": np.zeros((1, 2, IMAGE, IMAGE), np.float32)}
DEVICE = Device(version=1, backend="onnxruntime", quantization=Quantization(activations="u8", reduce_range=True))
PROBE = {"backends": {"onnxruntime": {"name": "onnxruntime", "version": "1"}}, "environment": {"cpu": "a formula"}}


@pytest.fixture
def formula(monkeypatch):
    """Stand in for the device, and return the groups that it was given."""
    groups = []

    def measure(name, place, networks, reference, feeds, **_):
        groups.append(list(networks))
        times = {key: 1000.0 + count_macs(model) for key, model in networks.items()}
        return Timing({key: Timed(50000 / time, 1.0, 1.0, time, time) for key, time in times.items()}, 0.01)

    monkeypatch.setattr(samples.placing, "probe", lambda name, device: PROBE)
    monkeypatch.setattr(timing, "measure", measure)
    return groups


@pytest.fixture
def reference(tmp_path):
    onnx.save(template().model, tmp_path / "full.onnx")
    return tmp_path / "full.onnx"


def learned(tmp_path, reference, networks=40, templates=None, **more):
    store = open_store(tmp_path / "store")
    place, templates = Place(DEVICE, "here"), templates or [template()]
    return learn("cpu", place, templates, reference, FEEDS, store=store, networks=networks, **more)


def test_relative_times_are_predicted_and_what_was_measured_is_not_measured_again(formula, reference, tmp_path):
    model = learned(tmp_path, reference)
    assert model.noise_floor == 0.01
    assert model.errors["float"].mape < 0.02
    work = workload(template())
    for widths in ({"a": 7, "b": 6}, {"a": 12, "b": 16}):
        true = (1000.0 + count_macs(instance(template(), widths))) / 50000
        assert model.predict(work, widths) == pytest.approx(true, rel=0.05)
    measured = [key for group in formula for key in group]
    assert len(measured) == len(set(measured)) == 40
    assert max(map(len, formula)) == timing.GROUP
    formula.clear()
    again = learned(tmp_path, reference)
    assert formula == []
    assert again.predict(work, {"a": 7}) == model.predict(work, {"a": 7})
    (folder,) = (tmp_path / "store" / samples.FOLDER).iterdir()
    lost = max(folder.glob("*.json"), key=lambda path: len(json.loads(path.read_text())["networks"]))
    gone = json.loads(lost.read_text())["networks"]
    lost.write_text(lost.read_text()[:100])  # as after a full disk
    learned(tmp_path, reference)
    assert sorted(key for group in formula for key in group) == sorted(gone)
    formula.clear()
    harmed = max(folder.glob("*.json"), key=lambda path: len(json.loads(path.read_text())["networks"]))
    gone = json.loads(harmed.read_text())["networks"]
    harmed.write_text(re.sub(r"(\d)(?=,\n)", lambda digit: str((int(digit[1]) + 1) % 10), harmed.read_text(), count=1))
    learned(tmp_path, reference)  # one digit is another, and it is still JSON
    assert sorted(key for group in formula for key in group) == sorted(gone)


def test_a_group_that_is_done_is_kept_when_the_next_one_fails(formula, reference, tmp_path, monkeypatch):
    measure = timing.measure

    def once(*given, **more):
        if formula:
            raise DeviceError("gone")
        return measure(*given, **more)

    monkeypatch.setattr(timing, "measure", once)
    with pytest.raises(DeviceError, match="gone"):
        learned(tmp_path, reference)
    (first,) = formula
    monkeypatch.setattr(timing, "measure", measure)
    learned(tmp_path, reference)
    assert not set(first).intersection(key for group in formula[1:] for key in group)


def test_another_machine_reference_or_method_is_measured_anew(formula, reference, tmp_path, monkeypatch):
    learned(tmp_path, reference)
    count = len(formula)
    monkeypatch.setitem(PROBE["environment"], "cpu", "another one")
    learned(tmp_path, reference)
    assert len(formula) == 2 * count


def test_too_few_networks_and_unknown_precisions_are_refused(formula, reference, tmp_path):
    with pytest.raises(
        StageError, match=r"needs 20 measured networks of each precision, and there are [0-9]+ of float"
    ):
        learned(tmp_path, reference, networks=10)
    model = learned(tmp_path, reference)
    integers = workload(template())
    integers = type(integers)(
        integers.widths, tuple(type(one)(**{**vars(one), "integers": True}) for one in integers.operators)
    )
    with pytest.raises(StageError, match="learned without integer networks"):
        model.predict(integers, {})


def test_a_runtime_that_is_missing_is_told_before_anything_is_measured(formula, reference, tmp_path, monkeypatch):
    monkeypatch.setitem(PROBE["backends"], "onnxruntime", {"error": "it is not installed"})
    with pytest.raises(DeviceError, match="cpu: it is not installed"):
        learned(tmp_path, reference)
    assert formula == []


def test_what_is_measured_on_a_busy_device_is_used_and_not_kept(formula, reference, tmp_path, monkeypatch):
    measure, said = timing.measure, []
    monkeypatch.setattr(timing, "measure", lambda *given, **more: replace(measure(*given, **more), noise_floor=0.3))
    model = learned(tmp_path, reference, show=Show(said.append))
    assert model.noise_floor == 0.3
    assert "differs by 30%, the device is too busy" in said[1]
    count = len(formula)
    learned(tmp_path, reference)
    assert len(formula) == 2 * count


def test_progress_and_reuse_are_told(formula, reference, tmp_path):
    said, told = [], []
    show = Show(said.append, lambda title: lambda done, total, text: told.append((title, done, total)))
    learned(tmp_path, reference, show=show)
    total = told[-1][2]
    assert told[-1] == ("latency model[cpu]", total, total)
    assert said == [f"latency model of cpu: {total} networks, 0 of them measured before"]


def test_random_widths_are_possible_ones_of_all_sizes():
    made, generator = template(64), np.random.default_rng(0)
    drawn = [random_widths(made, generator) for _ in range(300)]
    for widths in drawn:
        instance(made, widths)  # refuses what cannot be
    of_a = [widths["a"] for widths in drawn]
    assert min(of_a) <= 4
    assert max(of_a) == 64
    assert len(set(of_a)) > 30
    assert sum(width % 8 == 0 for width in of_a) > 100
    assert sum(width % 2 for width in of_a) > 10


def test_structures_of_a_precision_share_the_networks():
    made = draw([template(), template(32)], 60, seed=0)
    counts = [sum(one.template == place for one in made) for place in (0, 1)]
    assert max(counts) == 30
    assert min(counts) > 20  # a few are the same network, cut from either
    assert len({one.fingerprint for one in made}) == len(made)


def test_a_fingerprint_is_of_the_structure_and_not_of_the_weights():
    one, other, narrower = template().model, template().model, instance(template(), {"a": 15})
    other.graph.initializer[0].raw_data = bytes(len(other.graph.initializer[0].raw_data))
    assert samples.fingerprint(one) == samples.fingerprint(other)
    assert samples.fingerprint(one) != samples.fingerprint(narrower)
    assert latency_model.NETWORKS == 100
