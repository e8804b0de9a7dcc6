from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd.report import build, html
from edgekd.report.gpu import gpu_time, impossible

from .synthetic import INT8, TEACHER


def test_times_of_the_gpu_are_summed_up() -> None:
    gpu = np.random.default_rng(0).integers(1000, 9000, 500)
    found = gpu_time({"gpu_ns": gpu.tolist(), "host_ns": (gpu + 100).tolist()})
    assert found is not None
    assert [found["p50"], found["p90"], found["p99"]] == pytest.approx(np.percentile(gpu, [50, 90, 99]))
    assert (found["n"], found["host_p50"]) == (500, np.median(gpu + 100))
    assert not impossible(found)
    assert gpu_time({}) is gpu_time({"gpu_ns": ()}) is None


def test_a_host_that_is_done_before_the_gpu_did_not_wait() -> None:
    assert impossible(gpu_time({"gpu_ns": [100, 200, 300], "host_ns": [10, 20, 30]}))
    assert not impossible(gpu_time({"gpu_ns": [100]}))
    assert not impossible(None)


def test_it_is_shown_and_remarked(make_run: Callable[..., Path]) -> None:
    run = make_run({"teacher": TEACHER, "int8": INT8}, rounds=5)
    path = run / "measurements/cpu/measurement.json"
    content = json.loads(path.read_text())
    content["variants"]["teacher"]["facts"] |= {"gpu_ns": [90_000] * 9, "host_ns": [100_000] * 9}
    content["variants"]["int8"]["facts"] |= {
        "gpu_ns": [90_000] * 9, "host_ns": [10_000] * 9, "engine": {"layers": 31}, "skipped_tactics": 2,
    }  # fmt: skip
    content["variants"]["int8"]["prepare"] = {"build_seconds": 31.5, "cached": False}
    path.write_text(json.dumps(content))
    report = build.build(run)
    device = report["devices"]["cpu"]
    assert [remark for remark in device["verdict"]["remarks"] if "GPU" in remark] == [
        "int8: the host's p50 is below the GPU's: it did not wait for the GPU, and its latency is not to be trusted"
    ]
    page = html.render(report)
    assert '<td class="num" data-value="90000.0">90.0 µs</td>' in page
    for key, value in (("engine.layers", "31"), ("skipped_tactics", "2"), ("prepare.build_seconds", "31.5")):
        assert f'<tr><th scope="row">{key}</th><td>{value}</td></tr>' in page
    assert "90000,90000" not in page
