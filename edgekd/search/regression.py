"""Times of networks as a sum over their operators, each of which takes so long for what it has to do.

Runtimes compute in vectors, and have kernels for whole ones only: 17 channels can take as long as 24, or longer. So the
multiply-accumulates of an operator are told as they are, rounded up to whole vectors, and again where its channels are
none; the regression weighs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression

from edgekd.graph.workload import Work, macs

FOLDS = 5
_STEPS = (1, 8, 16)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """How far predicted times are off on networks that were held out.

    Args:
        mape: mean of |predicted - measured| / measured.
        within_10: share of networks that are off by 10 % at most.
        spearman: rank correlation of predicted and measured times.
        networks: how many there were.
    """

    mape: float
    within_10: float
    spearman: float
    networks: int


@dataclass(frozen=True)
class Regression:
    """A fitted sum.

    Args:
        columns: what is summed.
        coefficients: of each column.
        errors: on networks that were held out.
        macs_errors: the same of a constant and a multiple of the multiply-accumulates, for comparison.
    """

    columns: tuple[str, ...]
    coefficients: FloatArray
    errors: Errors
    macs_errors: Errors

    def predict(self, networks: Sequence[Sequence[Work]]) -> list[float]:
        """Return the relative times of networks."""
        found: FloatArray = _matrix(networks, self.columns) @ self.coefficients
        return [float(time) for time in found]


def fit(networks: Sequence[Sequence[Work]], times: FloatArray) -> Regression:
    """Fit relative times (networks,), so that relative errors are small."""
    columns = tuple(sorted({name for network in networks for work in network for name in features(work)}))
    matrix = _matrix(networks, columns)
    counted = np.array([[1.0, macs(network)] for network in networks])
    return Regression(
        columns,
        _solve(matrix, times),
        errors(_held_out(matrix, times), times),
        errors(_held_out(counted, times), times),
    )


def _held_out(matrix: FloatArray, times: FloatArray) -> FloatArray:
    """Return what is predicted of each network by a fit to the other folds."""
    predicted = np.empty_like(times)
    folds = np.random.default_rng(0).permutation(len(times)) % FOLDS
    for fold in range(FOLDS):
        known = folds != fold
        predicted[~known] = matrix[~known] @ _solve(matrix[known], times[known])
    return predicted


def _solve(matrix: FloatArray, times: FloatArray) -> FloatArray:
    """Least squares of relative errors without negative coefficients: nothing takes less time for being there."""
    scaled = matrix / times[:, None]
    sizes = np.abs(scaled).max(axis=0)
    sizes[sizes == 0] = 1.0
    model = LinearRegression(fit_intercept=False, positive=True).fit(scaled / sizes, np.ones(len(times)))
    return np.asarray(model.coef_ / sizes, np.float64)


def errors(predicted: FloatArray, measured: FloatArray) -> Errors:
    """Return how far predictions are off."""
    off = np.abs(predicted / measured - 1)
    one, other = (np.argsort(np.argsort(values)).astype(float) for values in (predicted, measured))
    spearman = float(np.corrcoef(one, other)[0, 1])
    return Errors(float(off.mean()), float((off <= 0.1).mean()), spearman, len(measured))


def features(work: Work) -> dict[str, float]:
    """Return what an operator has to do, in numbers that may each take their time."""
    found = {"one": 1.0, "values": float(work.taken + work.given)}
    if work.inputs:
        found["weights"] = float(work.inputs * work.outputs * work.kernel)
        for step in _STEPS:
            wide = _up(work.outputs, step) * work.positions * work.kernel
            found[f"outputs in {step}"] = float(work.inputs * wide)
            found[f"both in {step}"] = float(_up(work.inputs, step) * wide)
        gathered = work.inputs * work.kernel * work.positions
        found |= {
            "gathered": float(gathered),
            "gathered, inputs not in 4": _where(work.inputs % 4, gathered),
            "macs, inputs not in 4": _where(work.inputs % 4, work.macs),
            "macs, inputs not in 8": _where(work.inputs % 8, work.macs),
            "macs, outputs not in 8": _where(work.outputs % 8, work.macs),
            "macs, any not in 8": _where(work.inputs % 8 or work.outputs % 8, work.macs),
            "given, outputs not in 8": _where(work.outputs % 8, work.given),
            "given, outputs not in 16": _where(work.outputs % 16, work.given),
        }
    return {f"{work.kind}: {name}": value for name, value in found.items()}


def _where(uneven: int, amount: int) -> float:
    return float(amount) if uneven else 0.0


def _up(channels: int, step: int) -> int:
    return -(-channels // step) * step


def _matrix(networks: Sequence[Sequence[Work]], columns: Sequence[str]) -> FloatArray:
    places = {name: place for place, name in enumerate(columns)}
    matrix = np.zeros((len(networks), len(columns)))
    for row, network in zip(matrix, networks, strict=True):
        for work in network:
            for name, value in features(work).items():
                row[places[name]] += value
    return matrix
