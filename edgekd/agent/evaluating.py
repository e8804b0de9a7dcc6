"""One variant in a process of its own: cold start, memory, then its outputs over the evaluation inputs.

The order matters: whatever comes before would warm the caches or raise the peak of what comes after.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Tuple

import numpy as np

from edgekd.agent.backends import load as load_backend
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_npz, write_npz
from edgekd.agent.job import parse

if TYPE_CHECKING:
    from edgekd.agent.backends import Array, Backend, Feeds, Session

Report = Callable[[str, str], None]

_BATCH = 64
_CALLS_BEFORE_PEAK = 10
_REPORT_SECONDS = 0.5


def work(task: Dict[str, Any], report: Report) -> Dict[str, Any]:
    """Evaluate one variant.

    Args:
        task: "job" (content of job.json), "job_dir", "out_dir", "variant", "all_cores".
        report: Called with the variant and what is being done.

    Returns:
        What `measurement.json` says of a variant, without its throughput.
    """
    job = parse(task["job"])
    job_dir, variant = Path(task["job_dir"]), task["variant"]
    model, options = job_dir / job.model(variant).file, job.options_of(variant, job_dir)
    backend = load_backend(job.backend)
    result: Dict[str, Any] = {"outputs": {}, "facts": {}}
    shapes = None
    if job.latency_inputs is not None:
        report(variant, "%s: cold start and memory" % variant)
        feeds = read_npz(job_dir / job.latency_inputs)
        result.update(cold_start(backend, model, options, feeds))
        # What was built for one shape is evaluated as it is timed.
        shapes = {name: array.shape for name, array in feeds.items()} if backend.FIXED_SHAPES else None
    if job.inputs:
        if task["all_cores"] is not None:
            os.sched_setaffinity(0, task["all_cores"])
        session = backend.open(model, {**options, "threads": len(task["all_cores"] or [0])}, shapes)
        for split, file in job.inputs.items():
            name = "outputs/%s.%s.npz" % (variant, split)
            outputs = evaluate(session, read_npz(job_dir / file), _progress(report, variant, split))
            write_npz(Path(task["out_dir"]) / name, outputs)
            result["outputs"][split] = name
    return result


def cold_start(backend: Backend, model: Path, options: Mapping[str, Any], feeds: Feeds) -> Dict[str, Any]:
    """Load a model and run it for the first time in this process; read the peak of memory, then what really ran.

    Returns:
        "load_ns", "cold_start_ns" (load and first inference), "peak_memory_bytes" above the runtime's own, or
        "memory_reason", and "facts".
    """
    backend.warm()
    baseline, reason = reset_peak()
    shapes = {name: array.shape for name, array in feeds.items()}
    start = time.perf_counter_ns()
    session = backend.open(model, options, shapes)
    loaded = time.perf_counter_ns()
    session.run(feeds)
    first = time.perf_counter_ns()
    call = session.bind(feeds)
    for _ in range(_CALLS_BEFORE_PEAK):
        call()
    peak = None if baseline is None else max(0, memory_bytes("VmHWM") - baseline)
    return {
        "load_ns": loaded - start,
        "cold_start_ns": first - start,
        "peak_memory_bytes": peak,
        "memory_reason": reason,
        "facts": session.facts(feeds),
    }


def reset_peak() -> Tuple[Optional[int], Optional[str]]:
    """Set this process's peak of resident memory back to what it holds now.

    Returns:
        (resident bytes now, None), or (None, the reason why the peak cannot be known).
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError as error:
        return None, "the peak of resident memory cannot be reset here (/proc/self/clear_refs: %s)" % error.strerror
    return memory_bytes("VmRSS"), None


def memory_bytes(field: str) -> int:
    """Return a field of /proc/self/status that is given in kB, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AgentError("/proc/self/status has no %s" % field)


def evaluate(session: Session, feeds: Feeds, progress: Callable[[int, int], None]) -> Dict[str, Array]:
    """Run a model over samples and return its raw outputs, first axis = samples.

    Batches have 64 samples where the model's first axes are dynamic, else the model's own number: the last batch is
    then filled up with copies of its last sample, whose outputs are dropped.
    """
    total = _samples(feeds)
    fixed = {tensor.shape[0] for tensor in session.inputs if tensor.shape and tensor.shape[0] is not None}
    if len(fixed) > 1:
        raise AgentError("the model's inputs have fixed batches of different sizes: %s" % sorted(fixed))
    size = fixed.pop() if fixed else _BATCH
    collected: Dict[str, Array] = {}
    for begin in range(0, total, size):
        part = {name: array[begin : begin + size] for name, array in feeds.items()}
        count = min(size, total - begin)
        if count < size and session.inputs and session.inputs[0].shape[0] is not None:
            part = {name: _pad(array, size) for name, array in part.items()}
        for name, values in session.run(part).items():
            if name not in collected:
                collected[name] = np.empty((total, *_per_sample(name, values, part)), values.dtype)
            collected[name][begin : begin + count] = values[:count]
        progress(begin + count, total)
    return collected


def _samples(feeds: Feeds) -> int:
    lengths = {name: len(array) if array.ndim else 0 for name, array in feeds.items()}
    if len(set(lengths.values())) != 1 or not min(lengths.values()):
        raise AgentError("the evaluation inputs must have the same number of samples, at least one: %s" % lengths)
    return next(iter(lengths.values()))


def _pad(array: Array, size: int) -> Array:
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])


def _per_sample(name: str, values: Array, part: Feeds) -> Tuple[int, ...]:
    """Return an output's shape without its batch axis."""
    batch = len(next(iter(part.values())))
    if values.ndim == 0 or len(values) != batch:
        raise AgentError(
            "output %r has the shape %s for %d samples: its first axis must be the samples"
            % (name, values.shape, batch)
        )
    return tuple(values.shape[1:])


def _progress(report: Report, variant: str, split: str) -> Callable[[int, int], None]:
    """Return a function that reports at most twice a second."""
    last = [0.0]

    def progress(done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - last[0] > _REPORT_SECONDS:
            last[0] = now
            report(variant, "%s: %s %d of %d" % (variant, split, done, total))

    return progress
