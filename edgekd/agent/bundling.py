"""A bundle on its device: a folder that was carried here is measured and becomes one file to carry back.

The bundle holds agent.pyz, job/ and bundle.json; `python3 agent.pyz bundle`, run in that folder, writes result.zip:
measurement/ and result.json. Both JSON files name the device, the run, and the SHA-256 of every other file beside them.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
import zipfile
import zlib
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Dict, Mapping, Tuple, Union

from edgekd.agent import PROTOCOL, preview
from edgekd.agent import job as jobs
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_json, replacing, sha256, write_json, write_sealed
from edgekd.agent.job import Job
from edgekd.agent.measuring import Progress, measure

FORMAT = 1
BUNDLE_FILE, RESULT_FILE = "bundle.json", "result.json"
JOB, MEASUREMENT = "job", "measurement"

CPU = "cpu"
CPU_BACKEND = "onnxruntime"
CPU_OPTIONS: Mapping[str, Any] = {"providers": ["CPUExecutionProvider"], "threads": 1}
"""What `--device cpu` measures with."""

_SAMPLE_BYTES = 1 << 20
_CHUNK = 1 << 20
_PATIENCE_SECONDS = 5.0
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold


def add_arguments(parser: ArgumentParser) -> None:
    """Add what `bundle` takes."""
    parser.add_argument(
        "--device",
        choices=[CPU],
        help="measure with ONNX Runtime on the processor instead of the runtime that the bundle asks for; "
        "the report then shows a device of its own",
    )
    parser.add_argument("--out", type=Path, default=Path("result.zip"), help="the file to write (default: result.zip)")
    parser.add_argument("--keep", action="store_true", help="keep the measurement as a folder too: measurement/")


def command(chosen: Namespace) -> int:
    """Measure the bundle in the working directory; progress goes to standard error, a preview to standard output."""
    try:
        told = run(Path.cwd(), chosen.out, on_cpu=chosen.device == CPU, keep=chosen.keep, say=_say)
    except OSError as error:
        raise AgentError("%s: %s; nothing was written" % (error.filename or chosen.out, error.strerror)) from error
    print(preview.text(told), flush=True)
    _say("done: %s; bring it back, then: edgekd report RUN --add %s" % (chosen.out, chosen.out.name))
    return 0


def run(folder: Path, out: Path, *, on_cpu: bool, keep: bool, say: Callable[[str], None]) -> Dict[str, Any]:
    """Measure a bundle and write its result in one step.

    Args:
        folder: Where the bundle was unzipped.
        out: The zip file to write; there must be none yet.
        on_cpu: Measure with ONNX Runtime on the processor, whatever was asked for; the measurement says so.
        keep: Leave the measurement beside the result too, as measurement/.
        say: Called with lines for people.

    Returns:
        What `preview.summary` says of the measurement.

    Raises:
        AgentError: The bundle is damaged, its runtime is not here, or the result cannot be written.
    """
    bundle = verify(folder)
    if out.exists():
        raise AgentError("%s is there already; bring it back, or name another file with --out" % out)
    kept = out.resolve().parent / MEASUREMENT
    if keep and kept.exists():
        raise AgentError("--keep: %s is there already; move it away" % kept)
    if not kept.parent.is_dir():
        raise AgentError("--out %s: there is no folder %s" % (out, kept.parent))
    job = jobs.load(folder / JOB)
    # Beside the result: that it can be written there is better known now than after the measurement.
    with tempfile.TemporaryDirectory(prefix=".edgekd-", dir=str(kept.parent)) as temporary:
        measured = Path(temporary) / MEASUREMENT
        job_dir = _for_processor(folder / JOB, job, Path(temporary), say) if on_cpu else folder / JOB
        measurement = measure(job_dir, measured, _telling(say))
        if on_cpu:
            measurement["substituted"] = {"asked": job.backend, "used": CPU_BACKEND}
            measurement = write_sealed(measured / "measurement.json", measurement)
        told = {**preview.summary(measurement, measured), "inputs": "of the bundle"}
        _write_result(out, measured, bundle, job, sha256(folder / JOB / "job.json"))
        if keep:
            measured.replace(kept)
    return told


def verify(folder: Path) -> Dict[str, Any]:
    """Return the content of a bundle's bundle.json after a check of every file.

    Raises:
        AgentError: There is no bundle, it is for another agent, or files are missing or damaged (all are named).
    """
    if not (folder / BUNDLE_FILE).is_file():
        raise AgentError(
            "there is no %s in %s; change to the folder that the bundle was unzipped into" % (BUNDLE_FILE, folder)
        )
    bundle = read_json(folder / BUNDLE_FILE)
    if not isinstance(bundle, dict) or bundle.get("format") != FORMAT or bundle.get("protocol") != PROTOCOL:
        raise AgentError(
            "%s is not for this agent (format %d, protocol %d); use the agent.pyz that came with it"
            % (folder / BUNDLE_FILE, FORMAT, PROTOCOL)
        )
    if not all(isinstance(bundle.get(key), kind) for key, kind in (("device", str), ("run_id", str), ("files", dict))):
        raise AgentError("%s lacks device, run_id or files; unzip the bundle again" % (folder / BUNDLE_FILE))
    problems = []
    for name, digest in bundle["files"].items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            problems.append("%r leads out of it" % name)
        elif not (folder / name).is_file():
            problems.append("%s is missing" % name)
        elif sha256(folder / name) != digest:
            problems.append("%s was damaged or changed" % name)
    if problems:
        raise AgentError("the bundle in %s is not whole: %s; unzip it again" % (folder, "; ".join(problems)))
    return bundle


def on_processor(job: Job) -> Job:
    """Return the same job for ONNX Runtime on the processor, on any core and with the clocks as they are.

    ONNX Runtime computes a file as it is written, so of the variants that are one file in several precisions only the
    first is left, which has the file's own name.

    Raises:
        AgentError: That is what the job asks for anyway.
    """
    usual = CPU_OPTIONS["providers"]
    if job.backend == CPU_BACKEND and job.options.get("providers", usual) == usual:
        raise AgentError("this bundle is measured with ONNX Runtime on the processor already; leave out --device cpu")
    first: Dict[str, str] = {}
    for model in job.models:
        first.setdefault(model.sha256, model.name)
    models = tuple(
        replace(model, precision=None, half_file=None, half_sha256=None)
        for model in job.models
        if model.precision is None or first[model.sha256] == model.name
    )
    return replace(
        job,
        device=CPU,
        backend=CPU_BACKEND,
        options=dict(CPU_OPTIONS),
        models=models,
        cores=None,
        lock_clocks=False,
    )


def write_zip(target: Path, files: Mapping[str, Union[Path, bytes]]) -> None:
    """Write a zip file in one step; the same files give the same bytes.

    Args:
        files: By name in the archive, a file's path or its content.
    """
    with replacing(target) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(files):
            source = files[name]
            member = zipfile.ZipInfo(name, _EPOCH)
            member.external_attr = 0o100644 << 16
            if isinstance(source, bytes):
                member.compress_type = _compression(source)
                archive.writestr(member, source)
                continue
            member.file_size = source.stat().st_size  # tells zipfile whether 32 bits are enough
            with source.open("rb") as reader:
                member.compress_type = _compression(reader.read(_SAMPLE_BYTES))
                reader.seek(0)
                with archive.open(member, "w") as writer:
                    for chunk in iter(lambda: reader.read(_CHUNK), b""):
                        writer.write(chunk)


def _compression(start: bytes) -> int:
    """Deflate what gets smaller by it; but a hundredth or less is what readers take for a zip bomb."""
    share = len(zlib.compress(start)) / max(len(start), 1)
    return zipfile.ZIP_DEFLATED if 0.01 < share < 0.9 else zipfile.ZIP_STORED


def _for_processor(job_dir: Path, job: Job, work: Path, say: Callable[[str], None]) -> Path:
    """Copy a job's folder with the job changed to one for the processor, and return the copy."""
    changed = on_processor(job)
    kept = {model.name for model in changed.models}
    for model in job.models:
        if model.name not in kept:
            say("left out: %s, which ONNX Runtime would compute as another variant of the same file" % model.name)
    if job.lock_clocks:
        say("the clocks are not locked: that was asked for the device, not for this processor")
    folder = work / JOB
    shutil.copytree(str(job_dir), str(folder))
    write_json(folder / "job.json", changed.to_json())
    return folder


