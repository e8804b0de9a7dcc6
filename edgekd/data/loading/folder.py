"""A user's images in folders: `ROOT/train/CLASS/*.png`, `ROOT/test/CLASS/*.png`, optionally `ROOT/validation/...`.

PNG, JPEG and BMP of one size. All grey: (N, 1, H, W); else all as RGB: (N, 3, H, W); float32 in [0, 1].
The classes are the folders in `train`, in alphabetical order.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.loading import images
from edgekd.data.loading.arrays import Array, Source, Split
from edgekd.data.loading.findings import Findings
from edgekd.data.loading.streaming import Indices, Streamed, StreamedSplit
from edgekd.document import suggest
from edgekd.errors import UsageError

_VALIDATION = ("validation", "val", "valid")
_TOLD = 1024  # files between two signs of life


@dataclass(frozen=True)
class Listed:
    """The images of one class in one split: files of a folder, in the order of their names."""

    folder: Path
    names: Sequence[str]


@dataclass(frozen=True, eq=False)
class Files:
    """Images that are files.

    Args:
        names: paths below the root (N,), as the file system stores them.
        size: (height, width).
        mode: "L" or "RGB".
        sample_bytes: the mean size of a file.
    """

    root: Path
    names: NDArray[np.bytes_]
    size: tuple[int, ...]
    mode: str
    digest: str = ""
    sample_bytes: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 1 or 3, H, W)."""
        return (len(self.names), 1 if self.mode == "L" else 3, *self.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """As the network takes them."""
        return np.dtype(np.float32)

    @property
    def files(self) -> Indices:
        """Each is a file of its own, so any order is as near as another."""
        return np.arange(len(self.names))

    def read(self, samples: Indices) -> Array:
        """Read images (B,), in this order, as the network takes them.

        Raises:
            UsageError: One cannot be read.
        """
        found = images.stored(len(samples), self.size, self.mode)
        for index, name in enumerate(self.names[samples].tolist()):
            path = self.root / os.fsdecode(name)
            found[index] = images.decode(path, self.mode, self.size, str(path))
        return images.network_images(found, self.mode)


def describe(root: Path) -> str:
    """Return what is in the folder; no image is read.

    Raises:
        UsageError: A split, or the images of a class, are missing.
    """
    counts = {name: sum(len(one.names) for one in listed.values()) for name, listed in _splits(root).items()}
    return f"{root} with {', '.join(f'{count} {name}' for name, count in counts.items())} images"


def load(root: Path, findings: Findings | None = None) -> Source:
    """Read the images.

    Args:
        findings: given where the images of the training split are to be read when they are needed.

    Raises:
        UsageError: A split or class has no images, or one cannot be read or differs in size from the others.
    """
    listed = _splits(root)
    looks = [
        _look(one, findings if name == "train" else None) for name, split in listed.items() for one in split.values()
    ]
    first = next(iter(looks))
    for look in looks:
        if look.size != first.size:
            raise _other_size(look.first, look.size, first.first, first.size)
    mode = "L" if all(look.grey for look in looks) else "RGB"
    classes = tuple(listed["train"])
    split = {name: _files(root, found, first.size, mode) for name, found in listed.items()}
    targets = {name: _targets(found, classes) for name, found in listed.items()}
    eager = {name: Split(split[name].read(np.arange(len(targets[name]))), targets[name])
             for name in split if findings is None or name != "train"}  # fmt: skip
    train: Split | StreamedSplit
    if findings is None:
        train = eager["train"]
    else:
        own = looks[: len(classes)]
        digest = hashlib.sha256("".join(look.digest for look in own).encode()).hexdigest()
        stored = sum(look.stored for look in own) / len(targets["train"])
        files = Files(root, split["train"].names, first.size, mode, digest, stored)
        train = StreamedSplit(Streamed(files), targets["train"])
    return Source(train, eager.get("validation"), eager["test"], classes, images.preprocessing(mode))


def _files(root: Path, listed: Mapping[str, Listed], size: tuple[int, ...], mode: str) -> Files:
    folders = {one.folder.relative_to(root).as_posix(): one.names for one in listed.values()}
    names = [os.fsencode(f"{folder}/{name}") for folder, found in folders.items() for name in found]
    return Files(root, np.array(names), size, mode)


def _targets(listed: Mapping[str, Listed], classes: tuple[str, ...]) -> Array:
    return np.repeat([classes.index(label) for label in listed], [len(one.names) for one in listed.values()])


@dataclass(frozen=True)
class _Look:
    """What a look at the images of a class in a split found: all are of one size."""

    first: Path
    size: tuple[int, ...]
    grey: bool
    digest: str
    stored: int


def _look(listed: Listed, findings: Findings | None) -> _Look:
    """Look at all images of a class; with findings, their content is read too."""
    first = listed.folder / listed.names[0]

    def find() -> dict[str, Any]:
        size: tuple[int, ...] | None = None
        every, total = True, hashlib.sha256()
        for number, name in enumerate(listed.names):
            path = listed.folder / name
            content = None if findings is None else images.content(path)
            found, grey = images.look(path if content is None else BytesIO(content), str(path))
            size, every = size or found, every and grey
            if found != size:
                raise _other_size(path, found, first, size)
            if findings is not None and content is not None:
                total.update(hashlib.sha256(content).digest())
                if number % _TOLD == 0:
                    findings.progress(number, len(listed.names), f"{listed.folder.name}: digest")
        return {"size": size, "grey": every, "digest": total.hexdigest()}

    if findings is None:
        found, stored = find(), 0
    else:
        states = [(name, os.stat(f"{listed.folder}/{name}")) for name in listed.names]  # noqa: PTH116  # of many files
        stored = sum(state.st_size for _, state in states)
        found = findings.get(f"images in {os.path.realpath(listed.folder)}", states, find)
    return _Look(first, tuple(map(int, found["size"])), bool(found["grey"]), str(found["digest"]), stored)


def _other_size(path: Path, size: tuple[int, ...], first: Path, expected: tuple[int, ...]) -> UsageError:
    return UsageError(
        f"{path}: is {images.told(size)}, {first} is {expected[1]} x {expected[0]}; "
        "all images must have one size: scale them first"
    )


def _splits(root: Path) -> dict[str, dict[str, Listed]]:
    """Return the images by split and class, in the order of their names."""
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder")
    present = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    folders = {"train": "train", "test": "test"}
    held = next((name for name in _VALIDATION if name in present), None)
    if held is not None:
        folders["validation"] = held
    for name in ("train", "test"):
        if name not in present:
            raise UsageError(
                f'{root}: has no folder "{name}"{suggest(name, present)} (images lie in {root}/train/CLASS and '
                f"{root}/test/CLASS; it has: {', '.join(present) or 'no folders'})"
            )
    splits = {split: dict(_classes(root / name)) for split, name in folders.items()}
    known = splits["train"]
    for split, listed in splits.items():
        for label, one in listed.items():
            if label not in known:
                raise UsageError(
                    f'{one.folder}: the class "{label}" is not in {root / "train"}{suggest(label, known)} '
                    f"({split} may have only the classes of train: {', '.join(known)})"
                )
    return splits


def _classes(folder: Path) -> Iterator[tuple[str, Listed]]:
    labels = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not labels:
        raise UsageError(f"{folder}: has no folders; images lie in {folder}/CLASS")
    for label in labels:
        with os.scandir(label) as entries:
            names = sorted(entry.name for entry in entries if entry.name.lower().endswith(tuple(images.SUFFIXES)))
        if not names:
            raise UsageError(f"{label}: has no images ({', '.join(sorted(images.SUFFIXES))})")
        yield label.name, Listed(label, names)
