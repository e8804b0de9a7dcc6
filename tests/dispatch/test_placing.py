"""Where devices are measured: decided and checked before any work."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from edgekd.device import Device, Quantization
from edgekd.dispatch import local, placing, ssh
from edgekd.dispatch.remote import RemoteError
from edgekd.errors import DeviceError, UsageError

DECIDED = Quantization(activations="s8", symmetric=True, reduce_range=False)
ARM = {"arch": "aarch64", "vnni": False}


def device(**fields: Any) -> Device:
    return Device(version=1, **{"backend": "onnxruntime", "quantization": DECIDED, **fields})


def probed(machine: str = "NVIDIA Jetson Orin Nano Developer Kit", **backends: Any) -> dict[str, Any]:
    return {
        "environment": {"machine": machine},
        "isa": ARM,
        "cannot": [],
        "backends": {"onnxruntime": {"version": "1.19.2"}, **backends},
    }


@pytest.fixture
def answers(monkeypatch) -> dict[str, Any]:
    """Return what the hosts answer, by their names; an exception is raised."""
    told: dict[str, Any] = {}

    def probe(address, python, cancel):
        answer = told[address.host]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ssh, "probe", probe)
    return told


@pytest.fixture
def machine(monkeypatch) -> None:
    """Let this machine be called a Raspberry Pi."""
    monkeypatch.setattr(placing, "snapshot", lambda: {"machine": "Raspberry Pi 5 Model B Rev 1.0"})


def test_a_device_that_expects_nothing_is_this_machine():
    places, problems = placing.place({"cpu": device()})
    assert problems == []
    assert (places["cpu"].where, places["cpu"].told("cpu")) == ("here", "always measured anew")


@pytest.mark.parametrize(
    ("expects", "where"), [(("Raspberry Pi",), "here"), (("pi 4", "PI 5"), "here"), (("Orin",), "bundle")]
)
def test_a_device_without_an_address_is_here_only_if_this_machine_is_called_so(machine, expects, where):
    places, problems = placing.place({"box": device(expects=expects)})
    assert problems == []
    assert places["box"].where == where


def test_what_is_somewhere_else_is_pending_and_the_plan_says_so(machine):
    place = placing.place({"jetson": device(expects="Orin")})[0]["jetson"]
    assert place.pending
    assert place.told("jetson") == (
        "this machine is no jetson and no address was given: the run ends with bundle-jetson.zip, to be taken there "
        "(exit code 4 until then)"
    )


def test_a_bundle_can_be_asked_for_even_of_what_is_reached(answers):
    places, _ = placing.place({"cpu": device(), "far": device(address="me@far")}, bundle=True)
    assert [place.where for place in places.values()] == ["bundle", "bundle"]
    assert answers == {}


def test_a_bundle_for_an_unknown_processor_says_whose_integers_it_has():
    told = placing.place({"cpu": device(quantization=Quantization())}, bundle=True)[0]["cpu"].told("cpu")
    assert "a bundle was asked for, its integers are chosen for the processor of this machine" in told
    assert "integers" not in placing.place({"cpu": device()}, bundle=True)[0]["cpu"].told("cpu")


def test_an_interrupt_does_not_wait_for_slow_boards(monkeypatch):
    asking, cancelled = threading.Event(), threading.Event()

    def probe(address, python, cancel):
        if address.host == "b":
            asking.wait(30)
            raise KeyboardInterrupt
        asking.set()
        if cancel.wait(30):
            cancelled.set()
        raise RemoteError("a: interrupted")

    monkeypatch.setattr(ssh, "probe", probe)
    with pytest.raises(KeyboardInterrupt):
        placing.place({"b": device(address="b"), "a": device(address="a")})
    assert cancelled.is_set()


def test_the_program_of_a_power_meter_is_looked_for_before_any_work():
    power = {"meter": "external", "command": ["no-such-meter", "--csv"]}
    (problem,) = placing.place({"box": device(power=power)})[1]
    assert problem == "device box: power.command: there is no program 'no-such-meter' on this machine"
    assert placing.place({"box": device(power=power)}, bundle=True)[1] == []


def test_the_processor_there_decides_what_the_profile_leaves_open(answers):
    answers["pi"] = probed("Raspberry Pi 5")
    places, problems = placing.place({"pi": device(address="me@pi:22", quantization=Quantization())})
    assert problems == []
    assert places["pi"].where == "ssh"
    assert places["pi"].told("pi") == "over ssh at me@pi:22"
    assert places["pi"].device.quantization == Quantization(activations="s8", reduce_range=False)


def test_what_cannot_be_reached_now_is_tried_again_later(answers):
    said: list[str] = []
    answers["far"] = RemoteError("far: connection refused")
    places, problems = placing.place({"far": device(address="far")}, say=said.append)
    assert problems == []
    assert places["far"].problem == "far: connection refused"
    assert said == ["far: cannot be measured now, and will be tried again (else exit code 4): far: connection refused"]


def test_nothing_can_be_made_for_an_unknown_processor(answers):
    answers["far"] = RemoteError("far: connection refused")
    with pytest.raises(DeviceError, match=r"(?s)device far: far: connection refused.*set quantization in a profile"):
        placing.place({"far": device(address="far", quantization=Quantization())})


def test_another_board_than_expected_is_refused(answers):
    answers["far"] = probed("NVIDIA Jetson AGX Orin Developer Kit")
    _, (problem,) = placing.place({"nano": device(address="far", expects="Orin Nano")})
    assert "the machine at far is called 'NVIDIA Jetson AGX Orin Developer Kit'" in problem
    assert "expected to be called Orin Nano" in problem


@pytest.mark.parametrize(
    ("backends", "told"),
    [({"tensorrt": {"error": "TensorRT cannot be imported"}}, "TensorRT cannot be imported"), ({}, "has no backend")],
)
def test_a_runtime_that_is_missing_there_is_told_before_any_work(answers, backends, told):
    answers["far"] = probed(**backends)
    places, problems = placing.place({"nano": device(address="far", backend="tensorrt")})
    assert problems == []
    assert told in places["nano"].problem


def test_the_interpreter_of_a_profile_is_asked(monkeypatch):
    asked: list[str | None] = []

    def probe(python):
        asked.append(python)
        return probed(tensorrt={"error": "no module named tensorrt"})

    monkeypatch.setattr(local, "probe", probe)
    _, (problem,) = placing.place({"box": device(backend="tensorrt", python="/usr/bin/python3")})
    assert asked == ["/usr/bin/python3"]
    assert problem == "device box: no module named tensorrt"


def test_all_problems_of_all_profiles_at_once():
    _, problems = placing.place({"a": device(backend="onnxrt"), "b": device(power={"meter": "volts"})})
    assert [problem.partition(":")[0] for problem in problems] == ["device a", "device b"]
    assert "no backend 'onnxrt'" in problems[0]
    assert "there is no power meter 'volts'" in problems[1]


def test_a_probe_says_where_it_would_have_to_look(machine, answers):
    answers["far"] = RemoteError("far: connection refused")
    with pytest.raises(DeviceError, match="device nano: far: connection refused"):
        placing.probe("nano", device(address="far"))
    with pytest.raises(UsageError, match=r"this machine is called 'Raspberry Pi 5 .*--at nano=user@host"):
        placing.probe("nano", device(expects="Orin Nano"))


def test_a_device_that_would_leave_out_the_teacher_is_refused_before_any_work():
    (problem,) = placing.place({"box": device(backend="tensorrt", precisions=("int8",))})[1]
    assert problem.startswith("device box: `precisions: [int8]` leaves out the teacher")


def test_options_are_checked_with_every_precision_of_the_profile(monkeypatch):
    asked: list[dict[str, Any]] = []

    class Backend:
        @staticmethod
        def check(options):
            asked.append(options)

    monkeypatch.setattr(placing.backends, "load", lambda name: Backend)
    places, problems = placing.place(
        {"orin": device(backend="tensorrt", options={"dla": 0}, precisions=("fp16", "int8"))}
    )
    assert problems == []
    assert asked == [{"dla": 0, "precision": "fp16"}, {"dla": 0, "precision": "int8"}]
    assert places["orin"].where == "here"


def test_clocks_that_cannot_be_locked_are_told_before_any_work(answers, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    answers["far"] = probed()
    answers["far"]["cannot"] = [
        {"topic": "clocks", "what": "lock the clocks", "why": "sudo wants a password", "mend": "a line in sudoers"}
    ]
    devices = {"here": device(), "far": device(address="far")}
    assert placing.place(devices)[1] == []
    here, far = placing.place(devices, lock_clocks=True)[1]
    assert here.startswith("device here: the clocks cannot be set: there is no jetson_clocks on this machine")
    assert far == "device far: the clocks cannot be locked: sudo wants a password; a line in sudoers"
