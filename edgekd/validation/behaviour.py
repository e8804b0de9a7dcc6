"""How a model behaves whatever the reference says: at other sizes, a second time, beside other samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from edgekd.agent.errors import AgentError
from edgekd.graph.feeding import random_inputs
from edgekd.graph.links import link, name_of
from edgekd.graph.lint import Port
from edgekd.graph.parity import decibels
from edgekd.validation.checks import Check, judged
from edgekd.validation.feeding import Feed
from edgekd.validation.files import Opened, first_line
from edgekd.validation.interface import declared_problems, free_axes
from edgekd.validation.tally import Tally
from edgekd.validation.target import Loaded

Array = NDArray[np.generic]
Answers = Mapping[str, Array]

BATCHES = (1, 2, 7, 32)
LARGEST_BATCH = 4096
"""More samples at a time are no batch, but a file that is damaged."""
_REPEATED = 1e-6
_EVALUATION_MODE = "look for RandomNormal, Dropout or BatchNormalization in training mode: export in evaluation mode"
_FIXED_AXIS = (
    "write Reshape and Expand with -1 or a computed size where the axis is free, and export with that axis dynamic"
)


@dataclass(frozen=True)
class Probed:
    """What a model did with batches of several sizes.

    Args:
        batch: the largest that it took; 0 where it took none.
        checks: what was found.
    """

    batch: int
    checks: list[Check]


def probe(
    model: Opened, loaded: Loaded, feed: Feed, names: Mapping[str, str], limit_db: float, *, declared: bool
) -> Probed:
    """Run the first samples in batches of 1, 2, 7 and 32, and the last of these a second time.

    Args:
        feed: samples by the reference's names; `names` are the model's.
        limit_db: how far answers in different batches may be apart.
        declared: whether the shapes that the file declares are to be held against those that come out; not where they
            are known to be wrong.
    """
    batch = loaded.batch
    if batch is not None and not 0 < batch <= LARGEST_BATCH:
        told = f"its inputs are declared for {batch} samples at a time"
        return Probed(0, [Check("run", "failed", told, remedy=_FIXED_AXIS)])
    sizes = [batch] if batch else sorted({min(size, feed.total) for size in BATCHES})
    answers, failures = {}, {}
    for size in sizes:
        try:
            answers[size] = loaded.answer(_renamed(feed.batch(0, size), names))
        except AgentError as error:
            failures[size] = first_line(error)
    if not answers:
        remedy = "run it in the framework that it came from: the operators do not fit the shapes that it is fed"
        return Probed(0, [Check("run", "failed", next(iter(failures.values())), remedy=remedy)])
    batch = max(answers)
    found = [Check("run", "passed", f"{batch} samples at once", value=float(batch))]
    found += _dynamic(model, loaded, feed, names, answers if declared else {}, failures, min(answers))
    found.append(_repeated(model, loaded, _renamed(feed.batch(0, batch), names), answers[batch]))
    found.append(_invariant(loaded, answers, feed, limit_db, bool(failures)))
    return Probed(batch, found)


def _renamed(feeds: Answers, names: Mapping[str, str]) -> dict[str, Array]:
    return {names[name]: array for name, array in feeds.items() if name in names}


def _dynamic(
    model: Opened, loaded: Loaded, feed: Feed, names: Mapping[str, str], answers: Mapping[int, Answers],
    failures: Mapping[int, str], smallest: int,
) -> Iterator[Check]:  # fmt: skip
    """Yield whether free axes are free, and outputs have the shapes that are declared."""
    axes = {axis for port in model.inputs for axis in port.shape if isinstance(axis, str)}
    problems = [f"a batch of {size} fails: {why}" for size, why in failures.items()]
    for size, given in answers.items():
        shapes = {name: array.shape for name, array in _renamed(feed.batch(0, size), names).items()}
        problems += declared_problems(model.outputs, free_axes(model.inputs, shapes), _shapes(given))
    problems += _other_axes(model, loaded, feed, names, smallest)
    told = "; ".join(problems[:2]) or (f"{', '.join(sorted(axes))}: free" if axes else "every size is fixed")
    yield judged("dynamic-axes", not problems, told, remedy=_FIXED_AXIS)


def _other_axes(model: Opened, loaded: Loaded, feed: Feed, names: Mapping[str, str], batch: int) -> Iterator[str]:
    """Yield which other free axes take one size only; twice, half, or one more of what is fed is tried."""
    fed = _renamed(feed.batch(0, batch), names)
    now = free_axes(model.inputs, {name: array.shape for name, array in fed.items()})
    samples = {str(port.shape[0]) for port in model.inputs if port.name in loaded.batched and port.shape}
    for axis, size in now.items():
        if axis in samples:
            continue
        tried = [other for other in (size * 2, size // 2, size + 1) if other > 0 and other != size]
        ports = [_resized(port, fed[port.name].shape, axis, to) for to in tried for port in model.inputs]
        count = len(model.inputs)
        if not any(_takes(loaded, ports[place : place + count]) for place in range(0, len(ports), count)):
            yield f"{axis} is declared free; {size} is taken, and none of {', '.join(map(str, tried))}"


def _resized(port: Port, shape: Sequence[int], axis: str, size: int) -> Port:
    """Return an input of the sizes that are fed, but for one axis."""
    sizes = tuple(size if name == axis else fed for name, fed in zip(port.shape, shape, strict=True))
    return Port(port.name, sizes, port.dtype)


def _takes(loaded: Loaded, inputs: Sequence[Port]) -> bool:
    try:
        loaded.answer(random_inputs(inputs, 1, batched=frozenset()))
    except AgentError:
        return False
    return True


def _shapes(answers: Answers) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in answers.items()}


def _repeated(model: Opened, loaded: Loaded, feeds: Answers, before: Answers) -> Check:
    """Return whether the same inputs give the same answers, in runtimes that heed training mode too."""
    dropping = _training_dropout(model)
    if dropping:
        told = (
            f"{dropping} drops values at random: it is in training mode, which some runtimes ignore and others do not"
        )
        return judged("determinism", False, told, remedy=_EVALUATION_MODE)
    again = loaded.answer(feeds)
    worst = max((_distance(before[name], again[name]) for name in before), default=0.0)
    return judged(
        "determinism", worst <= _REPEATED, "largest difference between two runs, of the largest answer",
        value=worst, limit=_REPEATED,
        remedy=_EVALUATION_MODE,
    )  # fmt: skip


def _training_dropout(model: Opened) -> str | None:
    """Return a Dropout that is switched on by a constant."""
    links = link(model.proto.graph)
    for node in model.proto.graph.node:
        mode = links.constants.get(node.input[2]) if node.op_type == "Dropout" and len(node.input) > 2 else None
        if mode is not None and numpy_helper.to_array(mode).any():
            return name_of(node)
    return None


def _distance(one: Array, other: Array) -> float:
    if one.shape != other.shape:
        return float("inf")
    if one.dtype.kind not in "fiub":
        return float(not np.array_equal(one, other))
    ours, theirs = one.astype(np.float64), other.astype(np.float64)
    both = np.isfinite(ours) & np.isfinite(theirs)
    if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        return float("inf")
    peak = float(np.abs(ours[both]).max(initial=0.0))
    worst = float(np.abs(ours[both] - theirs[both]).max(initial=0.0))
    return worst / peak if peak else worst


def _invariant(loaded: Loaded, answers: Mapping[int, Answers], feed: Feed, limit_db: float, failed: bool) -> Check:
    """Return whether the answer to a sample depends on those beside it."""
    if len(answers) < 2:
        why = "other batches fail" if failed else f"it takes {loaded.batch or feed.total} at a time"
        return Check("batch-invariance", "skipped", why)
    largest = max(answers)
    worst, where = np.inf, ""
    for size, given in answers.items():
        for name, rows in given.items():
            whole = answers[largest][name]
            if size == largest or rows.ndim == 0 or len(rows) != size or len(whole) != largest:
                continue
            found = _sqnr(whole[:size], rows)
            if found < worst:
                worst, where = found, f"{name} in a batch of {size}"
    return judged(
        "batch-invariance", worst >= limit_db,
        f"lowest at {where}, against {largest} at once" if where else "answers are the same in batches of "
        f"{', '.join(map(str, answers))}",
        value=float(worst), limit=limit_db, unit="dB",
        remedy="look for what mixes samples: BatchNormalization in training mode, a reduction or softmax over axis 0, "
        "quantization whose scale is computed from the whole batch",
    )  # fmt: skip


def _sqnr(expected: Array, given: Array) -> float:
    if expected.dtype.kind not in "fiub":
        return np.inf if np.array_equal(expected, given) else -np.inf
    one, other = expected.astype(np.float64), given.astype(np.float64)
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return -np.inf
    one, other = (np.nan_to_num(values, posinf=0.0, neginf=0.0) for values in (one, other))
    return decibels(float(np.vdot(one, one)), float(np.sum((one - other) ** 2)))


def judge_outputs(tallies: Mapping[str, Tally]) -> Iterator[Check]:
    """Yield whether answers are numbers, and depend on the inputs."""
    for name, seen in tallies.items():
        yield judged(
            "finite", not seen.nonfinite,
            f"{seen.nonfinite} answers are NaN or infinite, first in sample {seen.first_nonfinite}"
            if seen.nonfinite else f"all of {seen.samples} samples",
            subject=name, value=float(seen.nonfinite), limit=0.0,
            remedy="float16 overflows beyond 65504; a logarithm or division has to be kept from 0",
        )  # fmt: skip
        why = _not_told(seen)
        if why:
            yield Check("constant", "skipped", why, subject=name)
        else:
            yield judged(
                "constant", not seen.constant,
                f"{seen.samples} samples have the same answer" if seen.constant else "answers differ between samples",
                subject=name, remedy="the inputs do not reach this output: weights are zero, all saturates, or an "
                "input was folded into a constant",
            )  # fmt: skip


def _not_told(seen: Tally) -> str:
    """Return why it does not matter whether the answers are all the same; "" where it does."""
    if seen.samples < 2:
        return "one sample"
    if seen.nonfinite:
        return "answers are not finite"
    return "the reference's answers are constant as well" if seen.constant and seen.reference_constant else ""
