"""All checks of some models against one reference, which answers once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd import tasks
from edgekd.agent.errors import AgentError
from edgekd.errors import StageError, UsageError
from edgekd.graph.feeding import misdeclared
from edgekd.report.units import size as shown_size
from edgekd.stage import Progress
from edgekd.validation import behaviour, interface, judging, quantized, target, tolerance
from edgekd.validation.bisect import Bisection, bisect
from edgekd.validation.checks import Check, completed, judged
from edgekd.validation.feeding import Feed
from edgekd.validation.files import Opened, first_line, open_model
from edgekd.validation.tally import Tally
from edgekd.validation.target import Loaded, Target

Array = NDArray[np.generic]

BATCH = 32
_SATURATION_SAMPLES = 16
_BISECT_SAMPLES = 4
_UNREADABLE = "the file cannot be used"
_NOT_RUN = "the model was not run"


@dataclass(frozen=True)
class Asked:
    """What is asked of every model.

    Args:
        tolerance: as written by the user.
        precision: what the models are said to be in; None: what is found.
        max_drop_pp: percentage points of the task's score.
        max_size_mb: of a file with its weights.
        bisect: look for the first node that departs where a model's answers do.
    """

    tolerance: Sequence[str] = (tolerance.AUTO,)
    precision: str | None = None
    max_drop_pp: float | None = None
    max_size_mb: float | None = None
    bisect: bool = False


@dataclass(frozen=True)
class Result:
    """What was found of a model.

    Args:
        precision: that it is in; None where it could not be read.
        same_network: whether it can be the reference in another form; else differences have no limits.
    """

    path: Path
    precision: str | None
    same_network: bool | None
    checks: tuple[Check, ...]
    bisection: Bisection | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not any(check.fails for check in self.checks)


@dataclass
class _Subject:
    """A model while it is checked."""

    path: Path
    checks: list[Check] = field(default_factory=list)
    opened: Opened | None = None
    loaded: Loaded | None = None
    batch: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    scores: list[NDArray[np.float64]] = field(default_factory=list)


def run(
    models: Sequence[Path], reference: Opened, feed: Feed, where: Target, asked: Asked, progress: Progress
) -> list[Result]:
    """Check models against a reference.

    Raises:
        UsageError: the reference does not run, or the labels are not for its answers.
    """
    base = _load_reference(reference)
    subjects = [_prepare(path, reference, feed, where, asked) for path in models]
    running = [subject for subject in subjects if subject.batch]
    scores = _stream(running, base, reference, feed, progress) if running else []
    return [_finish(subject, reference, feed, asked, scores) for subject in subjects]


def open_reference(path: Path) -> Opened:
    """Open the file that others are compared with.

    Raises:
        UsageError: there is no such file, or something is wrong with it.
    """
    if not path.is_file():
        raise UsageError(f"--against {path}: there is no such file, and no recipe of that name")
    opened, found = open_model(path)
    wrong = [f"{check.id}: {check.message}" for check in found if check.fails]
    wrong += misdeclared(opened.inputs) if opened else []
    if opened is None or wrong:
        raise UsageError(f"--against {path}: the reference itself is broken: {wrong[0]}")
    return opened


def _load_reference(reference: Opened) -> Loaded:
    try:
        return target.load(reference, Target(), letter=tolerance.precision_of(reference.proto).startswith("int"))
    except AgentError as error:
        raise UsageError(f"--against {reference.path}: the reference does not load: {first_line(error)}") from error


def _prepare(path: Path, reference: Opened, feed: Feed, where: Target, asked: Asked) -> _Subject:
    """Check all that comes before the comparison."""
    subject = _Subject(path)
    opened, subject.checks = open_model(path)
    if opened is None:
        return subject
    subject.opened = opened
    subject.checks += [_precision(opened, asked.precision), _size(opened, asked.max_size_mb)]
    subject.checks += target.suits(opened, where)
    subject.checks.append(interface.compare("inputs", reference.inputs, opened.inputs))
    subject.checks.append(interface.compare("outputs", reference.outputs, opened.outputs))
    subject.checks += quantized.judge(opened, asked.precision)
    letter = not (where.named and not where.absent) and tolerance.precision_of(opened.proto).startswith("int")
    subject.loaded, session = target.start(opened, where, subject.checks, letter=letter)
    subject.checks.append(session)
    subject.inputs = interface.pairs(reference.inputs, opened.inputs)
    subject.outputs = interface.pairs(reference.outputs, opened.outputs)
    if subject.loaded is None:
        return subject
    if set(subject.inputs.values()) != {port.name for port in opened.inputs}:
        subject.checks.append(Check("run", "skipped", "its inputs are not the reference's"))
        return subject
    sound = not any(check.id == "shape-inference" and check.fails for check in subject.checks)
    limit_db = tolerance.batch_limit(opened)
    probed = behaviour.probe(opened, subject.loaded, feed, subject.inputs, limit_db, declared=sound)
    subject.checks += probed.checks
    subject.batch = probed.batch
    return subject


def _precision(opened: Opened, wanted: str | None) -> Check:
    found = tolerance.precision_of(opened.proto)
    if wanted is None or (wanted.startswith("int") and not found.startswith("int")):  # which qdq-present tells
        return Check("precision", "skipped", f"{found}; no --precision" if wanted is None else "see qdq-present")
    return judged("precision", found == wanted, f"{found}; {wanted} is wanted",
                  remedy="export or quantize it in that precision, or name the one that it is to be in")  # fmt: skip


def _size(opened: Opened, limit_mb: float | None) -> Check:
    value = opened.size_bytes / 1e6
    told = f"{shown_size(opened.size_bytes)} with its weights"
    if limit_mb is None:
        return Check("size", "passed", told, value=value, unit="MB")
    return judged("size", value <= limit_mb, told, value=value, limit=limit_mb, unit="MB",
                  remedy="quantize, prune, or raise --max-size-mb")  # fmt: skip


def _stream(
    subjects: Sequence[_Subject], base: Loaded, reference: Opened, feed: Feed, progress: Progress
) -> list[NDArray[np.float64]]:
    """Let the reference and every model answer all samples, batch by batch; return the reference's scores."""
    score = None if feed.labels is None else tasks.load(feed.task).score
    scores: list[NDArray[np.float64]] = []
    for begin in range(0, feed.total, BATCH):
        end = min(begin + BATCH, feed.total)
        feeds = feed.batch(begin, end)
        try:
            expected = base.answer(feeds)
        except AgentError as error:
            raise UsageError(f"--against {reference.path}: the reference does not run: {first_line(error)}") from error
        if score is not None and feed.labels is not None:
            scores.append(_scored(score, expected, feed.labels[begin:end], feed))
        for subject in subjects:
            if not subject.batch:
                continue
            given = _answer(subject, feed, begin, end)
            if given is None:
                continue
            for name, own in subject.outputs.items():
                subject.tallies.setdefault(name, Tally()).add(expected[name], given[own], end - begin)
            if score is not None and feed.labels is not None:
                renamed = {name: given[own] for name, own in subject.outputs.items()}
                subject.scores.append(_scored(score, renamed, feed.labels[begin:end], feed))
        progress(end, feed.total, "samples")
    return scores


