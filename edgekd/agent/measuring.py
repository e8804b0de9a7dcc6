"""A whole measurement: one fresh process after the other, then `measurement.json`.

This process loads no runtime. It starts children, keeps what failed apart from what did not, and writes what they
found.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from edgekd.agent import PROTOCOL, __version__, environment, locking, meters, root, sampling
from edgekd.agent import job as jobs
from edgekd.agent.children import STALL_SECONDS, ChildError, run_child
from edgekd.agent.errors import AgentError
from edgekd.agent.files import sha256, write_sealed
from edgekd.agent.job import Job
from edgekd.agent.latency import CONTROL

Progress = Callable[[str, int, int, str], None]
"""Called with the phase, how many of its parts are done, how many there are, and a detail for people."""

_WORK = ".work"
_SPINNING = 0.2
_NOTHING_TIMED = "the job has no latency inputs"
_NOT_ALONE = "switched off (alone: false)"
_EMPTY: Dict[str, Any] = {
    "error": None,
    "outputs": {},
    "cold_start_ns": None,
    "load_ns": None,
    "peak_memory_bytes": None,
    "memory_reason": _NOTHING_TIMED,
    "throughput": None,
    "throughput_reason": _NOTHING_TIMED,
    "prepare": {},
    "facts": {},
}


@dataclass(frozen=True)
class Bench:
    """One measurement under way: what was asked, where things are, what is known of each variant so far."""

    job: Job
    job_dir: Path
    out_dir: Path
    cores: Optional[List[int]]
    progress: Progress
    stall_seconds: float
    variants: Dict[str, Dict[str, Any]] = field(default_factory=dict)

    def child(self, phase: str, part: Tuple[int, int], kind: str, pinned: bool, **task: Any) -> Dict[str, Any]:
        """Run one child of a phase; `part` is (done, total)."""
        everything = {
            "kind": kind,
            "label": phase,
            "job": self.job.to_json(),
            "job_dir": str(self.job_dir),
            "out_dir": str(self.out_dir),
            "cores": self.cores if pinned else None,
            "all_cores": None if self.cores is None else sorted(os.sched_getaffinity(0)),
            **task,
        }
        work = self.out_dir / _WORK / ("%s-%d" % (kind, part[0]))
        return run_child(everything, work, lambda detail: self.progress(phase, *part, detail), self.stall_seconds)

    def each(self, phase: str, kind: str, pinned: bool) -> Dict[str, Dict[str, Any]]:
        """Run one child for every variant without an error and return their results; one that fails is marked so."""
        names, results = self.healthy(), {}
        for index, name in enumerate(names):
            try:
                results[name] = self.child(phase, (index, len(names)), kind, pinned, variant=name)
            except ChildError as error:
                self.variants[name]["error"] = str(error)
        self.progress(phase, len(names), len(names), "%d of %d variants" % (len(results), len(names)))
        return results

    def healthy(self) -> List[str]:
        """Return the variants without an error."""
        return [name for name, variant in self.variants.items() if variant["error"] is None]

    def fail(self, error: ChildError) -> None:
        """Record an error of a variant."""
        self.variants[error.variant]["error"] = str(error)


def measure(job_dir: Path, out_dir: Path, progress: Progress, stall_seconds: float = STALL_SECONDS) -> Dict[str, Any]:
    """Measure a job and write its measurement directory; return the content of `measurement.json`.

    Args:
        job_dir: The job directory.
        out_dir: Where the measurement goes; absent or empty.
        progress: Called often.
        stall_seconds: A child that reports nothing for so long is stopped.

    Raises:
        AgentError: The job is wrong, the backend or meter does not exist, or the folder is in use. What goes wrong
            with a single variant is recorded with it instead.
    """
    job_dir, out_dir = job_dir.resolve(), out_dir.resolve()
    job = jobs.load(job_dir)
    if out_dir.exists() and any(out_dir.iterdir()):
        raise AgentError("%s is not empty; name a new folder for the measurement" % out_dir)
    meter, reason = _meter(job)
    bench = Bench(job, job_dir, out_dir, _cores(job), progress, stall_seconds)
    unknown = dict(_EMPTY) if job.method.alone else dict(_EMPTY, memory_reason=_NOT_ALONE)
    bench.variants.update((model.name, dict(unknown)) for model in job.models)
    with locking.locked(job.lock_clocks) as locked:
        started, before = _now(), environment.snapshot()
        try:
            found = _run(bench, meter, reason)
        finally:
            shutil.rmtree(str(out_dir / _WORK), ignore_errors=True)
        after = environment.snapshot()
    measurement = {
        "protocol": PROTOCOL,
        "agent": __version__,
        "started_at": started,
        "finished_at": _now(),
        "device": job.device,
        "backend": job.backend,
        "simulated": [why for why in (found["runtime"].get("simulated"), root.simulated()) if why],
        "substituted": None,
        "locked_clocks": locked,
        "cores": bench.cores,
        "environment": {"before": before, "after": after, "changes": environment.changes(before, after)},
        "reference": job.reference,
        "batch_size": job.batch_size,
        "method": job.to_json()["method"],
        "variants": bench.variants,
        **found,
        "files": {
            str(path.relative_to(out_dir)): sha256(path) for path in sorted(out_dir.rglob("*")) if path.is_file()
        },
    }
    return write_sealed(out_dir / "measurement.json", measurement)


def _run(bench: Bench, meter: Optional[str], reason: Optional[str]) -> Dict[str, Any]:
    """Measure everything, one phase after the other; return what is not a single variant's."""
    checked = bench.child("evaluate", (0, len(bench.job.models)), "check", pinned=False)
    phases = [("build", "prepare", False)] if checked["fixed_shapes"] else []
    phases += [("evaluate", "evaluate", True)] if bench.job.method.alone else []
    for phase, kind, pinned in phases:
        for name, result in bench.each(phase, kind, pinned).items():
            bench.variants[name].update(result)
    latency, latency_reason = _latency(bench)
    _throughput(bench)
    energy = _energy(bench, meter, reason)
    return {"runtime": checked["runtime"], "latency": latency, "latency_reason": latency_reason, "energy": energy}


