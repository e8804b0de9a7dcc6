"""The probe of made-up boards: facts with values or reasons, and what follows from them."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from edgekd.agent import PROTOCOL, environment, meters
from edgekd.agent import probe as probing
from edgekd.agent.abilities import CLOCKS, ENERGY, ROOM, abilities
from edgekd.agent.errors import AgentError
from edgekd.agent.probe_text import label, shown, text

from .boards import BOARDS, tree

RUNTIMES: dict[str, dict[str, Any]] = {
    "onnxruntime": {"value": {"name": "onnxruntime", "version": "1.19.2", "providers": ["CPUExecutionProvider"]}},
    "tensorrt": {"unavailable": "TensorRT cannot be imported (No module named 'tensorrt'). On a Jetson it belongs ..."},
}


class Rails:
    scope, scope_kind, channels, total, period_s = (
        "module (VDD_IN)",
        "module",
        (meters.Channel("VDD_IN", "power"),),
        (),
        0.1,
    )

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def rails(monkeypatch: pytest.MonkeyPatch) -> Rails:
    meter = Rails()

    def find(name: str, root: Path) -> tuple[Any, Any, Any]:
        return (name, meter, None) if name == "ina3221" else (None, None, f"{name}: {name} may be read as root only")

    monkeypatch.setattr(meters, "find", find)
    return meter


def probe(root: Path) -> dict[str, Any]:
    told = probing.probe(root, lambda: RUNTIMES)
    json.dumps(told, allow_nan=False)
    return told


def test_an_orin_nano(tmp_path: Path, rails: Rails) -> None:
    told = probe(tree(tmp_path, BOARDS["synthetic-orin-nano"]))
    sections = told["sections"]
    assert sections["board"]["l4t"] == {"value": "36.4.3"}
    assert sections["board"]["jetpack"] == {"value": "6.2"}
    assert sections["software"]["cuda"] == {"value": "12.6.68"}
    assert sections["software"]["onnxruntime"] == RUNTIMES["onnxruntime"]
    assert sections["state"]["power_mode"] == {"value": "MAXN_SUPER (id 2)"}
    assert sections["power"]["ina3221"]["value"]["channels"] == ["VDD_IN"]
    assert sections["power"]["rapl"] == {"unavailable": "rapl may be read as root only"}
    assert sections["room"]["memory_available_bytes"] == {"value": 6_144_000_000}
    assert sections["room"]["cpu_quota"] == {"unavailable": "no cgroup limits the CPU time"}
    assert rails.closed
    assert "measure energy: module (VDD_IN), read by ina3221" in told["can"]
    assert "measure accuracy, latency and memory with onnxruntime 1.19.2" in told["can"]
    topics = {entry["topic"]: entry for entry in told["cannot"]}
    assert topics["tensorrt"]["why"] == "TensorRT cannot be imported (No module named 'tensorrt')"
    assert "python3-libnvinfer" in topics["tensorrt"]["mend"]
    assert topics[CLOCKS]["what"] in ("lock the clocks", "see the true clocks of the CPU")


def test_what_a_host_reads(tmp_path: Path, rails: Rails) -> None:
    told = probe(tree(tmp_path, BOARDS["synthetic-thor"]))
    assert told["protocol"] == PROTOCOL
    assert told["isa"] == environment.isa(tmp_path)
    assert told["environment"]["machine"] == "NVIDIA Jetson AGX Thor Developer Kit"
    assert told["backends"]["onnxruntime"]["version"] == "1.19.2"
    assert told["backends"]["tensorrt"]["error"].startswith("TensorRT cannot be imported")
    assert told["meters"]["ina3221"] == {"scope": "module (VDD_IN)", "reason": None}
    assert told["meters"]["nvml"] == {"scope": None, "reason": "nvml may be read as root only"}


def test_every_fact_has_a_value_or_a_reason(tmp_path: Path, rails: Rails) -> None:
    for name in (*BOARDS, "empty"):
        told = probe(tree(tmp_path / name, BOARDS.get(name, {"nothing": ""})))
        for facts in told["sections"].values():
            for fact in facts.values():
                ((key, value),) = fact.items()
                assert key in ("value", "unavailable")
                assert value not in (None, "")


def test_text(tmp_path: Path, rails: Rails) -> None:
    lines = text(probe(tree(tmp_path, BOARDS["synthetic-orin-nano"]))).splitlines()
    assert max(map(len, lines)) <= 110
    shown_facts = {line[2:25].strip(): line[25:].strip() for line in lines if line.startswith("  ")}
    assert shown_facts["frequency"] == "cpu0-cpu5 1510, gpu 1020 MHz"
    assert shown_facts["temperature"] == "cpu-thermal 48.5, gpu-thermal 47.2, tj-thermal 49.0 degC"
    assert shown_facts["memory available"] == "6.1 GB"
    assert shown_facts["power mode"] == "MAXN_SUPER (id 2)"
    assert "  + measure accuracy, latency and memory with onnxruntime 1.19.2" in lines
    assert lines.index("edgekd can, on this device") < lines.index("edgekd cannot")


def test_units() -> None:
    assert label("frequency_limits_mhz") == "frequency limits"
    assert shown("uptime_seconds", {"value": 5400.0}) == "1.5 h"
    assert shown("frequency_limits_mhz", {"value": {"cpu0": [700, 1500], "cpu1": [700, 1500], "gpu": [1, 2]}}) == (
        "cpu0-cpu1 700 1500, gpu 1 2 MHz"
    )
    assert shown("fan", {"unavailable": "no fan"}) == "unavailable: no fan"
    assert shown("load_average", {"value": [0.5, 12.25]}) == "0.5 12.25"


def _sections(**room: Any) -> dict[str, Any]:
    return {
        "board": {"l4t": {"value": "36.4.3"}},
        "software": {"python": {"value": "3.10"}, **RUNTIMES},
        "power": {"ina3221": {"unavailable": "none"}, "rapl": {"unavailable": "none"}},
        "state": {"frequency_source": {"value": "counted by the hardware"}},
        "room": {
            "memory_available_bytes": {"value": 4e9},
            "disk_free_bytes": {"value": {"/tmp": 5 * 10**9}},
            "sudo_without_password": {"value": "yes"},
            "jetson_clocks": {"value": "/usr/bin/jetson_clocks"},
            **room,
        },
    }


def _cannot(sections: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {entry["topic"]: entry for entry in abilities(sections)["cannot"]}


def test_abilities() -> None:
    assert "lock the clocks during a measurement, if asked to" in abilities(_sections())["can"]
    assert set(_cannot(_sections())) == {"tensorrt", ENERGY}
    assert _cannot(_sections())[ENERGY]["why"] == "none of the meters gives a reading: ina3221, rapl"
    asks = _cannot(_sections(sudo_without_password={"unavailable": "sudo asks for a password"}))
    assert asks[CLOCKS]["why"] == "sudo asks for a password"
    assert "NOPASSWD: /usr/bin/jetson_clocks" in asks[CLOCKS]["mend"]
    full = _cannot(_sections(disk_free_bytes={"value": {"/tmp": 3 * 10**8}}))
    assert full[ROOM]["why"] == "300 MB are free in /tmp"
    tight = _cannot(_sections(memory_available_bytes={"value": 5 * 10**8}))
    assert tight[ROOM]["why"] == "500 MB of memory are available"
    card = _sections()
    card["power"] = {"rapl": {"unavailable": "none"}, "nvml": {"value": {"scope": "GPU board (T4)"}}}
    asked = "measure energy: GPU board (T4), read by nvml if that is asked for (`power: {meter: nvml}`)"
    assert asked in abilities(card)["can"]
    pc = _sections()
    pc["board"] = {"l4t": {"unavailable": "this is no Linux for Tegra"}}
    assert CLOCKS not in _cannot(pc)
    assert "NVIDIA GPU" in _cannot(pc)["tensorrt"]["mend"]


def test_a_stand_in_is_marked() -> None:
    sections = _sections()
    sections["software"] = {"tensorrt": {"value": {"version": "10.3.0", "simulated": "a fake"}}}
    assert abilities(sections)["can"][0].endswith("with tensorrt 10.3.0 (SIMULATED: a fake)")


@pytest.mark.parametrize(
    ("allowed", "jetson", "fact"),
    [
        ("-n true", False, {"value": "yes"}),
        ("-n true", True, {"unavailable": "sudo asks for a password"}),
        ("-n CLOCKS --show", True, {"value": "yes"}),
        ("", False, {"unavailable": "sudo asks for a password"}),
    ],
)
def test_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str, jetson: bool, fact: dict[str, str]
) -> None:
    clocks = tmp_path / "jetson_clocks"
    for program in (tmp_path / "sudo", clocks)[: 1 + jetson]:
        program.write_text(f'#!/bin/sh\n[ "$*" = "{allowed.replace("CLOCKS", str(clocks))}" ]\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert probing._sudo() == fact


def test_a_runtime_whose_import_dies_is_only_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_child(task: dict[str, Any], *others: Any) -> dict[str, Any]:
        assert task["kind"] == "import"
        if task["backend"] == "tensorrt":
            raise AgentError("import of tensorrt: the process was killed by SIGABRT")
        return {"runtime": {"version": "1"}, "fixed_shapes": False}

    monkeypatch.setattr(probing, "run_child", run_child)
    facts = probing.imported()
    assert facts["tensorrt"] == {"unavailable": "import of tensorrt: the process was killed by SIGABRT"}
    assert facts["onnxruntime"] == {"value": {"version": "1"}}


def test_a_runtime_is_imported() -> None:
    assert probing.imported()["onnxruntime"]["value"]["version"] == version("onnxruntime")