def _answer(subject: _Subject, feed: Feed, begin: int, end: int) -> dict[str, Array] | None:
    """Return a model's answers to some samples, in as many calls as it needs; None where it fails."""
    assert subject.loaded is not None
    parts = []
    try:
        size = BATCH if subject.loaded.batch else subject.batch
        for start in range(begin, end, size):
            part = feed.batch(start, min(end, start + size))
            feeds = {subject.inputs[name]: array for name, array in part.items()}
            parts.append(subject.loaded.answer(feeds))
    except AgentError as error:
        subject.batch = 0
        subject.checks = [check for check in subject.checks if check.id != "run"]
        subject.checks.append(Check("run", "failed", f"from sample {begin}: {first_line(error)}",
                                    remedy="look at these samples: they need what the graph cannot do"))  # fmt: skip
        return None
    if len(parts) == 1:
        return parts[0]
    return {
        name: np.concatenate([part[name] for part in parts]) if first.ndim else first
        for name, first in parts[0].items()
    }


def _scored(
    score: Callable[..., NDArray[np.float64]], outputs: Mapping[str, Array], labels: Array, feed: Feed
) -> NDArray[np.float64]:
    try:
        return score(outputs, labels)
    except (ValueError, IndexError, TypeError) as error:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        raise UsageError(
            f"--data {feed.source}: its labels {labels.dtype}{list(labels.shape)} do not fit {shapes}, as the task "
            f"{feed.task} takes them: {error}"
        ) from error


