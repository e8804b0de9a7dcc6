"""What the agent's way of timing costs, and how it compares with a bare loop and with OpenVINO's own clock.

Three comparisons, each with both sides from this run on this machine, one core, one thread, batch 1:

1. ONNX Runtime: the agent's turns against a bare Python loop over the very same session and buffers, in alternating
   turns of ten calls. The claim is that the medians agree within 3 %.
2. OpenVINO: the interval that the agent takes around a call against `InferRequest.latency` of the same call, which is
   what benchmark_app reports.
3. OpenVINO's benchmark_app, where it is installed, in alternation with the agent's turns. These are separate processes,
   so the machine's own changes of speed are in the ratio: read its range, not its median.

Usage: python benchmarks/harness.py [model.onnx] [--seconds 10] [--core N]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from machine import here
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekd.agent import backends, environment
from edgekd.agent.latency import time_calls, warm_up

CALLS, SETTLING = 10, 3
APP_REPETITIONS = 5


def network(path: Path, channels: int = 24) -> None:
    """Write a convolutional network of about 10 million multiply-accumulates on a 1x1x28x28 image."""
    random = np.random.default_rng(0)
    nodes, constants, last, fan_in = [], [], "input", 1
    for index, stride in enumerate((1, 1, 2, 1, 1, 1)):
        kernel = random.standard_normal((channels, fan_in, 3, 3)) / np.sqrt(9 * fan_in)
        constants.append(numpy_helper.from_array(kernel.astype(np.float32), f"kernel{index}"))
        nodes.append(
            helper.make_node("Conv", [last, f"kernel{index}"], [f"c{index}"], pads=[1] * 4, strides=[stride] * 2)
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        last, fan_in = f"r{index}", channels
    matrix = random.standard_normal((channels, 10)).astype(np.float32)
    constants.append(numpy_helper.from_array(matrix, "matrix"))
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "matrix"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def open_bound(name: str, model: Path) -> tuple[Any, Callable[[], object]]:
    """Open a model in a backend, one sample of noise bound to it; dynamic axes become 1."""
    backend = backends.load(name)
    random = np.random.default_rng(0)
    declared = backend.open(model, {}).inputs
    feeds = {
        entry.name: random.standard_normal([axis or 1 for axis in entry.shape]).astype(entry.dtype)
        for entry in declared
    }
    session = backend.open(model, {}, {key: array.shape for key, array in feeds.items()})
    return session, session.bind(feeds)


def bare_loop(call: Callable[[], object]) -> list[int]:
    """Time calls as one would write it down first."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return times


def compare_with_bare_loop(model: Path, seconds: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the times [rounds, calls] of the agent's turns and of the bare loop's, on one ONNX Runtime session."""
    _, call = open_bound("onnxruntime", model)
    warm_up(call, 5.0, CALLS)
    ours: list[NDArray[np.int64]] = []
    theirs: list[list[int]] = []
    settling, times = np.zeros(SETTLING, np.int64), np.zeros(CALLS, np.int64)
    random = np.random.default_rng(0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for side in random.permutation(2).tolist():
            time_calls(call, settling)
            if side == 0:
                time_calls(call, times)
                ours.append(times.copy())
            else:
                theirs.append(bare_loop(call))
    return np.array(ours), np.array(theirs)


def compare_with_own_clock(model: Path, seconds: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for the same OpenVINO calls, the interval around each and the runtime's own latency, in nanoseconds."""
    session, call = open_bound("openvino", model)
    warm_up(call, 5.0, CALLS)
    ours, theirs = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        ours.append(time.perf_counter_ns() - start)
        theirs.append(round(session.request.latency * 1e6))
    return np.array(ours), np.array(theirs)


def compare_with_app(app: str, model: Path, core: int, seconds: float) -> tuple[list[float], list[float]]:
    """Return median latencies in ns of the agent's turns and of benchmark_app, alternated."""
    _, call = open_bound("openvino", model)
    settings = model.parent / "app.json"
    # Without the precision it would run a float32 model in bfloat16 where the CPU can.
    settings.write_text('{"CPU": {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}}')
    command = [app, "-m", str(model), "-d", "CPU", "-ip", "f32", "-hint", "latency", "-api", "sync"]
    command += ["-t", str(max(1, round(seconds))), "-load_config", str(settings)]
    ours, theirs = [], []
    for _ in range(APP_REPETITIONS):
        warm_up(call, 1.0, CALLS)
        turns = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            turns.append(np.zeros(CALLS, np.int64))
            time_calls(call, turns[-1])
        ours.append(float(np.median(turns)))
        ran = subprocess.run(
            command, capture_output=True, text=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, {core})
        )
        found = re.search(r"Median:\s+([\d.]+) (us|ms)", ran.stdout)
        if found is None:
            sys.exit(f"benchmark_app printed no median:\n{ran.stdout}{ran.stderr}")
        theirs.append(float(found.group(1)) * {"us": 1e3, "ms": 1e6}[found.group(2)])
    return ours, theirs


def line(name: str, ours: float, theirs: float, note: str) -> None:
    print(f"{name:<44}{ours / 1e3:>12.2f}{theirs / 1e3:>12.2f}{ours / theirs:>9.4f}  {note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="an ONNX file; without it a small network is made")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each of the first two comparisons")
    parser.add_argument("--core", type=int, help="core to pin to (default: the last one)")
    chosen = parser.parse_args()
    cores = environment.choose_cores(None if chosen.core is None else [chosen.core], 1)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    print(f"{here()}, core {cores}, governor {environment.snapshot()['governor'] or 'unknown'}")
    print(f"{'p50 in us':<44}{'agent':>12}{'other':>12}{'ratio':>9}")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "network.onnx"
        if chosen.model is None:
            network(model)
        else:
            shutil.copyfile(chosen.model, model)
        report(model, chosen.seconds, cores)


def report(model: Path, seconds: float, cores: list[int] | None) -> None:
    """Run the comparisons and print a line for each."""
    ours, theirs = compare_with_bare_loop(model, seconds)
    paired = np.median(ours, 1) / np.median(theirs, 1)
    note = f"median of {len(paired)} paired ratios {np.median(paired):.4f}"
    line("ONNX Runtime: bare loop", float(np.median(ours)), float(np.median(theirs)), note)
    if importlib.util.find_spec("openvino") is None:
        print("OpenVINO is not installed: pip install 'edgekd[openvino]'")
        return
    interval, own = compare_with_own_clock(model, seconds)
    note = f"same {len(interval)} calls; median difference {np.median(interval - own) / 1e3:.2f} us"
    line("OpenVINO: InferRequest.latency", float(np.median(interval)), float(np.median(own)), note)
    app = shutil.which("benchmark_app", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if app is None or cores is None:
        print("OpenVINO: benchmark_app is not installed, or processes cannot be pinned here")
        return
    mine, apps = compare_with_app(app, model, cores[0], max(1.0, seconds / APP_REPETITIONS))
    ratios = [a / b for a, b in zip(mine, apps, strict=True)]
    note = f"{len(ratios)} alternated runs; ratios {min(ratios):.3f} - {max(ratios):.3f}"
    line("OpenVINO: benchmark_app", float(np.median(mine)), float(np.median(apps)), note)


if __name__ == "__main__":
    main()
