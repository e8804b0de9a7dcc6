"""The measurements of a run: who is measured when, what is refused, what is kept."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.agent.job import load
from edgekd.device import Device, Power, Quantization
from edgekd.dispatch import job, local, measurement, ssh
from edgekd.dispatch.job import Order
from edgekd.dispatch.measurement import Dispatch, take_all
from edgekd.dispatch.placing import Place
from edgekd.dispatch.remote import RemoteError
from edgekd.dispatch.variants import Build
from edgekd.errors import EdgekdError
from edgekd.stages.measure import Options

DECIDED = Quantization(activations="s8", reduce_range=False)
INPUTS = {"x": np.zeros((4, 3), np.float32)}


@pytest.fixture
def order(tmp_path: Path):
    """Return a function that makes an order of one model that nobody reads."""
    model = tmp_path / "models" / "teacher.onnx"
    model.parent.mkdir()
    model.write_bytes(b"a model")

    def make(name: str, **fields: Any) -> Order:
        device = Device(version=1, **{"backend": "onnxruntime", "quantization": DECIDED, **fields})
        return Order(name, device, {"teacher": model}, "teacher", {"test": INPUTS}, {"x": INPUTS["x"][:1]}, Options())

    return make


def places(*orders: Order) -> dict[str, Place]:
    return {order.name: Place(order.device, "ssh" if order.device.address else "here") for order in orders}


def test_the_job_says_all_that_the_agent_needs(order, tmp_path, monkeypatch):
    jobs = []

    def measure(folder, out, **options):
        jobs.append((load(folder), options["python"]))
        out.mkdir()

    monkeypatch.setattr(local, "measure", measure)
    one = order("box", python="/usr/bin/python3", cores=(0,), power=Power(meter="external", pace_hz=30, period_s=0.5))
    outcome = take_all(Dispatch(tmp_path, "run"), [one], places(one))["box"]
    assert (outcome.error, outcome.refused, dict(outcome.models)) == (None, {}, {"teacher": one.models["teacher"]})
    ((job, python),) = jobs
    assert python == "/usr/bin/python3"
    assert (job.device, job.backend, job.cores, job.reference) == ("box", "onnxruntime", (0,), "teacher")
    assert (job.power.meter, job.power.pace_hz, job.power.period_s) == ("external", 30, 0.5)
    assert set(job.files) == {"inputs/test.npz", "inputs/latency.npz"}
    assert (tmp_path / "measurements" / "box").is_dir()
    assert [path.name for path in (tmp_path / "measurements").iterdir()] == ["box"]


def test_variants_of_one_file_are_sent_as_one_file(order, tmp_path, monkeypatch):
    one = order("box", backend="tensorrt", precisions=("fp32", "fp16"))
    half = tmp_path / "half.onnx"
    half.write_bytes(b"half a model")
    path = one.models["teacher"]
    builds = {
        "teacher": Build("teacher", path, "fp32"),
        "teacher-fp16": Build("teacher", path, "fp16", half, remarks=("in float16: w was cut to 65504",)),
        "int8": Build("teacher", path, "int8", refused="node add_1: an input is not quantized"),
    }
    monkeypatch.setattr(measurement.variants, "expand", lambda *_: builds)
    jobs = []

    def measure(folder, out, **_):
        jobs.append((load(folder), sorted(file.name for file in (folder / "models").iterdir())))
        out.mkdir()

    monkeypatch.setattr(local, "measure", measure)
    outcome = take_all(Dispatch(tmp_path, "run"), [one], places(one))["box"]
    ((job, files),) = jobs
    assert files == ["teacher-fp16.half.onnx", "teacher.onnx"]
    assert [(model.name, model.precision, model.half_file is None) for model in job.models] == [
        ("teacher", "fp32", True),
        ("teacher-fp16", "fp16", False),
    ]
    assert list(outcome.models) == ["teacher", "teacher-fp16", "int8"]
    assert outcome.refused == {"int8": "node add_1: an input is not quantized"}
    assert outcome.remarks == ["teacher-fp16: in float16: w was cut to 65504"]


def test_nothing_is_sent_where_all_is_refused(order, tmp_path, monkeypatch):
    one = order("box")
    monkeypatch.setattr(
        measurement.variants,
        "expand",
        lambda *_: {"int8": Build("teacher", one.models["teacher"], "int8", refused="no")},
    )
    outcome = take_all(Dispatch(tmp_path, "run"), [one], places(one))["box"]
    assert outcome.error == {"kind": "failed", "message": "int8: no"}


@pytest.mark.parametrize(
    ("failure", "kind"), [(local.MeasurementError("it hung"), "failed"), (RemoteError("no route"), "unreachable")]
)
def test_a_failure_is_kept_and_the_other_devices_go_on(order, tmp_path, monkeypatch, failure, kind):
    def measure(folder, out, **_):
        out.mkdir()
        if out.name == "bad":
            raise failure

    monkeypatch.setattr(local, "measure", measure)
    orders = [order("bad"), order("good")]
    outcomes = take_all(Dispatch(tmp_path, "run"), orders, places(*orders))
    assert outcomes["bad"].error == {"kind": kind, "message": str(failure)}
    assert outcomes["good"].error is None
    assert [path.name for path in (tmp_path / "measurements").iterdir()] == ["good"]


def test_a_measurement_of_which_no_report_can_be_made_is_a_failure_of_its_device(order, tmp_path, monkeypatch):
    def measure(folder, out, **_):
        out.mkdir()

    def verify(out):
        if out.name == "bad":
            raise EdgekdError("measurement.json: latency is no object")

    monkeypatch.setattr(local, "measure", measure)
    orders = [order("bad"), order("good")]
    outcomes = take_all(Dispatch(tmp_path, "run", verify=verify), orders, places(*orders))
    assert outcomes["bad"].error == {"kind": "failed", "message": "measurement.json: latency is no object"}
    assert outcomes["good"].error is None
    assert [path.name for path in (tmp_path / "measurements").iterdir()] == ["good"]


def test_machines_are_measured_at_once_but_each_does_one_job_after_the_other(order, tmp_path, monkeypatch):
    busy: list[str] = []
    together: list[set[str]] = []
    both = threading.Barrier(2, timeout=30)

    def measure(folder, out, *, address, **_):
        assert address.host not in busy
        busy.append(address.host)
        if out.name != "a2":
            both.wait()  # passes only if the other machine is at work too
            together.append(set(busy))
            both.wait()
        busy.remove(address.host)
        out.mkdir()

    monkeypatch.setattr(ssh, "measure", measure)
    orders = [order("a1", address="me@a"), order("b1", address="b:22"), order("a2", address="you@a")]
    outcomes = take_all(Dispatch(tmp_path, "run"), orders, places(*orders))
    assert list(outcomes) == ["a1", "b1", "a2"]
    assert all(outcome.error is None for outcome in outcomes.values())
    assert together == [{"a", "b"}, {"a", "b"}]


def test_an_interrupt_cancels_what_runs_elsewhere(order, tmp_path, monkeypatch):
    begun, cancelled = threading.Event(), threading.Event()

    def measure(folder, out, *, address, cancel, **_):
        if address.host == "a":
            begun.wait(30)
            raise KeyboardInterrupt
        begun.set()
        cancel.wait(30)
        if cancel.is_set():
            cancelled.set()
        raise RemoteError("ended")

    monkeypatch.setattr(ssh, "measure", measure)
    orders = [order("a", address="a"), order("b", address="b")]
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        take_all(Dispatch(tmp_path, "run"), orders, places(*orders))
    assert cancelled.is_set()
    assert time.monotonic() - started < 25


def test_a_bundle_is_left_where_nothing_can_be_measured(order, tmp_path):
    one = order("jetson")
    place = Place(one.device, "bundle", why="this machine is no jetson and no address was given")
    outcome = take_all(Dispatch(tmp_path, "20261126-run"), [one], {"jetson": place})["jetson"]
    assert outcome.error is not None
    assert outcome.error["kind"] == "pending"
    assert "`edgekd report RUN --add result.zip`" in outcome.error["message"]
    assert (tmp_path / "bundle-jetson.zip").is_file()
    assert list((tmp_path / "measurements").iterdir()) == []


def test_what_an_external_meter_reads_lies_beside_the_measurement(order, tmp_path, monkeypatch):
    def measure(folder, out, **_):
        time.sleep(0.5)
        out.mkdir()
        (out / "measurement.json").write_text(json.dumps({}))

    monkeypatch.setattr(local, "measure", measure)
    code = "import time; print('0 5.5', flush=True); time.sleep(60)"
    one = order("box", power=Power(meter="external", command=("python3", "-c", code)))
    assert take_all(Dispatch(tmp_path, "run"), [one], places(one))["box"].error is None
    assert (tmp_path / "measurements" / "box" / "external.csv").read_text() == "0 5.5\n"
    broken = order("two", power=Power(meter="external", command=("no-such-meter",)))
    error = take_all(Dispatch(tmp_path, "run"), [broken], places(broken))["two"].error
    assert error is not None
    assert error["kind"] == "failed"
    assert "'no-such-meter' cannot be started" in error["message"]


def test_an_order_may_say_itself_how_long_it_measures(order, tmp_path, monkeypatch):
    jobs = []

    def measure(folder, out, **_):
        jobs.append(load(folder))
        out.mkdir()

    monkeypatch.setattr(local, "measure", measure)
    method = replace(job.FULL, alone=False, seconds=0.1)
    one = replace(order("box"), splits={}, method=method)
    take_all(Dispatch(tmp_path, "run"), [one], places(one))
    assert jobs[0].method == method
