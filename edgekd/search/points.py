"""The network of one point of a budget: proposed, measured, tried, trained, checked, and tried again.

What is proposed is predicted; what decides is measured. The work itself is the bench's, so that this is only the order
of things.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from edgekd.search.proposing import UNLIMITED, Allowed, Candidate, Proposer, correction

ROUNDS = 10
"""In which, at most, predictions are corrected by measurements of untrained finalists."""
AIM = 0.995
"""Of what is allowed, after something was missed: the next network shall not miss it by a hair."""

SIZES = ("max_size_mb", "min_compression")
"""Limits that are read from the file; a second look finds the same."""

Times = Mapping[str, Mapping[str, float]]
"""By device and precision, a part of the reference's time; of what was measured, the slow end of the interval."""


@dataclass(frozen=True)
class Missed:
    """A limit that a trained network did not hold on a device.

    Args:
        gate: its name, as in `gates`.
        excess: the value over the limit, or the limit over the value where it is a lower one; > 1. Of what gets better
            with less time.
        told: the comparison in words.
        cost: whether a smaller network would hold it better.
        nearly: the estimate holds it, and only the interval reaches beyond.
    """

    device: str
    gate: str
    excess: float
    told: str
    cost: bool
    nearly: bool = False


@dataclass(frozen=True)
class Checked:
    """A trained network as measured, on the validation split.

    Args:
        missed: none where it holds all limits.
        drop_pp: the largest of its variants in use; None where it was not measured.
    """

    missed: tuple[Missed, ...]
    drop_pp: float | None = None


@dataclass(frozen=True)
class Tried:
    """A candidate that was looked at, with all that became known of it."""

    candidate: Candidate
    predicted: Times
    measured: Times | None = None
    score: float | None = None
    checked: Checked | None = None


@dataclass(frozen=True)
class Found:
    """What the search for a point came to.

    Args:
        best: the network that holds the limits, or the one that missed least.
        refused: why no network holds them; None where one does.
        tried: every candidate that was looked at.
    """

    best: Tried
    refused: str | None
    tried: tuple[Tried, ...] = field(default=())


class Bench(Protocol):
    """Where the work is done; all of it is kept, so that it is done once."""

    def time(self, candidates: Sequence[Candidate]) -> Sequence[Times]:
        """Measure untrained networks on the point's devices."""

    def score(self, candidate: Candidate, times: Times) -> float:
        """Train a network for a short time and return the validation score of the worst variant in use."""

    def check(self, candidate: Candidate, *, again: bool = False) -> Checked:
        """Train a network fully, and measure it on the point's devices against the limits; `again`, once more."""

    def time_is_left(self) -> bool:
        """Return whether something that failed may be tried again."""

    def say(self, text: str) -> None:
        """Tell a line."""


def find(name: str, proposer: Proposer, bench: Bench, finalists: int) -> Found:
    """Return the network of a point.

    Args:
        name: of the point.
        proposer: with what the point allows.
        finalists: how many are measured and tried in each round.
    """
    tried: dict[Any, Tried] = {}
    while True:
        proposer, chosen = _measured(proposer, bench, finalists, {shape for shape, one in tried.items() if one.checked})
        if not chosen:
            return _impossible(name, proposer, bench, tried)
        scored = _scored(chosen, bench)
        tried |= {one.candidate.shape: one for one in scored}
        for one in scored:
            checked = _checked(name, proposer, one, bench)
            done = replace(one, checked=checked)
            tried[one.candidate.shape] = done
            if not checked.missed:
                return Found(done, None, tuple(tried.values()))
            bench.say(f"{name}: {'; '.join(missed.told for missed in checked.missed)}")
            if not bench.time_is_left():
                return _refused(tried, "the time for further tries (budget.minutes) is over")
            if any(missed.cost for missed in checked.missed):
                proposer = replace(proposer, allowed=_tightened(proposer, done))
                break
        else:
            return _refused(tried, "no finalist was accurate enough after its whole training")


def _scored(chosen: Sequence[Tried], bench: Bench) -> list[Tried]:
    """Return the finalists, the most accurate one first; where there is one, it need not be tried."""
    if len(chosen) == 1:
        return list(chosen)
    scored = [replace(one, score=bench.score(one.candidate, one.measured or {})) for one in chosen]
    return sorted(scored, key=lambda one: (-(one.score or 0.0), one.candidate.harm))


def _checked(name: str, proposer: Proposer, one: Tried, bench: Bench) -> Checked:
    """Return what a trained network holds; where it misses what it held untrained, by a second measurement.

    Weights take no time: of two measurements of one structure that differ, one was disturbed, and to measure for a
    minute is cheaper than to train another network.
    """
    checked = bench.check(one.candidate)
    missed = [missed.told for missed in checked.missed if missed.cost and missed.gate not in SIZES]
    if not missed or _excess(proposer, one) > 1:
        return checked
    bench.say(f"{name}: {'; '.join(missed)}; untrained it held that, so it is measured once more")
    return bench.check(one.candidate, again=True)


