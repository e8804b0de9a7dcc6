"""Data sets: shipped ones (the files of this folder), a user's `.npz`, folder (images, arrays, tar files) or function.

A data set has three splits. Training fits, validation chooses (early stopping, calibration of choices, search), test
judges and is used for nothing else. Without a validation split of its own, one is held out from training. Validation
and test are in memory; the training inputs may be larger than that (`Streamed`), and are then read as they are indexed.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edgekd.data.loading import folder, function, npy, npz, shards
from edgekd.data.loading.arrays import Source, Split, digest
from edgekd.data.loading.checking import check
from edgekd.data.loading.findings import Findings
from edgekd.data.loading.splitting import hold_out, leave_out, subset
from edgekd.data.loading.streaming import Streamed, StreamedSplit
from edgekd.document import suggest
from edgekd.errors import UsageError
from edgekd.options import Data as DataOptions
from edgekd.plugin import locate
from edgekd.shipped import shipped_modules
from edgekd.stage import Inputs, Progress, silent

__all__ = [
    "Data", "Split", "Streamed", "StreamedSplit", "data_folder", "describe", "load", "of", "of_recipe", "shipped_data",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, ready for training and judging.

    Args:
        classes: names in the order of the class indices; empty where the targets are no class indices.
        preprocessing: what was done to the inputs, for whoever feeds the exported network: JSON values.
        whole: the same with all classes in the training split, where some were omitted: what a teacher learns from.
        digest: sha256 (hex) over all arrays, with their types and shapes, the classes and the preprocessing; of
            streamed inputs over the contents of their files and the choice of samples.
    """

    name: str
    train: Split | StreamedSplit
    validation: Split
    test: Split
    classes: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    whole: Data | None = None


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
    stream: bool = False,
    omit: Sequence[int] = (),
    data_dir: Path | None = None,
    progress: Progress = silent,
) -> Data:
    """Read a data set and choose its samples. The choice depends on the seed alone, and keeps the balance of classes.

    Args:
        source: a shipped name, the path of an `.npz` or of a folder of images, `.npy` arrays or tar files, or
            "package.module:function".
        validation: how many training samples (int), or which part of them (float), to hold out for validation.
            A data set with a validation split of its own keeps that.
        train_samples: use only so many of the training split (what is held out included).
        test_samples: use only so many of the test split.
        stream: read the training images of a folder when they are needed.
        omit: classes left out of the training split, after the validation split was held out from it (`Data.whole`
            has them).
        data_dir: where downloaded data lie, where a relative path is looked for too, and where what was found in large
            files is kept (`.index`).

    Raises:
        UsageError: The data are missing, damaged, or cannot be right.
        StageError: The user's function failed.
    """
    reader = _reader(source, data_folder(data_dir), stream=stream)
    if stream and not reader.streams:
        raise UsageError(
            f"data.stream: {source} is read into memory; what can be read when it is needed is a folder of images, of "
            ".npy arrays or of tar files"
        )
    reader.describe()
    choice = _Choice(validation, train_samples, test_samples, seed, tuple(omit))
    key = (source, stream, data_folder(data_dir), reader.stamp(), repr(choice))
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = _chosen(reader, choice, progress)
    return _LAST[key]


def of_recipe(options: DataOptions, seed: int, data_dir: Path | None = None, progress: Progress = silent) -> Data:
    """Read the data set of a recipe, whose seed is used where the data have none of their own."""
    chosen = options.model_dump()
    chosen["seed"] = seed if options.seed is None else options.seed
    return load(**chosen, data_dir=data_dir, progress=progress)


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
    streams: bool = False


def _reader(source: str, data_dir: Path, *, stream: bool = False) -> _Reader:
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
        return _folder(source, path, data_dir / ".index", stream)
    raise UsageError(
        f'data: there is no data set "{source}"{suggest(source, shipped_data())} '
        f"(shipped: {', '.join(shipped_data())}; or the path of an .npz file or of a folder of images, arrays or tar "
        'files, or "package.module:function")'
    )


def _folder(source: str, path: Path, index: Path, stream: bool) -> _Reader:
    """Return how a folder is read: its files tell what it is."""
    if any(path.glob("*.npy")):
        return _Reader(
            source,
            lambda: npy.describe(path),
            lambda progress: npy.load(path, Findings(index, progress)),
            lambda: _stamp([*path.glob("*.npy"), *path.glob("*.txt")]),
            streams=True,
        )
    if any(path.glob("*.tar*")):
        return _Reader(
            source,
            lambda: shards.describe(path),
            lambda progress: shards.load(path, Findings(index, progress)),
            lambda: _stamp([*path.glob("*.tar"), *path.glob("*.txt")]),
            streams=True,
        )
    return _Reader(
        source,
        lambda: folder.describe(path),
        lambda progress: folder.load(path, Findings(index, progress) if stream else None),
        lambda: hash(tuple(_walk(path))),
        streams=True,
    )


def _stamp(files: Iterable[Path]) -> Hashable:
    states = [(str(path), path.stat()) for path in files]
    return tuple(sorted((path, state.st_size, state.st_mtime_ns) for path, state in states))


def _walk(folder: Path | str) -> Iterator[tuple[str, int, int]]:
    """Yield path, size and time of modification of all files below a folder, in the order of their names."""
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry.path)
        else:
            state = entry.stat()
            yield entry.path, state.st_size, state.st_mtime_ns


@dataclass(frozen=True)
class _Choice:
    """Which samples are used: arguments of `load`."""

    validation: float | int | None
    train_samples: int | None
    test_samples: int | None
    seed: int
    omit: tuple[int, ...]


def _chosen(reader: _Reader, choice: _Choice, progress: Progress) -> Data:
    source = reader.load(progress)
    check(source, reader.name, choice.omit)
    test = subset(source.test, choice.test_samples, (choice.seed, 1), "test").loaded()
    train, held = _training(source, choice)

    def data(kept: Split | StreamedSplit, whole: Data | None = None) -> Data:
        content = digest({"train": kept, "validation": held, "test": test}, source.classes, source.preprocessing)
        return Data(reader.name, kept, held, test, source.classes, source.preprocessing, content, whole)

    return data(leave_out(train, choice.omit, source.classes), data(train)) if choice.omit else data(train)


def _training(source: Source, choice: _Choice) -> tuple[Split | StreamedSplit, Split]:
    """Return the training split with all classes, and the source's validation split or what is held out."""
    train, held = subset(source.train, choice.train_samples, (choice.seed, 0), "training"), source.validation
    if held is None:
        train, held = hold_out(train, choice.validation, (choice.seed, 2))
    return train, held
