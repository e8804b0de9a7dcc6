"""What an ONNX file takes: which of its inputs have a sample axis, and random numbers for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import UsageError
from edgekd.graph.lint import Port

SEED = 0
LARGEST_BYTES = 8 * 10**9
_HIGHEST = {np.dtype("uint8"): 256, np.dtype("bool"): 2}
"""Integers below this; 2 for all others, which may be indices of something short."""


def batched_inputs(ports: Sequence[Port]) -> frozenset[str]:
    """Return the inputs whose first axis counts samples: those with a free first axis; where there is none, those whose
    first axis is as long as the first input's."""
    deep = [port for port in ports if port.shape]
    free = frozenset(port.name for port in deep if isinstance(port.shape[0], str))
    return free or frozenset(port.name for port in deep if port.shape[0] == deep[0].shape[0])


def misdeclared(ports: Sequence[Port]) -> list[str]:
    """Return which inputs are declared in sizes that no array of samples has."""
    return [
        f"input {port.name} is declared as {list(port.shape)}: sizes are 1 and more"
        for port in ports
        if any(isinstance(size, int) and size < 1 for size in port.shape)
    ]


def random_inputs(
    ports: Sequence[Port], samples: int, *, batched: frozenset[str], axes: Mapping[str, int] | None = None
) -> dict[str, NDArray[np.generic]]:
    """Return random inputs: standard normal numbers, pixels of 8 bits, other integers below 2.

    Args:
        samples: the length of the first axis of the inputs that are batched.
        axes: sizes of other free axes by name.

    Raises:
        UsageError: a free axis has no size, a size is none, or the inputs are no numbers.
    """
    if problems := misdeclared(ports):
        raise UsageError("; ".join(problems))
    generator = np.random.default_rng(SEED)
    found: dict[str, NDArray[np.generic]] = {}
    for port in ports:
        shape = [
            samples if place == 0 and port.name in batched else (axes or {}).get(str(size), size)
            for place, size in enumerate(port.shape)
        ]
        sizes = [size for size in shape if isinstance(size, int)]
        if len(sizes) < len(shape):
            raise UsageError(
                f"input {port.name} has free dimensions {list(port.shape)}; give inputs of a size by --data"
            )
        if port.dtype == "no tensor" or (kind := np.dtype(port.dtype)).kind not in "biuf":
            raise UsageError(f"input {port.name} is {port.dtype}; random inputs are numbers: give real ones by --data")
        if prod(sizes) * kind.itemsize > LARGEST_BYTES:
            raise UsageError(
                f"input {port.name} {list(port.shape)} takes {prod(sizes) * kind.itemsize / 1e9:.0f} GB for {samples} "
                "samples; give fewer, or real ones by --data"
            )
        whole = kind.kind in "biu"
        values = generator.integers(0, _HIGHEST.get(kind, 2), sizes) if whole else generator.standard_normal(sizes)
        found[port.name] = values.astype(kind)
    return found
