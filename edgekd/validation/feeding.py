"""What models are fed with: samples of a data set, a user's arrays, or random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd import data as datasets
from edgekd.agent import npy
from edgekd.errors import UsageError
from edgekd.graph.feeding import batched_inputs, random_inputs
from edgekd.graph.lint import Port
from edgekd.options import Data as DataOptions
from edgekd.recipe import Recipe, shipped_recipes
from edgekd.report.reading import LARGEST_NPZ

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]

RANDOM = "random"
RANDOM_SAMPLES = 64
LABELS = ("labels", "targets", "y")


@dataclass(frozen=True)
class Feed:
    """Samples by the names of the reference's inputs.

    Args:
        source: "random", or what the user named.
        arrays: of the inputs that have a sample axis (the first), all samples; of others the value for every call.
        batched: the names of the former.
        total: samples.
        labels: what the answers should be [total]; None where that is not known.
        task: what the labels are for.
    """

    source: str
    arrays: Arrays
    batched: frozenset[str]
    total: int
    labels: Array | None = None
    task: str = "classification"

    @property
    def random(self) -> bool:
        """Whether the inputs are random numbers."""
        return self.source == RANDOM

    def batch(self, begin: int, end: int) -> dict[str, Array]:
        """Return some of the samples; of arrays in files only these are read."""
        return {
            name: np.asarray(array[begin:end]) if name in self.batched else array for name, array in self.arrays.items()
        }


def feed(
    ports: Sequence[Port], data: str | None, data_dir: Path | None, samples: int | None, axes: Mapping[str, int]
) -> Feed:
    """Return what all models are fed with.

    Args:
        ports: the reference's inputs.
        data: a recipe, a data source, an .npz or a folder of .npy with an array for each input; None: random inputs.
        samples: how many at most.
        axes: sizes of free axes by name, for random inputs.

    Raises:
        UsageError: the data are not what the reference takes.
    """
    batched = batched_inputs(ports)
    if data is None:
        count = samples or RANDOM_SAMPLES
        return Feed(RANDOM, random_inputs(ports, count, batched=batched, axes=axes), batched, count)
    own = _own_arrays(ports, Path(data))
    if own is not None:
        return _of_arrays(ports, data, own, batched, samples)
    return _of_data_set(ports, data, data_dir, batched, samples)


def _own_arrays(ports: Sequence[Port], path: Path) -> dict[str, Array] | None:
    """Return arrays with the names of inputs; None where the path holds something else, such as a data set."""
    wanted = {port.name for port in ports}
    if path.suffix == ".npz" and path.is_file():
        try:
            if not wanted <= set(npy.names(path)):
                return None
            return npy.arrays(path, [*wanted, *LABELS], LARGEST_NPZ)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--data {path}: no readable .npz ({error}); of more give a folder with one .npy for each input, "
                "which is read as it is used"
            ) from error
    if path.is_dir() and all((path / f"{name}.npy").is_file() for name in wanted):
        names = [*wanted, *(name for name in LABELS if (path / f"{name}.npy").is_file())]
        try:
            return {name: npy.mapped(path / f"{name}.npy") for name in names}
        except (OSError, ValueError) as error:
            raise UsageError(f"--data {path}: no readable .npy ({error})") from error
    return None


def _of_arrays(
    ports: Sequence[Port], data: str, arrays: dict[str, Array], batched: frozenset[str], samples: int | None
) -> Feed:
    labels = next((arrays[name] for name in LABELS if name in arrays and name not in {p.name for p in ports}), None)
    inputs = {port.name: arrays[port.name] for port in ports}
    lengths = {name: len(inputs[name]) if inputs[name].ndim else 0 for name in batched}
    if labels is not None:
        lengths["labels"] = len(labels)
    if len(set(lengths.values())) != 1 or not min(lengths.values()):
        raise UsageError(f"--data {data}: every array needs the same number of samples, at least one: {lengths}")
    for port in ports:
        _check_fit(port, inputs[port.name], data, port.name in batched)
    total = min(next(iter(lengths.values())), samples or np.iinfo(np.int64).max)
    return Feed(data, inputs, batched, total, None if labels is None else np.asarray(labels[:total]))


def _of_data_set(
    ports: Sequence[Port], data: str, data_dir: Path | None, batched: frozenset[str], samples: int | None
) -> Feed:
    named = data in shipped_recipes() and data not in datasets.shipped_data()
    recipe = Recipe.load(data) if named or data.endswith((".yaml", ".yml")) else None
    options, seed = (recipe.data, recipe.seed) if recipe else (DataOptions(source=data), 0)
    test = datasets.of_recipe(options, seed, data_dir).test
    if len(ports) != 1:
        raise UsageError(
            f"--data {data} has one array of inputs, the reference takes {len(ports)}: give an .npz or a folder of "
            f".npy files with {', '.join(port.name for port in ports)}"
        )
    _check_fit(ports[0], test.inputs, data, True)
    total = min(len(test.inputs), samples or len(test.inputs))
    task = recipe.task if recipe else "classification"
    return Feed(data, {ports[0].name: test.inputs}, batched, total, test.targets[:total], task)


def _check_fit(port: Port, array: Array, data: str, batched: bool) -> None:
    """Raise where an array is not what an input takes; its numbers may be of another width."""
    skipped = 1 if batched else 0
    fits = len(port.shape) == array.ndim and all(
        not isinstance(wanted, int) or wanted == given
        for wanted, given in zip(port.shape[skipped:], array.shape[skipped:], strict=True)
    )
    if not fits or not np.can_cast(array.dtype, np.dtype(port.dtype), "same_kind"):
        raise UsageError(
            f"--data {data} has samples {array.dtype}{list(array.shape[skipped:])}; the input {port.name} takes "
            f"{port.dtype}{list(port.shape[skipped:])}"
        )
