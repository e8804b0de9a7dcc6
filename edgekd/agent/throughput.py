"""One variant in a process of its own, on all cores, saturated."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict

from edgekd.agent.backends import load as load_backend
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_npz
from edgekd.agent.job import parse


def work(task: Dict[str, Any], report: Callable[[str, str], None]) -> Dict[str, Any]:
    """Measure the throughput of one variant.

    Args:
        task: "job" (content of job.json), "job_dir", "variant", "all_cores".
        report: Called with the variant and what is being done.

    Returns:
        {"inferences", "seconds", "threads"}; an inference is one call with the job's batch.
    """
    job = parse(task["job"])
    if job.latency_inputs is None:
        raise AgentError("the job has no latency inputs")
    job_dir, variant = Path(task["job_dir"]), task["variant"]
    model, options = job_dir / job.model(variant).file, job.options_of(variant, job_dir)
    report(variant, "%s: saturated" % variant)
    feeds = read_npz(job_dir / job.latency_inputs)
    cores = len(task["all_cores"])
    return asdict(load_backend(job.backend).throughput(model, options, feeds, cores, job.method.throughput_seconds))
