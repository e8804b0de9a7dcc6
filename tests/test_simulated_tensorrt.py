"""The whole path of TensorRT on a stand-in of it: from a profile to the report, where nothing counts as measured."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from agent.fakes import loading, tensorrt_api
from agent.networks import linear, quantized
from tiny import QUICK

from edgekd import bench
from edgekd.recipe import Gates
from edgekd.stages.measure import Options


@pytest.fixture(params=["8.6", "11.0"])
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the profile of a device whose own Python has a stand-in of TensorRT, and nothing of edgekd."""
    loading.need_names()
    told = tensorrt_api.install(tmp_path / "site", request.param, loading.library())
    told["EDGEKD_ENGINE_CACHE"] = str(tmp_path / "engines")
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in told.items())
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\n{exports}exec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    profile = tmp_path / "board.yaml"
    profile.write_text(
        f"version: 1\nbackend: tensorrt\npython: {python}\nprecisions: [fp32, fp16, int8]\nmax_opset: 17\n"
        "quantization: {activations: s8, symmetric: true, reduce_range: false}\npower: {meter: none}\n"
    )
    return profile


def test_every_precision_beside_the_teacher_and_none_of_it_counts(board, tmp_path):
    result = bench(
        [linear(tmp_path / "small.onnx"), quantized(tmp_path / "int8.onnx")],
        str(board),
        against=linear(tmp_path / "big.onnx"),
        gates=Gates(min_speedup=0.01),
        measuring=Options(**QUICK),
        out=tmp_path / "run",
        store=tmp_path / "store",
    )
    device = result.report["devices"]["board"]
    variants = device["variants"]
    assert list(variants) == ["reference", "reference-fp16", "small", "small-fp16", "int8"]
    assert "zero point" in variants["int8"]["error"]
    assert {name: row["error"] for name, row in variants.items() if row["error"] and name != "int8"} == {}
    timed = [name for name, row in variants.items() if row["latency_ns"]]
    assert timed == ["reference", "reference-fp16", "small", "small-fp16"]
    assert all(row["facts"]["provider"].startswith("TensorRT") for name, row in variants.items() if name in timed)
    assert "stand-in" in " ".join(device["simulated"])
    (gate,) = device["verdict"]["gates"]
    assert gate["status"] == "not_measured"
    assert gate["reason"].startswith("simulated: ")
    assert device["verdict"]["status"] == "not_measured"
    assert result.exit_code == 1
    # Two networks of the same bytes are one engine in each precision.
    assert len(list((tmp_path / "engines").glob("*.plan"))) == 2
