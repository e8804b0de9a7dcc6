"""What it costs to have a measurement taken by the local agent or over ssh: python benchmarks/dispatch.py

One job (a convolutional network and its A/A control) is measured in turn in three ways: by a call of the agent's own
function in this process, by the local agent in a process of its own, and over ssh on loopback, copying and checking
included. The overhead is the wall time beyond the plain call of the same round. The second table compares the latencies
that come back: they should be the same, since nothing of the connection is in them. Needs an ssh server
(Debian: apt install openssh-server); it is started with throw-away keys, and listens on loopback only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

from harness import network

from edgekd.agent import measuring
from edgekd.agent.files import read_npz, sha256, write_json, write_npz
from edgekd.agent.job import Job
from edgekd.agent.method import Method, Model
from edgekd.dispatch import local, ssh
from edgekd.stage import silent
from tests.dispatch import sshd


def write_job(folder: Path, seconds: float) -> Path:
    (folder / "models").mkdir(parents=True)
    network(folder / "models/network.onnx")
    noise = np.random.default_rng(0).standard_normal((64, 1, 28, 28)).astype(np.float32)
    write_npz(folder / "inputs/test.npz", {"input": noise})
    write_npz(folder / "inputs/latency.npz", {"input": noise[:1]})
    model = Model("network", "models/network.onnx", sha256(folder / "models/network.onnx"))
    job = Job(
        device="cpu",
        backend="onnxruntime",
        models=(model,),
        inputs={"test": "inputs/test.npz"},
        latency_inputs="inputs/latency.npz",
        method=Method(processes=3, seconds=seconds, warmup_seconds=0.5, throughput_seconds=0.5, quick=True),
    )
    write_json(folder / "job.json", job.to_json())
    return folder


def p50_us(out: Path) -> float:
    """Return the median latency over all processes."""
    times = [read_npz(path)["latency_ns_0"].ravel() for path in sorted((out / "samples").glob("*.npz"))]
    return float(np.median(np.concatenate(times))) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time per model (default: 2)")
    parser.add_argument("--job", type=Path, help="another job folder")
    arguments = parser.parse_args()
    if not sshd.SSHD.exists():
        sys.exit(sshd.REASON)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        job = arguments.job or write_job(folder / "job", arguments.seconds)
        (folder / "device").mkdir()
        os.environ["PATH"] = os.pathsep.join([str(sshd.client(folder / "device")), os.environ["PATH"]])
        with sshd.device(folder / "device") as device:
            ways: dict[str, Callable[[Path], object]] = {
                "plain call": lambda out: measuring.measure(job, out, lambda *_: None),
                "local agent": lambda out: local.measure(job, out, timeout_s=3600, progress=silent),
                "ssh, loopback": lambda out: ssh.measure(
                    job, out, address=device.address, python=sys.executable, timeout_s=3600, keep=False,
                    progress=silent, say=print,
                ),
            }  # fmt: skip
            compare(ways, folder, arguments.rounds)


def compare(ways: dict[str, Callable[[Path], object]], folder: Path, rounds: int) -> None:
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    latencies: dict[str, list[float]] = {way: [] for way in ways}
    for index in range(rounds):
        for number, (way, take) in enumerate(ways.items()):
            started = time.perf_counter()
            take(folder / f"out-{index}-{number}")
            seconds[way].append(time.perf_counter() - started)
            latencies[way].append(p50_us(folder / f"out-{index}-{number}"))
    first = next(iter(ways))
    print(f"{'way':<14} {'wall s':>7} {'overhead s':>11} {'least':>6} {'p50 us':>8} {'ratio to it, range':>19}")
    for way in ways:
        over = [mine - plain for mine, plain in zip(seconds[way], seconds[first], strict=True)]
        ratios = [mine / plain for mine, plain in zip(latencies[way], latencies[first], strict=True)]
        print(
            f"{way:<14} {statistics.median(seconds[way]):7.2f} {statistics.median(over):11.2f} {min(over):6.2f} "
            f"{statistics.median(latencies[way]):8.1f} {min(ratios):12.3f} {max(ratios):6.3f}"
        )


if __name__ == "__main__":
    main()
