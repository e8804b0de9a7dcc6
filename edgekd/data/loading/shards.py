"""A user's samples in tar files, in the layout of WebDataset: `train-000000.tar ... test-000000.tar ...`.

Optionally also `validation-*.tar` (or `val-*.tar`) and `classes.txt`, one name per line.

The members of a sample have one name, up to the first dot: `KEY.png` (or jpg, jpeg, bmp, npy) and `KEY.cls`, the label
as text, or `KEY.json` with a "label". Other members are left alone. All inputs are of one kind, size and type: images
as in folders, arrays as in an `.npz`. The training inputs are read from their places in the tar files when they are
needed; where those are is found once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tarfile import HeaderError, TarInfo
from typing import Any

import numpy as np

from edgekd.data.loading import images
from edgekd.data.loading.arrays import Array, Source, Split, pixel_preprocessing
from edgekd.data.loading.checking import class_names
from edgekd.data.loading.findings import Findings
from edgekd.data.loading.npy import read_classes
from edgekd.data.loading.npz import network_inputs
from edgekd.data.loading.streaming import Indices, Streamed, StreamedSplit
from edgekd.data.loading.tar import BLOCK, IMAGE, PIXEL, Kind, Shard, array_of, index
from edgekd.document import suggest
from edgekd.errors import UsageError

_VALIDATION = ("validation", "val", "valid")


@dataclass(frozen=True, eq=False)
class Members:
    """Samples that are members of tar files.

    Args:
        paths: of the tar files.
        files: the first sample of each (F,).
        places: of each sample (N, 2): where its content begins in its file, and how many bytes it has.
        kind: of all inputs.
        mode: of images, "L" or "RGB".
        shape, dtype: as the network takes them.
        digest: sha256 (hex) over the contents of all tar files.
    """

    paths: tuple[Path, ...]
    files: Indices
    places: Indices
    kind: Kind
    mode: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    digest: str

    @property
    def sample_bytes(self) -> float:
        """The stored size of a sample, on average."""
        return float(self.places[:, 1].mean())

    def read(self, samples: Indices) -> Array:
        """Read samples (B,), in this order, as the network takes them; those of one file together.

        Raises:
            UsageError: One cannot be read.
        """
        image = self.kind.form == IMAGE
        dtype = np.dtype(self.kind.dtype)
        found = images.stored(len(samples), self.kind.shape, self.mode) if image else np.empty(
            (len(samples), *self.kind.shape), dtype
        )  # fmt: skip
        shards = np.searchsorted(self.files, samples, side="right") - 1
        for shard in np.unique(shards).tolist():
            path = self.paths[shard]
            try:
                with path.open("rb", buffering=0) as file:
                    for position in np.flatnonzero(shards == shard).tolist():
                        place, size = self.places[samples[position]].tolist()
                        file.seek(place)
                        try:
                            found[position] = self._decoded(file.read(size), size)
                        except UsageError as error:
                            name = f"sample {samples[position]} ({_name(path, place)})"
                            raise UsageError(f"{path}: {name}{error}") from error
            except OSError as error:
                raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
        return images.network_images(found, self.mode) if image else network_inputs(found, str(self.paths[0]))

    def _decoded(self, content: bytes, size: int) -> Array:
        """Return the array of a member; errors go on after its name."""
        if len(content) < size:
            raise UsageError(" is missing: the file ends before it")
        if self.kind.form == IMAGE:
            return images.decode(BytesIO(content), self.mode, self.kind.shape, "")
        array = array_of(content, "")
        if Kind.of_array(array) != self.kind:
            raise UsageError(f": is not {self.kind}, as it was when the data were read first")
        return array


def describe(root: Path) -> str:
    """Return what is in the folder; no file is read.

    Raises:
        UsageError: A split is missing.
    """
    counts = {name: len(paths) for name, paths in _splits(root).items()}
    return f"{root} with {', '.join(f'{count} {name}' for name, count in counts.items())} tar files"


def load(root: Path, findings: Findings) -> Source:
    """Read labels, validation and test; the training inputs stay where they are.

    Raises:
        UsageError: A tar file is damaged, a label is missing, or the inputs are not all alike.
    """
    found = {name: [index(path, findings) for path in paths] for name, paths in _splits(root).items()}
    first = found["train"][0]
    for shard in (one for shards in found.values() for one in shards):
        if shard.kind != first.kind:
            raise UsageError(
                f"{shard.path}: the inputs are {shard.kind}, those of {first.path} are {first.kind}; all must be alike"
            )
    mode = "L" if all(shard.grey for shards in found.values() for shard in shards) else "RGB"

    def members(name: str) -> Members:
        shards = found[name]
        ends = np.cumsum([len(shard.labels) for shard in shards])
        shape, dtype = _network_shape(first.kind, mode, str(first.path))
        return Members(
            paths=tuple(shard.path for shard in shards),
            files=np.concatenate([[0], ends[:-1]]).astype(np.int64),
            places=np.concatenate([shard.places for shard in shards]),
            kind=first.kind, mode=mode, shape=(int(ends[-1]), *shape), dtype=dtype,
            digest=_digest([shard.digest for shard in shards]),
        )  # fmt: skip

    def split(name: str) -> Split:
        every = members(name)
        return Split(every.read(np.arange(every.shape[0])), _labels(found[name]))

    train = StreamedSplit(Streamed(members("train")), _labels(found["train"]))
    classes = read_classes(root) or class_names(train.targets, str(root))
    preprocessing = images.preprocessing(mode) if first.kind.form == IMAGE else pixel_preprocessing(scale=1 / 255)
    validation = split("validation") if "validation" in found else None
    return Source(train, validation, split("test"), classes, preprocessing if first.kind.dtype == PIXEL else {})


def _labels(shards: Sequence[Shard]) -> Array:
    return np.concatenate([shard.labels for shard in shards])


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _network_shape(kind: Kind, mode: str, where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of one sample as the network takes it."""
    if kind.form == IMAGE:
        return (1 if mode == "L" else 3, *kind.shape), np.dtype(np.float32)
    one = network_inputs(np.zeros((1, *kind.shape), kind.dtype), where)
    return one.shape[1:], one.dtype


