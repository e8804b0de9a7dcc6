"""Latency of all variants, finely interleaved in one pinned process.

Machines change their speed by 1.5 - 1.9x within seconds, so what is compared must be measured within milliseconds of
each other: every round gives each column (variant or control) one short turn, in a new random order. All raw times are
kept.
"""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from edgekd.agent.backends import load as load_backend
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_npz, write_npz
from edgekd.agent.job import parse

if TYPE_CHECKING:
    from edgekd.agent.backends import Array
    from edgekd.agent.job import Job
    from edgekd.agent.method import Method

Call = Callable[[], object]
Report = Callable[[str, str], None]

CONTROL = "#control"

_IDLE_SECONDS = 0.2
_SHORTEST_TURN_NS = 2_000_000  # ten calls of a 10 us model would be over before the caches are its own
_FEWEST_ROUNDS = 5
_WINDOW_NS = 20_000_000
_STEADY_WINDOWS = 3
_STEADY_SPREAD = 0.10
_REPORT_NS = 1_000_000_000


@dataclass(frozen=True)
class Plan:
    """One process's share: how many rounds, and how many measured calls of each column in a round."""

    rounds: int
    calls: Tuple[int, ...]
    target_ns: Tuple[float, ...]


def work(task: Dict[str, Any], report: Report) -> Dict[str, Any]:
    """Measure one fresh process's share of the latencies and write the raw samples.

    Args:
        task: "job" (content of job.json), "job_dir", "columns" (variants, the control with its suffix), "process" (its
            number), "samples" (path of the .npz to write).
        report: Called with the column that is busy ("" for all) and what is being done.

    Returns:
        {"cpu_share_idle": CPU seconds per second while all sessions are loaded and idle}.
    """
    job = parse(task["job"])
    if job.latency_inputs is None:
        raise AgentError("the job has no latency inputs")
    columns: List[str] = task["columns"]
    random = np.random.default_rng((job.seed, task["process"]))
    calls, sessions = open_columns(
        job, Path(task["job_dir"]), columns, random.permutation(len(columns)).tolist(), report
    )
    report("", "loaded, idle")
    idle_share = cpu_share(_IDLE_SECONDS)
    gc.collect()
    gc.freeze()
    gc.disable()
    warmups = []
    for name, call in zip(columns, calls):
        report(name.replace(CONTROL, ""), "%s: warm-up" % name)
        warmups.append(warm_up(call, job.method.warmup_seconds / len(columns), job.method.calls))
    plan = make_plan([warmup.p50_ns for warmup in warmups], job.method)
    arrays = measure_rounds(calls, plan, job.method.settling_calls, random, lambda text: report("", text))
    for index, warmup in enumerate(warmups):
        arrays["warmup_ns_%d" % index] = warmup.times_ns
    arrays["warmup_steady"] = np.array([warmup.steady for warmup in warmups])
    write_npz(Path(task["samples"]), arrays, compress=True)
    del sessions  # they had to outlive the last call
    return {"cpu_share_idle": idle_share}


def open_columns(
    job: Job, job_dir: Path, columns: Sequence[str], order: Sequence[int], report: Report
) -> Tuple[List[Call], List[Any]]:
    """Open one session per column, in a given order (which decides where each lies in memory), and bind its buffers."""
    backend = load_backend(job.backend)
    backend.warm()
    feeds = read_npz(job_dir / str(job.latency_inputs))
    shapes = {name: array.shape for name, array in feeds.items()}
    opened: Dict[int, Any] = {}
    for index in order:
        variant = columns[index].replace(CONTROL, "")
        report(variant, "%s: loading" % columns[index])
        options = job.options_of(variant, job_dir)
        opened[index] = backend.open(job_dir / job.model(variant).file, options, shapes)
    sessions = [opened[index] for index in range(len(columns))]
    return [session.bind(feeds) for session in sessions], sessions


def cpu_share(seconds: float) -> float:
    """Return how much of one core this process uses while it waits: idle sessions must not spin."""
    cpu, wall = time.process_time(), time.perf_counter()
    time.sleep(seconds)
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