def _measured(proposer: Proposer, bench: Bench, finalists: int, known: set[Any]) -> tuple[Proposer, list[Tried]]:
    """Return the finalists that hold the limits as measured, and the proposer with its predictions corrected."""
    tried: dict[Any, Tried] = {}
    for _ in range(ROUNDS):
        candidates = finals([one for one in proposer.candidates() if one.shape not in known], finalists)
        new = [one for one in candidates if one.shape not in tried]
        if not new:
            break
        timed = [Tried(one, _predicted(proposer, one), times) for one, times in zip(new, bench.time(new), strict=True)]
        tried |= {one.candidate.shape: one for one in timed}
        proposer = _corrected(proposer, timed)
    holding = [one.candidate for one in tried.values() if _excess(proposer, one) <= 1]
    if not holding:  # none holds, as far as noise lets one see: then that which is nearest
        return proposer, sorted(tried.values(), key=lambda one: _excess(proposer, one))[:1]
    best = {one.search: one for one in sorted(holding, key=lambda one: -one.harm)}
    return proposer, [tried[one.shape] for one in finals(list(best.values()), finalists)]


def finals(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Return the least harmful candidate of each kind (`how`), then the next of each, as many as are asked for."""
    before: Counter[str] = Counter()
    ranked = []
    for one in sorted(candidates, key=lambda one: one.harm):
        ranked.append((before[one.how], one))
        before[one.how] += 1
    return [one for _, one in sorted(ranked, key=lambda entry: entry[0])[:count]]


def in_use(times: Mapping[str, float]) -> str:
    """Return the precision that a device would use: the fastest one."""
    return min(times, key=lambda precision: times[precision])


def _predicted(proposer: Proposer, candidate: Candidate) -> dict[str, dict[str, float]]:
    return {device: proposer.times(device, candidate) for device in proposer.allowed}


def _excess(proposer: Proposer, tried: Tried) -> float:
    """Return the largest measured time over what is allowed."""
    measured = tried.measured or {}
    return max(min(times.values()) / proposer.allowed[device].time for device, times in measured.items())


def _corrected(proposer: Proposer, timed: Sequence[Tried]) -> Proposer:
    """Return a proposer that predicts networks as they were measured."""
    found = dict(proposer.corrections)
    for one in timed:
        widths = one.candidate.widths
        for device, times in (one.measured or {}).items():
            for precision, time in times.items():
                key = (device, one.candidate.structure, precision)
                before = correction(proposer.corrections.get(key, ()), widths)
                others = [(near, factor) for near, factor in found.get(key, ()) if near != widths]
                found[key] = (*others, (widths, before * time / one.predicted[device][precision]))
    return replace(proposer, corrections=found)


def _tightened(proposer: Proposer, tried: Tried) -> dict[str, Allowed]:
    """Return what is allowed now, so that a network as far off as this one would hold the limits."""
    found = dict(proposer.allowed)
    for missed in tried.checked.missed if tried.checked else ():
        if missed.cost:
            allowed = found[missed.device]
            time = min((tried.measured or {}).get(missed.device, {"": UNLIMITED}).values())
            if missed.gate in SIZES:
                found[missed.device] = replace(allowed, size_bytes=allowed.size_bytes / missed.excess * AIM)
            else:
                found[missed.device] = replace(allowed, time=min(allowed.time, time) / missed.excess * AIM)
    return found


def _impossible(name: str, proposer: Proposer, bench: Bench, tried: Mapping[Any, Tried]) -> Found:
    """Return the best so far where no further network is predicted to hold the limits: at first, the smallest."""
    candidate = proposer.cheapest()
    (cost,) = proposer.costs(candidate.structure, candidate.precision)([candidate.widths])
    if tried:
        return _refused(tried, f"no other network is predicted to hold the limits, after {len(tried)} that were tried")
    reason = f"even the smallest network is predicted to need {cost:.2f} times what is allowed"
    bench.say(f"{name}: {reason}; it is trained and measured all the same")
    (times,) = bench.time([candidate])
    one = Tried(candidate, _predicted(proposer, candidate), times, checked=bench.check(candidate))
    if one.checked is not None and not one.checked.missed:
        return Found(one, None, (one,))
    return _refused({candidate.shape: one}, reason)


def _refused(tried: Mapping[Any, Tried], why: str) -> Found:
    """Return the network that missed fewest limits, of equal ones the most accurate one.

    One whose estimates hold all limits is not refused: the verdict goes by these.
    """
    done = [one for one in tried.values() if one.checked is not None]
    best = min(done, key=_badness)
    if best.checked is not None and all(missed.nearly for missed in best.checked.missed):
        return Found(best, None, tuple(tried.values()))
    missed = "; ".join(missed.told for missed in best.checked.missed) if best.checked else ""
    return Found(best, f"{missed}: {why}", tuple(tried.values()))


def _badness(tried: Tried) -> tuple[int, int, float]:
    checked = tried.checked
    assert checked is not None
    wholly = sum(not missed.nearly for missed in checked.missed)
    return wholly, len(checked.missed), checked.drop_pp if checked.drop_pp is not None else math.inf