def _name(path: Path, begin: int) -> str:
    """Return the name of the member whose content begins at a byte, for messages."""
    try:
        with path.open("rb") as file:
            file.seek(begin - BLOCK)
            return TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape").name
    except (OSError, HeaderError):
        return f"byte {begin}"


def _splits(root: Path) -> dict[str, list[Path]]:
    """Return the tar files by split, in the order of their names."""
    present = sorted(path for path in root.iterdir() if path.suffix == ".tar" and path.is_file())
    prefixes = {"train": "train", "test": "test"}
    held = next((name for name in _VALIDATION if any(_of(name, path) for path in present)), None)
    if held is not None:
        prefixes["validation"] = held
    splits = {split: [path for path in present if _of(prefix, path)] for split, prefix in prefixes.items()}
    for name, paths in splits.items():
        if not paths:
            found = {path.name.partition("-")[0] for path in root.iterdir() if ".tar" in path.suffixes}
            others = sorted(found - {*prefixes})
            raise UsageError(
                f"{root}: has no {name}-*.tar{suggest(name, others)} (needed: train-000000.tar ... and test-000000.tar "
                f"..., not compressed; it has: {', '.join(_some(root))})"
            )
    return splits


def _of(split: str, path: Path) -> bool:
    return path.name == f"{split}.tar" or path.name.startswith(f"{split}-")


def _some(root: Path) -> list[str]:
    names = sorted(path.name for path in root.iterdir() if ".tar" in path.suffixes)
    return [*names[:4], f"... {len(names)} in all"] if len(names) > 4 else names
