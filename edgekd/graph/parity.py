"""Does the exported file compute what the network computed? Measured on real inputs, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite, log10
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgekd.errors import StageError

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Parity:
    """How far two answers to the same inputs are apart, for one output."""

    max_abs: float
    mean_abs: float
    peak: float
    """The largest magnitude of the reference: what `max_abs` is large or small against."""
    sqnr_db: float
    """Energy of the reference over the energy of the difference, in decibels; infinite where they are equal."""
    top1_agreement: float
    """Share of samples whose largest element along the last axis is at the same place."""
    n: int
    """Samples."""


@dataclass(frozen=True)
class Tolerance:
    """How far apart is still the same network."""

    min_sqnr_db: float
    min_top1_agreement: float
    max_relative: float | None
    """Largest difference, as a share of the reference's peak; None where single differences say nothing."""


FLOAT_TOLERANCE = Tolerance(min_sqnr_db=60.0, min_top1_agreement=0.999, max_relative=1e-3)
"""Float kernels sum in another order and fold BatchNorm: about 1e-6 relative each, 100 dB and more in practice."""

INT8_TOLERANCE = Tolerance(min_sqnr_db=30.0, min_top1_agreement=0.98, max_relative=None)
"""Two runtimes sum in another order, so a value on the edge between two integers can go either way, and every layer
after it sees one step more or less. One step of one value is no error, so no single difference is gated. Small networks
measure 58 dB and more where biases stay float, 140 dB where they are integers too. What this is meant to catch is a
misread graph."""


def run_onnx(path: Path, inputs: Arrays, batch: int) -> dict[str, NDArray[np.generic]]:
    """Run an ONNX file over inputs with ONNX Runtime on the CPU, `batch` samples at a time.

    It is run to the letter, operator by operator. Fused integer kernels are another matter: on x86 without VNNI their
    16-bit sums saturate where weights use all 8 bits, and the file may well be for a device that has no such limit.

    Args:
        path: the file.
        inputs: one array per input name, samples along the first axis.
        batch: samples per call.

    Returns:
        One array per output name, in the order of the inputs.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    samples = len(next(iter(inputs.values())))
    parts = [
        session.run(names, {name: array[start : start + batch] for name, array in inputs.items()})
        for start in range(0, samples, batch)
    ]
    return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*parts, strict=True), strict=True)}


def compare(reference: Arrays, actual: Arrays) -> dict[str, Parity]:
    """Compare two answers to the same inputs, output by output.

    Raises:
        StageError: the outputs have other names or shapes.
    """
    if reference.keys() != actual.keys():
        raise StageError(f"the outputs are {', '.join(actual)}; the network's are {', '.join(reference)}")
    return {name: _compare(name, reference[name], actual[name]) for name in reference}


def check(parity: Mapping[str, Parity], tolerance: Tolerance) -> list[str]:
    """Return what is out of tolerance, one sentence each; nothing when all is well."""
    problems = []
    for name, seen in parity.items():
        if not seen.sqnr_db >= tolerance.min_sqnr_db:
            problems.append(f"{name}: SQNR {seen.sqnr_db:.1f} dB, at least {tolerance.min_sqnr_db:g} dB expected")
        if not seen.top1_agreement >= tolerance.min_top1_agreement:
            problems.append(
                f"{name}: the largest element agrees on {seen.top1_agreement:.2%} of {seen.n} samples, "
                f"at least {tolerance.min_top1_agreement:.2%} expected"
            )
        if tolerance.max_relative is not None and not seen.max_abs <= tolerance.max_relative * seen.peak:
            problems.append(
                f"{name}: largest difference {seen.max_abs:.3g}, at most {tolerance.max_relative:g} of the peak "
                f"{seen.peak:.3g} expected"
            )
    return problems


def _compare(name: str, reference: NDArray[np.generic], actual: NDArray[np.generic]) -> Parity:
    if reference.shape != actual.shape:
        raise StageError(f"output {name} has shape {list(actual.shape)}; the network's is {list(reference.shape)}")
    expected, given = reference.astype(np.float64), actual.astype(np.float64)
    difference = np.abs(expected - given)
    signal, noise = float(np.sum(expected**2)), float(np.sum(difference**2))
    rows = (expected.reshape(-1, expected.shape[-1]), given.reshape(-1, given.shape[-1]))
    return Parity(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        peak=float(np.abs(expected).max()),
        sqnr_db=decibels(signal, noise),
        top1_agreement=float(np.mean(rows[0].argmax(axis=1) == rows[1].argmax(axis=1))),
        n=len(expected),
    )


def decibels(signal: float, noise: float) -> float:
    """Return a ratio of energies in decibels; infinite where there is no noise."""
    if noise == 0:
        return inf
    return 10 * log10(signal / noise) if signal > 0 and isfinite(noise) else -inf