def _meter(job: Job) -> Tuple[Optional[str], Optional[str]]:
    """Return (name of the meter, None), or (None, why there is none)."""
    name, meter, reason = meters.find(job.power.meter)
    if meter is not None:
        meter.close()  # it would disturb what is timed before the energy windows
    return (None, _NOTHING_TIMED) if job.latency_inputs is None else (name, reason)


def _cores(job: Job) -> Optional[List[int]]:
    """Return the cores that the timed process is pinned to.

    Raises:
        AgentError: The job names cores that may not be used here, or fewer than its sessions have threads.
    """
    threads = job.options.get("threads", 1)
    cores = environment.choose_cores(job.cores, threads if isinstance(threads, int) else 1)
    if cores is None:
        return None
    allowed = sorted(os.sched_getaffinity(0))
    if not set(cores) <= set(allowed):
        raise AgentError("the job pins to cores %s; this process may use %s" % (cores, allowed))
    if isinstance(threads, int) and len(cores) < threads:
        raise AgentError("%d threads do not fit on cores %s; ask for fewer threads or more cores" % (threads, cores))
    return cores


def _latency(bench: Bench) -> Tuple[Optional[Dict[str, Any]], Optional[str]]:
    """Measure the columns; a variant that fails now is recorded as failed and left out, and the rest starts again."""
    if bench.job.latency_inputs is None:
        return None, _NOTHING_TIMED
    while bench.healthy():
        names = bench.healthy()
        repeated = bench.job.reference if bench.job.reference in names else names[0]
        try:
            return _latency_of(bench, [*names, "%s%s" % (repeated, CONTROL)]), None
        except ChildError as error:
            shutil.rmtree(str(bench.out_dir / "samples"), ignore_errors=True)  # processes that belong to no result
            if error.variant not in names:
                return None, str(error)
            bench.fail(error)
    return None, "no variant runs here"


def _latency_of(bench: Bench, columns: List[str]) -> Dict[str, Any]:
    files, shares = [], []
    total = bench.job.method.processes
    for process in range(total):
        name = "samples/%d.npz" % process
        result = bench.child(
            "latency",
            (process, total),
            "latency",
            pinned=True,
            columns=columns,
            process=process,
            samples=str(bench.out_dir / name),
        )
        files.append(name)
        shares.append(result["cpu_share_idle"])
    bench.progress("latency", total, total, "%d columns" % len(columns))
    return {
        "columns": columns,
        "processes": files,
        "core": bench.cores[0] if bench.cores else None,
        "spinning": {"checked": True, "cpu_share_idle": max(shares), "spins": max(shares) > _SPINNING},
    }


def _throughput(bench: Bench) -> None:
    """Add each variant's throughput, or the reason why it has none."""
    if bench.job.latency_inputs is None:
        return
    names, seconds = bench.healthy(), bench.job.method.throughput_seconds
    for name, variant in bench.variants.items():
        if variant["error"] is not None:
            variant["throughput_reason"] = "the variant does not run here"
        elif not seconds:
            variant["throughput_reason"] = "switched off (throughput_seconds: 0)"
        else:
            part = (names.index(name), len(names))
            try:
                variant["throughput"] = bench.child("throughput", part, "throughput", pinned=False, variant=name)
                variant["throughput_reason"] = None
            except ChildError as error:
                variant["throughput_reason"] = str(error)
    bench.progress("throughput", len(names), len(names), "")


def _energy(bench: Bench, meter: Optional[str], reason: Optional[str]) -> Dict[str, Any]:
    """Measure the energy windows, or say why not."""
    columns = bench.healthy()
    if meter is None or not columns:
        return sampling.absent(reason or "no variant runs here")

    found = sampling.recorded(
        name=meter,
        out_dir=bench.out_dir,
        work_dir=bench.out_dir / _WORK,
        run=lambda task: bench.child("energy", (0, 1), "energy", pinned=True, columns=columns, **task),
        cores=bench.cores,
        period_s=bench.job.power.period_s,
    )
    bench.progress("energy", 1, 1, found["reason"] or meter)
    return found


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
