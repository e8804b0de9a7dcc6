"""How far two answers are apart, summed up batch by batch: however many samples there are, they need no memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


@dataclass
class Tally:
    """What was seen of one output so far. Values that are not finite are counted and left out of the sums."""

    values: int = 0
    nonfinite: int = 0
    """Answers that are NaN or infinite where the reference's are not."""
    first_nonfinite: int | None = None
    """The first sample with such an answer."""
    max_abs: float = 0.0
    sum_abs: float = 0.0
    peak: float = 0.0
    sum_reference: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    energy: float = 0.0
    product: float = 0.0
    rows: int = 0
    agreeing: int = 0
    samples: int = 0
    constant: bool = True
    reference_constant: bool = True
    shapes: str = ""
    """What is wrong with the shapes; nothing is compared then."""
    _first: tuple[Array, Array] | None = None

    def add(self, expected: Array, given: Array, count: int) -> None:
        """Add the answers to some samples.

        Args:
            expected: the reference's.
            given: the model's.
            count: how many samples they belong to.
        """
        begin, self.samples = self.samples, self.samples + count
        self._look_for_change(expected, given, count)
        if expected.shape != given.shape:
            self.shapes = f"{list(given.shape)} for the reference's {list(expected.shape)}"
            return
        if given.dtype.kind not in "fiubV" or expected.dtype.kind not in "fiubV":
            self.rows, self.agreeing = self.rows + given.size, self.agreeing + int(np.sum(expected == given))
            return
        one, other = expected.astype(np.float64), given.astype(np.float64)
        sound, there = np.isfinite(one), np.isfinite(other)
        if not (sound & there).all():
            bad = sound & ~there
            if bad.any() and self.first_nonfinite is None:
                rows = bad.reshape(count, -1).any(axis=1) if bad.ndim and len(bad) == count else np.array([True])
                self.first_nonfinite = begin + int(np.argmax(rows))
            self.nonfinite += int(bad.sum())
            one, other = np.where(sound & there, one, 0.0), np.where(sound & there, other, 0.0)
        self._add_sums(one, other)
        self._add_agreement(expected, one, other)

    def _add_sums(self, expected: NDArray[np.float64], given: NDArray[np.float64]) -> None:
        if not expected.size:
            return
        difference = expected - given
        self.values += expected.size
        self.max_abs = max(self.max_abs, float(np.abs(difference).max()))
        self.peak = max(self.peak, float(np.abs(expected).max()))
        self.sum_abs += float(np.abs(difference).sum())
        self.sum_reference += float(np.abs(expected).sum())
        self.signal += float(np.vdot(expected, expected))
        self.noise += float(np.vdot(difference, difference))
        self.energy += float(np.vdot(given, given))
        self.product += float(np.vdot(expected, given))

    def _add_agreement(self, raw: Array, expected: NDArray[np.float64], given: NDArray[np.float64]) -> None:
        """Count where the largest value along the last axis is the same; of whole numbers, which are equal."""
        if raw.dtype.kind in "iub":
            self.rows, self.agreeing = self.rows + raw.size, self.agreeing + int(np.sum(expected == given))
        elif raw.ndim > 1 and raw.shape[-1] > 1 and raw.size:
            same = expected.argmax(axis=-1) == given.argmax(axis=-1)
            self.rows, self.agreeing = self.rows + same.size, self.agreeing + int(same.sum())

    def _look_for_change(self, expected: Array, given: Array, count: int) -> None:
        """Note whether the answers of two samples differ."""
        if self._first is None:
            self._first = (expected[:1].copy(), given[:1].copy()) if expected.ndim and given.ndim else (expected, given)
        expected_first, given_first = self._first
        self.reference_constant = self.reference_constant and _repeats(expected, expected_first, count)
        self.constant = self.constant and _repeats(given, given_first, count)

    @property
    def max_relative(self) -> float:
        """Largest difference, as a share of the reference's largest magnitude."""
        return _ratio(self.max_abs, self.peak)

    @property
    def mean_abs(self) -> float:
        """Mean difference."""
        return self.sum_abs / self.values if self.values else 0.0

    @property
    def mean_relative(self) -> float:
        """Mean difference, as a share of the reference's mean magnitude."""
        return _ratio(self.sum_abs, self.sum_reference)

    @property
    def sqnr_db(self) -> float:
        """Energy of the reference over that of the difference, in decibels; infinite where they are equal."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf

    @property
    def cosine(self) -> float:
        """Cosine of the angle between all answers and all of the reference's; 1 where both are zero."""
        size = math.sqrt(self.signal * self.energy)
        if size == 0:
            return 1.0 if self.signal == self.energy else 0.0
        return max(-1.0, min(1.0, self.product / size))

    @property
    def top1(self) -> float | None:
        """Share of rows whose largest value is at the same place; None where an output has no such rows."""
        return self.agreeing / self.rows if self.rows else None


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else (0.0 if part == 0 else math.inf)


def _repeats(values: Array, first: Array, count: int) -> bool:
    """Return whether every sample has the first one's answer; an output without a sample axis has none to compare."""
    per_sample = values.ndim > 0 and len(values) == count
    return per_sample and np.array_equal(
        values, np.broadcast_to(first, values.shape), equal_nan=values.dtype.kind == "f"
    )
