"""One variant in a process of its own: what takes long, such as building an engine, before anything is timed.

A build can need more memory than the device has, and the system then kills the process that asks for it. That must not
be the agent itself; `children` tells what happened and what helps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict

from edgekd.agent.backends import load as load_backend
from edgekd.agent.files import read_npz
from edgekd.agent.job import parse


def work(task: Dict[str, Any], report: Callable[[str, str], None]) -> Dict[str, Any]:
    """Prepare one variant for the shapes that are timed, or for its own where nothing is timed.

    Args:
        task: "job" (content of job.json), "job_dir", "variant".
        report: Called with the variant and what is being done.

    Returns:
        {"prepare": what the backend tells}.
    """
    job = parse(task["job"])
    job_dir, variant = Path(task["job_dir"]), task["variant"]
    timed = {} if job.latency_inputs is None else read_npz(job_dir / job.latency_inputs)
    shapes = {name: array.shape for name, array in timed.items()}
    report(variant, "%s: preparing" % variant)
    facts = load_backend(job.backend).prepare(
        job_dir / job.model(variant).file,
        job.options_of(variant, job_dir),
        shapes,
        lambda detail: report(variant, "%s: %s" % (variant, detail)),
    )
    return {"prepare": facts}
