"""Data sets: shipped ones (the files of this folder), a user's `.npz`, image folder or function.

A data set has three splits. Training fits, validation chooses (early stopping, calibration of choices, search), test
judges and is used for nothing else. Without a validation split of its own, one is held out from training.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edgekd.data.loading import folder, function, npz
from edgekd.data.loading.arrays import Source, Split, digest
from edgekd.data.loading.checking import check
from edgekd.data.loading.splitting import hold_out, subset
from edgekd.document import suggest
from edgekd.errors import UsageError
from edgekd.options import Data as DataOptions
from edgekd.plugin import locate
from edgekd.shipped import shipped_modules
from edgekd.stage import Inputs, Progress, silent

__all__ = ["Data", "Split", "data_folder", "describe", "load", "of", "of_recipe", "shipped_data"]


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, ready for training and judging.

    Args:
        classes: names in the order of the class indices; empty where the targets are no class indices.
        preprocessing: what was done to the inputs, for whoever feeds the exported network: JSON values.
        digest: sha256 (hex) over all arrays, with their types and shapes, the classes and the preprocessing.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""


def shipped_data() -> list[str]:
    """Return the names of the shipped data sets, as they are written in YAML."""
    return [name.replace("_", "-") for name in shipped_modules("data")]


def data_folder(data_dir: Path | None = None) -> Path:
    """Return where downloaded data lie: the argument, else EDGEKD_DATA, else a folder in the user's cache."""
    return data_dir or Path(os.environ.get("EDGEKD_DATA") or Path.home() / ".cache" / "edgekd" / "data")


def describe(source: str, data_dir: Path | None = None) -> str:
    """Return in a few words where a data set is, without reading or running it.

    Raises:
        UsageError: It is not there and cannot be downloaded; the message says what to put where.
    """
    return _reader(source, data_folder(data_dir)).describe()


def load(
    source: str,
    *,
    validation: float | int | None = None,
    train_samples: int | None = None,
    test_samples: int | None = None,
    seed: int = 0,
    data_dir: Path | None = None,
    progress: Progress = silent,
) -> Data:
    """Read a data set and choose its samples. The choice depends on the seed alone, and keeps the balance of classes.

    Args:
        source: a shipped name, the path of an `.npz` or of an image folder, or "package.module:function".
        validation: how many training samples (int), or which part of them (float), to hold out for validation.
            A data set with a validation split of its own keeps that.
        train_samples: use only so many of the training split (what is held out included).
        test_samples: use only so many of the test split.
        data_dir: where downloaded data lie, and where a relative path is looked for too.

    Raises:
        UsageError: The data are missing, damaged, or cannot be right.
        StageError: The user's function failed.
    """
    reader = _reader(source, data_folder(data_dir))
    reader.describe()
    key = (source, data_folder(data_dir), reader.stamp(), repr(validation), train_samples, test_samples, seed)
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = _chosen(reader, validation, train_samples, test_samples, seed, progress)
    return _LAST[key]


def of_recipe(options: DataOptions, seed: int, data_dir: Path | None = None, progress: Progress = silent) -> Data:
    """Read the data set of a recipe."""
    return load(**options.model_dump(), seed=seed, data_dir=data_dir, progress=progress)


def of(inputs: Inputs) -> Data:
    """Read the data set that a stage's work function is given."""
    return of_recipe(inputs.data, inputs.seed, inputs.data_dir)


_LAST: dict[Hashable, Data] = {}
"""The data set in use: the stages of a run all ask for the same one."""


@dataclass(frozen=True)
class _Reader:
    """How a source is read; `stamp` changes when what it reads does."""

    name: str
    describe: Callable[[], str]
    load: Callable[[Progress], Source]
    stamp: Callable[[], Hashable] = lambda: None


def _reader(source: str, data_dir: Path) -> _Reader:
    module = source.replace("-", "_")
    if module in shipped_modules("data"):
        shipped: Any = importlib.import_module(f"edgekd.data.{module}")
        name = module.replace("_", "-")
        return _Reader(name, lambda: str(shipped.describe(data_dir)), partial(shipped.load, data_dir))
    here = Path(source).expanduser()
    path = here if here.exists() or not (data_dir / here).exists() else data_dir / here
    if ":" in source and not path.exists():
        return _Reader(
            source,
            lambda: function.describe(source),
            lambda _: function.load(source),
            lambda: locate(source).source_digest,
        )
    if path.suffix == ".npz":
        return _Reader(source, lambda: npz.describe(path), lambda _: npz.load(path), lambda: _stamp([path]))
    if path.is_dir() or "/" in source:
        return _Reader(
            source, lambda: folder.describe(path), lambda _: folder.load(path), lambda: _stamp(path.rglob("*"))
        )
    raise UsageError(
        f'data: there is no data set "{source}"{suggest(source, shipped_data())} '
        f"(shipped: {', '.join(shipped_data())}; or the path of an .npz file or of an image folder, "
        'or "package.module:function")'
    )


def _stamp(files: Iterable[Path]) -> Hashable:
    states = [(str(path), path.stat()) for path in files]
    return tuple(sorted((path, state.st_size, state.st_mtime_ns) for path, state in states))


def _chosen(
    reader: _Reader,
    validation: float | int | None,
    train_samples: int | None,
    test_samples: int | None,
    seed: int,
    progress: Progress,
) -> Data:
    source = reader.load(progress)
    check(source, reader.name)
    train = subset(source.train, train_samples, (seed, 0), "training")
    test = subset(source.test, test_samples, (seed, 1), "test")
    held = source.validation
    if held is None:
        train, held = hold_out(train, validation, (seed, 2))
    splits = {"train": train, "validation": held, "test": test}
    content = digest(splits, source.classes, source.preprocessing)
    return Data(reader.name, train, held, test, source.classes, source.preprocessing, content)