@dataclass(frozen=True)
class WarmUp:
    """A warm-up: every call's time, the median of its last window, and whether it became steady before its limit."""

    times_ns: Array
    p50_ns: float
    steady: bool


def warm_up(call: Call, seconds: float, fewest_calls: int) -> WarmUp:
    """Call until the medians of three successive windows lie within 10 % of each other, for at most so many seconds.

    The rule is that of NVIDIA's perf_analyzer. A window lasts about 20 ms and has at least `fewest_calls` calls; one
    window is run whatever the limit.
    """
    deadline = time.perf_counter_ns() + int(seconds * 1e9)
    times: List[int] = []
    medians: List[float] = []
    while True:
        first, until = len(times), time.perf_counter_ns() + _WINDOW_NS
        while len(times) - first < fewest_calls or time.perf_counter_ns() < until:
            start = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - start)
        medians.append(float(np.median(times[first:])))
        last = medians[-_STEADY_WINDOWS:]
        steady = len(last) == _STEADY_WINDOWS and max(last) <= min(last) * (1 + _STEADY_SPREAD)
        if steady or time.perf_counter_ns() >= deadline:
            return WarmUp(np.array(times, np.int64), max(medians[-1], 1.0), steady)


def make_plan(p50_ns: Sequence[float], method: Method) -> Plan:
    """Share a process's work among rounds.

    Every column is to reach its target time (its share of `seconds`, or of `inferences` if that takes longer) after
    the same number of rounds; so turns last about equally long where `seconds` decides. There are as many rounds as
    the slowest column allows with `calls` calls in a turn, but no turn is shorter than 2 ms, and there are at least 5.

    Args:
        p50_ns: Median time of one call of each column.
        method: The whole measurement, of which this process does one part of `processes`.
    """
    seconds = method.seconds / method.processes
    inferences = math.ceil(method.inferences / method.processes)
    targets = tuple(max(seconds * 1e9, p50 * inferences) for p50 in p50_ns)
    wanted = [max(inferences, math.ceil(target / p50)) for target, p50 in zip(targets, p50_ns)]
    rounds = min(min(wanted) // method.calls, int(min(targets) // _SHORTEST_TURN_NS))
    rounds = max(_FEWEST_ROUNDS, rounds)
    calls = tuple(max(method.calls, math.ceil(count / rounds)) for count in wanted)
    return Plan(rounds, calls, tuple(seconds * 1e9 for _ in p50_ns))


def measure_rounds(
    calls: Sequence[Call],
    plan: Plan,
    settling_calls: int,
    random: np.random.Generator,
    report: Callable[[str], None],
) -> Dict[str, Array]:
    """Run the rounds and return the raw times, as `measurement.json` describes the samples.

    The machine may have become faster since the warm-up: rounds are added, at most as many again, until every column
    has spent its time.
    """
    most = 2 * plan.rounds
    order = np.zeros((most, len(calls)), np.int16)
    settling = [np.zeros((most, settling_calls), np.int64) for _ in calls]
    measured = [np.zeros((most, count), np.int64) for count in plan.calls]
    spent = [0] * len(calls)
    done, reported = 0, time.perf_counter_ns()
    while done < plan.rounds or (done < most and any(have < want for have, want in zip(spent, plan.target_ns))):
        order[done] = random.permutation(len(calls))
        for column in order[done].tolist():
            time_calls(calls[column], settling[column][done])
            time_calls(calls[column], measured[column][done])
            spent[column] += int(measured[column][done].sum())
        done += 1
        if time.perf_counter_ns() - reported > _REPORT_NS:
            reported = time.perf_counter_ns()
            report("round %d of %d" % (done, plan.rounds))
    arrays: Dict[str, Array] = {"order": order[:done]}
    for column in range(len(calls)):
        arrays["latency_ns_%d" % column] = measured[column][:done]
        arrays["settling_ns_%d" % column] = settling[column][:done]
    return arrays


def time_calls(call: Call, times_ns: Array) -> None:
    """Call once per element and store each call's nanoseconds; storing is outside of the interval."""
    clock = time.perf_counter_ns
    for index in range(len(times_ns)):
        start = clock()
        call()
        end = clock()
        times_ns[index] = end - start