def _write_result(out: Path, measured: Path, bundle: Mapping[str, Any], job: Job, job_sha256: str) -> None:
    files = {
        "%s/%s" % (MEASUREMENT, path.relative_to(measured).as_posix()): path
        for path in measured.rglob("*")
        if path.is_file()
    }
    told = {
        "format": FORMAT,
        "device": bundle["device"],
        "run_id": bundle["run_id"],
        "job_sha256": job_sha256,
        "protocol": PROTOCOL,
        "models": {model.name: {"sha256": model.sha256, "precision": model.precision} for model in job.models},
        "files": {name: sha256(files[name]) for name in sorted(files)},
    }
    write_zip(out, {**files, RESULT_FILE: json.dumps(told, indent=1).encode("utf-8") + b"\n"})


def _telling(say: Callable[[str], None]) -> Progress:
    """Return what turns a measurement's progress into lines: one for each part, and now and then one within it."""
    part: Tuple[str, int] = ("", 0)
    told = 0.0

    def progress(phase: str, done: int, total: int, detail: str) -> None:
        nonlocal part, told
        now = time.monotonic()
        if (phase, done) != part or now - told >= _PATIENCE_SECONDS:
            say("%s %d/%d%s" % (phase, done, total, " " + detail if detail else ""))
            part, told = (phase, done), now

    return progress


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