def _finish(
    subject: _Subject, reference: Opened, feed: Feed, asked: Asked, scores: Sequence[NDArray[np.float64]]
) -> Result:
    """Judge what was gathered."""
    opened = subject.opened
    if opened is None:
        lost = judging.accuracy(None, None, asked.max_drop_pp, _UNREADABLE)
        return Result(subject.path, None, None, tuple(completed([*subject.checks, lost], _UNREADABLE)))
    found, bisection = subject.checks, None
    limits = tolerance.limits(asked.tolerance, opened, reference)
    if subject.tallies and subject.batch:
        found += behaviour.judge_outputs(subject.tallies)
        found += judging.parity(subject.tallies, limits, random=feed.random)
        if opened.integer_layers:
            found.append(_saturation(subject, opened, feed))
        if asked.bisect and any(check.fails and check.id.startswith("parity") for check in found):
            bisection = _bisect(subject, opened, reference, feed, limits)
    missing = "random inputs have no labels" if feed.random else "there are no labels"
    own, theirs = (np.concatenate(one) if one else None for one in (subject.scores if subject.batch else [], scores))
    found.append(judging.accuracy(theirs, own, asked.max_drop_pp, missing if subject.batch else _NOT_RUN))
    kind = tolerance.precision_of(opened.proto)
    checks = completed(found, _NOT_RUN if not subject.batch else "does not apply")
    return Result(subject.path, kind, tolerance.same_network(opened, reference), tuple(checks), bisection)


def _saturation(subject: _Subject, opened: Opened, feed: Feed) -> Check:
    if feed.random:
        return Check("qdq-saturation", "skipped", "random inputs say nothing of the range that was calibrated")
    try:
        return quantized.judge_saturation(opened, _fed(subject, feed, _SATURATION_SAMPLES))
    except StageError as error:
        return Check("qdq-saturation", "not_measured", first_line(error))


def _fed(subject: _Subject, feed: Feed, samples: int) -> dict[str, Array]:
    """Return a few samples as the model takes them."""
    assert subject.opened is not None
    assert subject.loaded is not None
    kinds = {port.name: np.dtype(port.dtype) for port in subject.opened.inputs}
    count = subject.loaded.batch or min(samples, feed.total)
    feeds = {subject.inputs[name]: array for name, array in feed.batch(0, count).items()}
    return {name: np.asarray(array).astype(kinds[name], copy=False) for name, array in feeds.items()}


def _bisect(
    subject: _Subject, opened: Opened, reference: Opened, feed: Feed, limits: tolerance.Limits | None
) -> Bisection:
    """Look for the node that departs, on a few samples."""
    fed = _fed(subject, feed, _BISECT_SAMPLES)
    names = {own: name for name, own in subject.inputs.items()}
    kinds = {port.name: np.dtype(port.dtype) for port in reference.inputs}
    true = {names[own]: array.astype(kinds[names[own]], copy=False) for own, array in fed.items()}
    usual = tolerance.TOLERANCES[tolerance.precision_of(opened.proto)].sqnr
    limit = (limits.sqnr if limits else None) or usual
    assert limit is not None
    try:
        return bisect(opened, reference, fed, true, limit)
    except StageError as error:
        return Bisection(None, None, limit, (), 0, first_line(error))
