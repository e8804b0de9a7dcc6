"""What follows from a probe, on made-up machines."""

from __future__ import annotations

import pytest

from edgekd import profiles
from edgekd.agent import probe as agent
from edgekd.dispatch import local
from edgekd.doctor import machine

ORT = {"value": {"name": "onnxruntime", "version": "1.31.1", "providers": ["CPUExecutionProvider"]}}
NO_TENSORRT = {"unavailable": "TensorRT cannot be imported (no module). More of it"}


def _probe(root, monkeypatch, *, flags="avx2", arch="x86_64", **runtimes):
    """Return what the agent says of a machine with these files."""
    monkeypatch.setattr("platform.machine", lambda: arch)
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(
        f"model name: A CPU\n{'flags' if arch == 'x86_64' else 'Features'}: {flags}\n"
    )
    (root / "proc" / "meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n")
    return agent.probe(root, lambda: runtimes)


def _found(probe):
    return {one.name: one for one in machine.of_probe(probe)}


@pytest.mark.parametrize(
    ("arch", "flags", "state", "told"),
    [
        ("x86_64", "avx2 avx512_vnni", "ok", "VNNI; scheme u8"),
        ("x86_64", "avx2", "missing", "no VNNI; scheme u8-reduced"),
        ("aarch64", "asimd asimddp", "ok", "dot product; scheme s8"),
        ("aarch64", "asimd", "missing", "no dot product; scheme s8"),
    ],
)
def test_the_processor_and_its_integers(tmp_path, monkeypatch, arch, flags, state, told):
    found = _found(_probe(tmp_path, monkeypatch, arch=arch, flags=flags, onnxruntime=ORT))
    assert found["int8"].state == state
    assert found["int8"].told.startswith(told)
    assert found["model"].told.startswith(f"A CPU ({arch})")
    assert ("7 bits" in (found["int8"].gives or "")) == (arch == "x86_64" and state == "missing")


def test_a_runtime_is_ok_missing_or_there_and_broken(tmp_path, monkeypatch):
    broken = {"unavailable": "OpenVINO cannot be imported (libtbb.so.12)"}
    monkeypatch.setattr(machine, "find_spec", lambda name: None if name == "tensorrt" else object())
    found = _found(_probe(tmp_path, monkeypatch, onnxruntime=ORT, openvino=broken, tensorrt=NO_TENSORRT))
    assert (found["onnxruntime"].state, found["onnxruntime"].told) == ("ok", "1.31.1; providers CPUExecutionProvider")
    assert (found["openvino"].state, found["openvino"].told) == ("broken", broken["unavailable"])
    assert found["tensorrt"].state == "missing"
    assert "pip install tensorrt" in found["tensorrt"].mend
    assert "with tensorrt" in found["tensorrt"].gives


def test_power_that_can_be_read_and_power_that_cannot(tmp_path, monkeypatch):
    probe = _probe(tmp_path, monkeypatch, onnxruntime=ORT)
    none = _found(probe)["meters"]
    assert none.state == "missing"
    for meter in ("ina3221", "tegrastats", "rapl"):
        assert f"{meter}: " in none.told
    assert "external" in none.mend
    lacks = [one for one in probe["cannot"] if one["topic"] != "energy"]
    read = {**probe["meters"], "rapl": {"scope": "package 0", "reason": None}}
    some = _found({**probe, "cannot": lacks, "meters": read})["meters"]
    assert (some.state, some.told) == ("ok", "package 0, read by rapl")


def test_little_memory_is_worth_a_note(tmp_path, monkeypatch):
    probe = _probe(tmp_path, monkeypatch, onnxruntime=ORT)
    assert _found(probe)["machine"].state == "ok"
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 900000 kB\nMemAvailable: 200000 kB\n")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    small = _found(agent.probe(tmp_path, lambda: {"onnxruntime": ORT}))["small"]
    assert small.state == "note"
    assert "204 MB of memory" in small.told


def test_devices_are_those_that_a_run_would_take(tmp_path, monkeypatch):
    own = tmp_path / "edgekd" / "devices"
    own.mkdir(parents=True)
    (own / "far.yaml").write_text("version: 1\nextends: cpu\naddress: me@far\n")
    (own / "wrong.yaml").write_text("version: 1\nbackend: onnxruntime\nmax_opzet: 20\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    backends = {"onnxruntime": ORT["value"], "openvino": {"error": "no OpenVINO. More"}, "tensorrt": {"error": "none"}}
    monkeypatch.setattr(
        local, "probe", lambda: {**_probe(tmp_path, monkeypatch, onnxruntime=ORT), "backends": backends}
    )
    found = {one.name: one for one in machine.findings() if one.area == machine.DEVICES}
    assert found["cpu"].state == "ok"
    assert (found["openvino"].state, found["openvino"].told) == ("missing", "no OpenVINO")
    assert found["openvino"].mend.startswith("pip install 'edgekd[openvino]'")
    assert "CUDAExecutionProvider is not in this build" in found["nvidia-gpu"].told
    assert "me@far" in found["far"].told
    assert found["wrong"].state == "broken"
    assert "max_opzet" in found["wrong"].told
    boards = {name for name in profiles.shipped_devices() if profiles.load_device(name).expects}
    assert set(found["boards"].told.partition(": ")[2].split(", ")) == boards


def test_an_agent_that_does_not_run_is_broken(monkeypatch):
    def fail():
        raise local.MeasurementError("python: no numpy")

    monkeypatch.setattr(local, "probe", fail)
    (found,) = machine.findings()
    assert (found.state, found.told) == ("broken", "python: no numpy")


def test_every_profile_says_what_it_needs():
    for path in profiles.shipped_devices().values():
        assert machine.needs(path), path
