"""Our integers against ONNX Runtime's quantizer and NNCF: latency, accuracy, bytes and time to result, on two runtimes.

Each network is trained here, briefly. Every tool makes its file from the same network with the same calibration images
(`quantizers.py`). Our own agent times all files interleaved in one pinned process, with one of ours a second time as
control, and runs them over the 10,000 test images. One network is made fragile: two of its channels are a hundred times
larger than the others, the function unchanged.

The claims, per network and runtime, of our calibrated file (ptq) against the calibrating tools, of our mixed precision
against NNCF's accuracy control, and of our training with the integers (qat) against all of them: latency at most
theirs, or the ratio within the noise floor that the control shows; accuracy at most 0.1 points below theirs; for ptq a
file at most 1.1 times theirs; for ptq and mixed no more time to the result than those take whose result is as good
(at most 0.1 points below ours). With several tools each claim is against the one that is best at it; a tool that raises
is told and left out. Exit code 1 where one fails.

Usage: python benchmarks/quantization.py --data-dir DATA [--work FOLDER] [--networks mlp resnet-16] [--seconds 10]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from machine import here
from quantizers import NETWORKS, OURS, Made, make, trained

from edgekd.agent.files import read_json, read_npz, sha256, write_json, write_npz
from edgekd.agent.job import Job
from edgekd.agent.latency import CONTROL
from edgekd.agent.method import Method, Model, Power
from edgekd.data import Data
from edgekd.report.statistics import Estimate, is_no_difference, noise_floor, paired_medians, ratios, round_medians

PTQ, MIXED, QAT = OURS
CALIBRATED = ("onnxruntime", "nncf", "nncf-uncorrected", "nncf-slow-bias")
CONTROLLED = ("nncf-control",)
PAIRS = {PTQ: CALIBRATED, MIXED: CONTROLLED, QAT: (*CALIBRATED, *CONTROLLED)}
RUNTIMES = {"onnxruntime": {"threads": 1}, "openvino": {"threads": 1}}
ACCURACY_LIMIT_PP, SIZE_LIMIT = 0.1, 1.1


@dataclass(frozen=True)
class Measured:
    """What the agent found, by file.

    Args:
        p50_ns: median latency.
        columns: latency of each round [rounds] of each process, the control's too.
        accuracy: on the test images, from the outputs that the runtime gave.
        precision: what our layers ran in, in the agent's words.
    """

    p50_ns: Mapping[str, float]
    columns: Mapping[str, Sequence[np.ndarray]]
    accuracy: Mapping[str, float]
    precision: object

    def against(self, ours: str, others: Sequence[str]) -> dict[str, Estimate]:
        """Return the latency of one of our files over that of each of the others, paired by round."""
        paired = paired_medians([ratios(self.columns[ours], self.columns[name]) for name in others])
        return dict(zip(others, paired, strict=True))

    @property
    def floor(self) -> float:
        """The ratio by which one file differs from itself."""
        return noise_floor(self.against(PTQ, [PTQ + CONTROL])[PTQ + CONTROL])


def measure(files: Mapping[str, Made], data: Data, runtime: str, folder: Path, method: Method) -> Measured:
    """Let the agent time the files and run them over the test images."""
    models = tuple(Model(name, str(made.path.relative_to(folder)), sha256(made.path)) for name, made in files.items())
    write_npz(folder / "test.npz", {"input": data.test.inputs})
    write_npz(folder / "one.npz", {"input": data.test.inputs[:1]})
    job = Job(
        device=runtime,
        backend=runtime,
        options=RUNTIMES[runtime],
        models=models,
        reference=PTQ,
        inputs={"test": "test.npz"},
        latency_inputs="one.npz",
        method=method,
        power=Power(meter="none"),
    )
    write_json(folder / "job.json", job.to_json())
    out = folder / f"measured-{runtime}"
    command = [sys.executable, "-m", "edgekd.agent", "run", str(folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the agent failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return read(out, data)


def read(measured: Path, data: Data) -> Measured:
    """Read a measurement."""
    content = read_json(measured / "measurement.json")
    failed = {name: of["error"] for name, of in content["variants"].items() if of["error"]}
    if failed:
        sys.exit(f"does not run on {content['device']}: {failed}")
    processes = [read_npz(measured / name) for name in content["latency"]["processes"]]
    calls = {
        name: [process[f"latency_ns_{column}"] for process in processes]
        for column, name in enumerate(content["latency"]["columns"])
    }
    answers = {
        name: read_npz(measured / of["outputs"]["test"])["logits"].argmax(1) for name, of in content["variants"].items()
    }
    return Measured(
        {name: float(np.median(np.concatenate([process.ravel() for process in of]))) for name, of in calls.items()},
        {name: round_medians(of) for name, of in calls.items()},
        {name: float(np.mean(answer == data.test.targets)) for name, answer in answers.items()},
        content["variants"][PTQ]["facts"].get("precision"),
    )


def table(files: Mapping[str, Made], found: Measured) -> None:
    """Print a row for each file: the first ratio is that of our file which it is compared with."""
    print("| file | p50 µs | ours / it, 95 % | accuracy | bytes | s | s of processor |")
    print("|---|---|---|---|---|---|---|")
    rival = {other: ours for ours in (QAT, MIXED, PTQ) for other in PAIRS[ours]}
    rival |= {"float": PTQ, PTQ + CONTROL: PTQ}
    for name, p50_ns in found.p50_ns.items():
        told = ""
        if name in rival:
            ratio = found.against(rival[name], [name])[name]
            told = f"{rival[name].removeprefix('edgekd-')}: {ratio.value:.3f} [{ratio.ci[0]:.3f}, {ratio.ci[1]:.3f}]"
        made = files.get(name)
        known = f"{found.accuracy[name]:.4f} | {made.path.stat().st_size:,} | " if made else "| | "
        took = f"{made.wall_s:.1f} | {made.processor_s:.1f}" if made else "|"
        print(f"| {name} | {p50_ns / 1e3:.1f} | {told} | {known}{took} |")


def claims(ours: str, files: Mapping[str, Made], found: Measured) -> dict[str, bool]:
    """Return what is claimed of one of our files, and whether it holds."""
    others = [other for other in PAIRS[ours] if other in files]
    if not others:
        return {"none of the others made a file": True}
    name, slowest = max(found.against(ours, others).items(), key=lambda item: item[1].value)
    best = max(others, key=lambda other: found.accuracy[other])
    loss_pp = 100 * (found.accuracy[best] - found.accuracy[ours])
    told = {
        f"latency {slowest.value:.3f} of {name} (noise floor {found.floor:.1%})": slowest.value <= 1
        or is_no_difference(slowest, found.floor),
        f"accuracy {loss_pp:+.2f} pp below {best} (limit {ACCURACY_LIMIT_PP})": loss_pp < ACCURACY_LIMIT_PP + 1e-9,
    }
    if ours == PTQ:
        smallest = min(others, key=lambda other: files[other].path.stat().st_size)
        share = files[ours].path.stat().st_size / files[smallest].path.stat().st_size
        told[f"bytes {share:.3f} of {smallest} (limit {SIZE_LIMIT})"] = share <= SIZE_LIMIT
    if ours != QAT:
        took = files[ours].seconds
        least = found.accuracy[ours] - ACCURACY_LIMIT_PP / 100
        their = {files[other].seconds: other for other in others if found.accuracy[other] >= least}
        quickest = f"{their[min(their)]} after {min(their):.1f} s" if their else "the others never"
        told[f"result after {took:.1f} s, {quickest}"] = not their or took <= min(their)
    return told


def report(name: str, runtime: str, files: Mapping[str, Made], found: Measured) -> list[str]:
    """Print what was found of a network on a runtime, and return the claims that failed."""
    print(f"\n{name} on {runtime} (layers of ptq ran in: {found.precision})\n")
    table(files, found)
    print()
    failed = []
    for ours in PAIRS:
        for claim, holds in claims(ours, files, found).items():
            print(f"  {'ok    ' if holds else 'FAILED'} {ours}: {claim}", flush=True)
            failed += [] if holds else [f"{name} on {runtime}: {ours}: {claim}"]
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="where MNIST and Fashion-MNIST are (default: EDGEKD_DATA)")
    parser.add_argument("--work", type=Path, help="folder in which trained networks and all files are kept")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time of each file on each runtime")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes that the time is spread over")
    chosen = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchao", "onnxruntime", "nncf", "openvino"))
    print(here())
    print(versions)
    method = Method(processes=chosen.processes, seconds=chosen.seconds, throughput_seconds=0.0)
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for name in chosen.networks:
            case = trained(name, chosen.data_dir, work)
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work))
            files = make(case, folder)
            for runtime in RUNTIMES:
                failed += report(name, runtime, files, measure(files, case.data, runtime, folder, method))
    if failed:
        sys.exit("\n".join(["", *failed]))


if __name__ == "__main__":
    main()
