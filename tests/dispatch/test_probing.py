"""A device's probe at the host."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from edgekd.agent import PROTOCOL
from edgekd.dispatch import probing
from edgekd.errors import StageError


def lack(topic: str, what: str) -> dict[str, str]:
    return {"topic": topic, "what": what, "why": f"no {topic}", "mend": f"get {topic}"}


@pytest.fixture
def probe() -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "simulated": None,
        "environment": {"machine": "NVIDIA Jetson Orin Nano"},
        "isa": {"arch": "aarch64", "vnni": False},
        "sections": {
            "board": {"machine": {"value": "NVIDIA Jetson Orin Nano"}, "l4t": {"value": "36.4.3"}},
            "state": {"frequency_mhz": {"value": {"gpu": 1020.0}}, "fan": {"unavailable": "no fan"}},
        },
        "can": ["measure with onnxruntime 1.19.2"],
        "cannot": [lack("clocks", "lock clocks"), lack("tensorrt", "use tensorrt"), lack("energy", "measure energy")],
        "backends": {"onnxruntime": {"version": "1.19.2"}, "tensorrt": {"error": "no tensorrt"}},
    }


def rendered(probe: dict[str, Any], **options: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=90)
    probing.render(probe, console, **options)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_reading(probe: dict[str, Any]) -> None:
    assert probing.read(json.dumps(probe)) == probe
    printed = json.dumps(probe, indent=1)
    assert probing.read(f"Welcome {{user}}!\n{printed}\nlogged out\n") == probe
    for answer in (
        "",
        "[" * 100_000,
        "bash: python3: command not found",
        "[]",
        "{}",
        json.dumps({**probe, "can": None}),
    ):
        with pytest.raises(StageError, match="the device's answer is no probe"):
            probing.read(answer)
    with pytest.raises(StageError, match=f"speaks protocol 1, this one {PROTOCOL}"):
        probing.read(json.dumps({**probe, "protocol": 1}))


def test_obstacles_of_a_profile(probe: dict[str, Any]) -> None:
    assert [entry["topic"] for entry in probing.obstacles(probe, "tensorrt")] == ["tensorrt", "energy"]
    assert [entry["topic"] for entry in probing.obstacles(probe, "tensorrt", "none")] == ["tensorrt"]
    assert [entry["topic"] for entry in probing.obstacles(probe, "onnxruntime")] == ["energy"]
    assert probing.obstacles(probe, "onnxruntime", "external") == []
    (unknown,) = probing.obstacles(probe, "hailo", "none")
    assert unknown["mend"] == "use one of onnxruntime, tensorrt in the device profile"


def test_what_is_shown(probe: dict[str, Any]) -> None:
    lines = rendered(probe, backend="tensorrt")
    assert lines[0] == "not ready: tensorrt does not run there"
    assert "  machine    NVIDIA Jetson Orin Nano" in lines
    assert "  frequency  gpu 1020 MHz" in lines
    assert "  fan        unavailable: no fan" in lines
    ends = lines[lines.index("+ can measure with onnxruntime 1.19.2") + 1 :]
    assert ends[:2] == ["- cannot use tensorrt: no tensorrt", "  mend: get tensorrt"]  # what is in the way comes first
    assert ends[4] == "- cannot lock clocks: no clocks"
    assert rendered(probe, backend="onnxruntime")[0] == "ready to measure with onnxruntime, but cannot measure energy"
    assert rendered(probe, backend="onnxruntime", meter="none")[0] == "ready to measure with onnxruntime"
    assert rendered(probe)[0] == "board"


def test_a_device_cannot_write_to_the_terminal(probe: dict[str, Any]) -> None:
    probe["sections"]["board"]["machine"] = {"value": "\x1b[2Jbad [bold]name[/bold]"}
    probe["simulated"] = "a tree"
    lines = rendered(probe)
    assert lines[0] == "SIMULATED: a tree"
    assert "  machine     [2Jbad [bold]name[/bold]" in lines
