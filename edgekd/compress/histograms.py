"""Ranges of activations from histograms of what was seen: by percentile, by squared error, by information lost.

A histogram takes any number of batches in bounded memory. Its bins are a power of two wide and begin at a multiple of
that, so where the values outgrow it two neighbours become exactly one bin of twice the width: what it holds at the end
does not depend on the order of the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 2048
"""Eight and more for each step of an 8-bit range."""
_SMALLEST_EXPONENT = -100
_SHARES = np.linspace(1, 128, 128) / 128
_SHARES_OF_TWO_SIDES = np.linspace(1, 32, 32) / 32


@dataclass(frozen=True)
class Levels:
    """The integers that a range is divided into.

    Args:
        symmetric: zero is the integer 0; otherwise any of them.
    """

    low: int
    high: int
    symmetric: bool = False


class Histogram:
    """Counts of values. Zero always lies within its range, as it does in that of a quantizer.

    `counts` (BINS,) are those of [(first + i) * width, (first + i + 1) * width).
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        self.first = 0
        self.smallest = self.largest = 0.0
        self._exponent = _SMALLEST_EXPONENT

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, self._exponent)

    def add(self, values: Tensor) -> None:
        """Count values of any shape. Those of a tensor that holds NaN or infinity are not counted."""
        values = values.detach().float().flatten()
        if not len(values):
            return
        low, high = (float(bound) for bound in values.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            return
        self._grow(min(low, self.smallest), max(high, self.largest))
        bins = (values * math.ldexp(1.0, -self._exponent)).floor_().long() - self.first
        self.counts += torch.bincount(bins, minlength=BINS).cpu()

    def _grow(self, smallest: float, largest: float) -> None:
        """Make room for a range, by the smallest power of two that does."""
        exponent = self._exponent
        while math.floor(math.ldexp(largest, -exponent)) - math.floor(math.ldexp(smallest, -exponent)) >= BINS:
            exponent += 1
        merged = (torch.arange(BINS) + self.first) >> (exponent - self._exponent)
        first = math.floor(math.ldexp(smallest, -exponent))
        here = self.counts > 0
        self.counts = torch.zeros_like(self.counts).index_add_(0, merged[here] - first, self.counts[here])
        self._exponent, self.first, self.smallest, self.largest = exponent, first, smallest, largest

    def edges(self) -> NDArray[np.float64]:
        """Return the borders of the bins, (BINS + 1,)."""
        return np.asarray((self.first + np.arange(BINS + 1)) * self.width)


Chooser = Callable[[Histogram, Levels], tuple[float, float]]
"""From what was seen to the smallest and largest value that the integers shall hold."""


def percentile(percent: float) -> Chooser:
    """Return what leaves out the largest values beyond a percentile, and as many of the smallest.

    Args:
        percent: such as 99.99; 100 leaves out none.
    """

    def choose(seen: Histogram, _: Levels) -> tuple[float, float]:
        return _quantile(seen, 1 - percent / 100), _quantile(seen, percent / 100)

    return choose


def _quantile(seen: Histogram, share: float) -> float:
    """Return the value below which a share of what was seen lies; within a bin, values count as evenly spread."""
    counts = seen.counts.numpy()
    filled = np.flatnonzero(counts)
    below = np.cumsum(counts[filled])
    place = min(int(np.searchsorted(below, share * below[-1])), len(filled) - 1)
    index = filled[place]
    inside = 1 - (below[place] - share * below[-1]) / counts[index]
    value = float(seen.edges()[index] + inside * seen.width)
    return min(max(value, seen.smallest), seen.largest)


def least_squares(seen: Histogram, levels: Levels) -> tuple[float, float]:
    """Return the range with the smallest sum of squared rounding and clipping errors."""
    filled = seen.counts.numpy() > 0
    centres, counts = (seen.edges()[:-1] + seen.width / 2)[filled], seen.counts.numpy()[filled]

    def error(low: float, high: float) -> float:
        return float(counts @ (centres - rounded(centres, low, high, levels)) ** 2)

    return min(_candidates(seen, levels), key=lambda bounds: error(*bounds))


def rounded(values: NDArray[np.float64], low: float, high: float, levels: Levels) -> NDArray[np.float64]:
    """Return values as integers of a range hold them."""
    if levels.symmetric:
        scale, zero = 2 * max(-low, high) / (levels.high - levels.low), 0
    else:
        scale = (high - low) / (levels.high - levels.low)
        zero = levels.low - round(low / scale)
    integers = np.clip(np.rint(values / scale) + zero, levels.low, levels.high)
    return np.asarray((integers - zero) * scale)


def least_information_lost(seen: Histogram, levels: Levels) -> tuple[float, float]:
    """Return the range whose integers' distribution is nearest to that of the values clipped to it.

    Nearest by the Kullback-Leibler divergence (Migacz, "8-bit Inference with TensorRT", 2017). Both ends of a range
    shrink by the same share.
    """
    shares = [share for share in _SHARES if share * (seen.largest - seen.smallest) >= levels_of(levels) * seen.width]
    candidates = [(share * seen.smallest, share * seen.largest) for share in shares or [1.0]]
    return min(candidates, key=lambda bounds: divergence(seen, bounds[0], bounds[1], levels_of(levels)))


def levels_of(levels: Levels) -> int:
    """Return how many integers there are."""
    return levels.high - levels.low + 1


def divergence(seen: Histogram, low: float, high: float, count: int) -> float:
    """Return KL(P || Q) in nats of a clipped histogram P and the same in so many levels, Q.

    In Q the values of a level are spread evenly over its bins that are not empty. What lies outside of the range counts
    in the outermost bins of P, and not in Q.
    """
    begin = max(math.floor(low / seen.width) - seen.first, 0)
    end = max(min(math.ceil(high / seen.width) - seen.first, BINS), begin + 1)
    counts = seen.counts.numpy().astype(np.float64)
    inside = counts[begin:end]
    clipped = inside.copy()
    clipped[0] += counts[:begin].sum()
    clipped[-1] += counts[end:].sum()
    level = np.arange(len(inside)) * count // len(inside)
    filled = inside > 0
    sums = np.bincount(level, weights=inside, minlength=count)
    bins = np.bincount(level, weights=filled, minlength=count)
    spread = np.where(filled, sums[level] / np.maximum(bins[level], 1), 0)
    if not spread.any():
        return math.inf
    p, q = clipped / clipped.sum(), spread / spread.sum()
    here = p > 0
    if not q[here].all():
        # An outermost bin holds clipped values alone; a tiny probability instead of none keeps the sum finite.
        q = np.maximum(q, np.finfo(np.float64).tiny)
    return float(np.sum(p[here] * np.log(p[here] / q[here])))


def _candidates(seen: Histogram, levels: Levels) -> list[tuple[float, float]]:
    """Return ranges to choose from; the two ends shrink each on its own, unless the larger one decides."""
    if levels.symmetric:
        largest = max(-seen.smallest, seen.largest)
        return [(max(-share * largest, seen.smallest), min(share * largest, seen.largest)) for share in _SHARES]
    if seen.smallest < 0 < seen.largest:
        lows, highs = _SHARES_OF_TWO_SIDES * seen.smallest, _SHARES_OF_TWO_SIDES * seen.largest
    else:
        lows = _SHARES * seen.smallest if seen.smallest else np.zeros(1)
        highs = _SHARES * seen.largest if seen.largest else np.zeros(1)
    return [(float(low), float(high)) for low in lows for high in highs]
