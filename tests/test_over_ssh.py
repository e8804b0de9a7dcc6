"""The whole tool over a real ssh server on loopback: pipeline, bench and probe, and devices that fail beside it."""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dispatch.sshd import REASON, SSHD, Device, client, device, leftovers
from test_benchmark import _linear
from tiny import TINY

from edgekd.stages.measure import Options as Measuring

pytestmark = pytest.mark.skipif(not SSHD.exists(), reason=REASON)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workplace: Path) -> Iterator[Device]:
    """A device over ssh, with profiles of one's own: `far` is it, `gone` has nobody who listens."""
    folder = tmp_path / "board"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{client(folder)}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    profiles = tmp_path / "config" / "edgekd" / "devices"
    profiles.mkdir(parents=True)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    with device(folder) as found:
        own = f"version: 1\nextends: cpu\npython: {sys.executable}\n"
        (profiles / "far.yaml").write_text(f"{own}address: {found.address}\n")
        decided = "quantization: {activations: u8, reduce_range: true}\n"
        (profiles / "gone.yaml").write_text(f"{own}{decided}address: 127.0.0.1:{port}\n")
        yield found
        assert leftovers(found) == []


SHORT = {"processes": 1, "seconds": 0.05, "inferences": 50}
TINIEST = [word for text in TINY for word in ("--set", text)]


def test_a_pipeline_measures_here_and_there_and_keeps_what_it_can(board, chain, edgekd, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKD_HOME", str(chain.store))
    outcome = edgekd(
        "pipeline", "digits", *TINIEST, "--device", "cpu", "--device", "far", "--device", "gone",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert outcome.code == 4, outcome.text
    assert "gone: cannot be measured now, and will be tried again" in outcome.text
    assert "nothing answers on this port" in outcome.text
    devices = json.loads((tmp_path / "run" / "report.json").read_text())["devices"]
    assert devices["gone"]["error"]["kind"] == "unreachable"
    here, there = devices["cpu"]["variants"], devices["far"]["variants"]
    assert list(here) == list(there) == list(devices["gone"]["variants"])
    for name, variant in here.items():
        # The same processor gives the same answers, whoever asks; how fast is a matter of order, not of digits.
        for figure in ("accuracy", "agreement_with_teacher", "size_bytes", "precision"):
            assert there[name][figure] == variant[figure]
        assert 0.2 < there[name]["latency_ns"]["p50"] / variant["latency_ns"]["p50"] < 5


def test_files_are_benched_there(board, edgekd, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.import_module("edgekd.cli.bench"), "Measuring", partial(Measuring, **SHORT))
    weights = np.eye(6, 3, dtype=np.float32)
    small, big = _linear(tmp_path / "small.onnx", weights), _linear(tmp_path / "big.onnx", weights)
    outcome = edgekd("bench", small, "--against", big, "--device", "far", "--quick", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.text
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert list(report["devices"]["far"]["variants"]) == ["reference", "small"]
    assert report["devices"]["far"]["state"]["before"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_device_is_probed_there(board, edgekd):
    outcome = edgekd("device", "probe", "far", "--json")
    assert outcome.code == 0, outcome.text
    found = json.loads(outcome.out)
    assert found["backends"]["onnxruntime"]["version"]
    assert "machine" in found["sections"]["board"]
    refused = edgekd("device", "probe", "gone")
    assert refused.code == 4
    assert "nothing answers on this port" in refused.text


def test_the_plan_says_what_will_be_measured_where(board, chain, edgekd, monkeypatch):
    monkeypatch.setenv("EDGEKD_HOME", str(chain.store))
    outcome = edgekd(
        "pipeline", "digits", *TINIEST, "--plan", "--json",
        "--device", "far", "--device", "jetson", "--device", "gone", "--at", f"far={board.address}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.text
    rows = {row["step"]: row for row in json.loads(outcome.out)}
    assert rows["measure[far]"]["reason"] == f"over ssh at {board.address}"
    assert rows["measure[jetson]"]["state"] == "pending"
    assert "bundle-jetson.zip" in rows["measure[jetson]"]["reason"]
    assert "will be tried again" in rows["measure[gone]"]["reason"]
