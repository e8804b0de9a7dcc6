"""A user's arrays as `.npy` files in one folder, read where they lie: the training inputs may be larger than memory.

Files: `x_train.npy y_train.npy x_test.npy y_test.npy`, optionally `x_validation.npy y_validation.npy` (or `x_val.npy
y_val.npy`) and `classes.txt`, one name per line. The arrays are what they may be in an `.npz`.

Samples are read from the file into an array, not through a mapping of it: a mapped file that is cut short, or a disk
that fails, would kill the process (SIGBUS) where reading raises an error, and mapped pages count as its memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.agent import npy
from edgekd.data.loading.arrays import Array, Source, Split, pixel_preprocessing
from edgekd.data.loading.checking import check_labels, class_names, finite
from edgekd.data.loading.findings import Findings
from edgekd.data.loading.npz import MAGIC, NEEDED, VALIDATION, network_inputs
from edgekd.data.loading.streaming import Indices, Streamed, StreamedSplit
from edgekd.document import suggest
from edgekd.errors import UsageError

CLASSES = "classes.txt"
_BLOCK_BYTES = 8 * 2**20  # read together


@dataclass(frozen=True, eq=False)
class Rows:
    """The samples of an `.npy` file.

    Args:
        begin: where they begin in the file.
        stored: type and shape (N, ...) in the file.
        shape, dtype: as the network takes them.
        digest: sha256 (hex) over type, shape and values; empty while it is not known.
    """

    path: Path
    begin: int
    stored: tuple[np.dtype[Any], tuple[int, ...]]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    digest: str = ""

    @property
    def files(self) -> Indices:
        """It is one file."""
        return np.zeros(1, np.int64)

    @property
    def sample_bytes(self) -> int:
        """The stored size of a sample."""
        dtype, shape = self.stored
        return dtype.itemsize * int(np.prod(shape[1:]))

    def read(self, samples: Indices) -> Array:
        """Read samples (B,), in this order, as the network takes them.

        Raises:
            UsageError: One cannot be read.
        """
        return network_inputs(self.raw(samples), str(self.path))

    def raw(self, samples: Indices) -> Array:
        """Read samples (B,) as they are stored; neighbours together."""
        dtype, shape = self.stored
        rows = np.empty((len(samples), *shape[1:]), dtype)
        target = rows.reshape(-1).view(np.uint8).data
        size = self.sample_bytes
        first = np.flatnonzero(np.diff(samples, prepend=-2) != 1)  # of each run of neighbours
        ends = [*(first[1:] * size).tolist(), len(target)]
        done = 0
        try:
            with self.path.open("rb", buffering=0) as file:
                for place, end in zip((self.begin + samples[first] * size).tolist(), ends, strict=False):
                    file.seek(place)
                    while done < end:
                        count = file.readinto(target[done:end])
                        if not count:
                            missing = samples[done // size]
                            raise UsageError(f"{self.path}: sample {missing} is missing: the file ends before it")
                        done += count
        except OSError as error:
            where = f"{self.path}: {len(samples)} samples, {samples[:3].tolist()}..., cannot be read"
            raise UsageError(f"{where}: {error.strerror or error}") from error
        return rows


def describe(root: Path) -> str:
    """Return what is in the folder; only the arrays' headers are read.

    Raises:
        UsageError: An array is missing.
    """
    present = _present(root)
    return f"{root} with {', '.join(f'{key}.npy' for key in present)}"


def load(root: Path, findings: Findings) -> Source:
    """Read labels, validation and test; the training inputs stay where they are.

    Raises:
        UsageError: An array is missing or damaged, or cannot be used.
    """
    present = _present(root)
    held: Sequence[str] = next((pair for pair in VALIDATION if pair[0] in present), ())
    rows = {key: _open(root / f"{key}.npy") for key in ("x_train", *held[:1], "x_test")}
    if len({one.stored[0] == np.uint8 for one in rows.values()}) > 1:
        told = ", ".join(f"{key} {one.stored[0]}" for key, one in rows.items())
        raise UsageError(f"{root}: only some inputs are uint8, which is scaled to [0, 1]; give all alike ({told})")

    def labels(key: str) -> Array:
        targets = _whole(root / f"{key}.npy")
        check_labels(targets, str(root / f"{key}.npy"))
        return targets.astype(np.int64)

    def split(x: str, y: str) -> Split:
        return Split(rows[x].read(np.arange(rows[x].shape[0])), labels(y))

    targets = labels("y_train")
    train = StreamedSplit(Streamed(_checked(rows["x_train"], findings)), targets)
    preprocessing = pixel_preprocessing(scale=1 / 255) if rows["x_train"].stored[0] == np.uint8 else {}
    validation = split(*held) if held else None
    return Source(
        train, validation, split("x_test", "y_test"), read_classes(root) or class_names(targets, str(root)),
        preprocessing,
    )  # fmt: skip


def read_classes(root: Path) -> tuple[str, ...]:
    """Return the names in `classes.txt`, one per line; none where there is no such file.

    Raises:
        UsageError: It cannot be read, or a name is there twice.
    """
    path = root / CLASSES
    try:
        names = tuple(path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if len(set(names)) < len(names):
        raise UsageError(f"{path}: a name is there twice: {next(name for name in names if names.count(name) > 1)}")
    return names


def _present(root: Path) -> list[str]:
    present = sorted(path.stem for path in root.glob("*.npy"))
    needed = [*NEEDED, *(y for x, y in VALIDATION if x in present)]
    missing = [key for key in needed if key not in present]
    if missing:
        others = [key for key in present if key not in needed]
        raise UsageError(
            f"{root}: has no array {', '.join(f'{key}.npy' for key in missing)}{suggest(missing[0], others)} "
            f"(it has: {', '.join(f'{key}.npy' for key in present) or 'none'}; needed: "
            f"{', '.join(f'{key}.npy' for key in NEEDED)}; optional: x_validation.npy, y_validation.npy, {CLASSES})"
        )
    return present


def _mapped(path: Path) -> np.memmap[Any, Any]:
    """Return a file's array, mapped: its header is checked, and that the file is as long as that says."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise UsageError(f"{path}: is no npy file; save one array with numpy.save")
        return npy.mapped(path)
    except ValueError as error:
        mend = "; save an array of numbers (not of dtype object) with numpy.save" if "pickle" in str(error) else ""
        raise UsageError(f"{path}: is damaged or truncated ({path.stat().st_size} bytes): {error}{mend}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error


def _whole(path: Path) -> Array:
    return np.array(_mapped(path))


def _open(path: Path) -> Rows:
    array = _mapped(path)
    if array.ndim == 0 or len(array) == 0:
        raise UsageError(f"{path}: there are no samples")
    if not array.flags.c_contiguous:
        raise UsageError(
            f"{path}: the samples do not lie one after the other (Fortran order); save numpy.ascontiguousarray of it"
        )
    one = network_inputs(np.zeros((1, *array.shape[1:]), array.dtype), str(path))
    return Rows(path, int(array.offset), (array.dtype, array.shape), (len(array), *one.shape[1:]), one.dtype)


def _checked(rows: Rows, findings: Findings) -> Rows:
    """Return the rows with their digest; all values are looked at the first time."""

    def find() -> dict[str, Any]:
        dtype, shape = rows.stored
        total = hashlib.sha256(f"{dtype.str}:{shape}:".encode())
        step = max(1, _BLOCK_BYTES // max(rows.sample_bytes, 1))
        for begin in range(0, shape[0], step):
            findings.progress(begin, shape[0], f"{rows.path.name}: digest")
            block = rows.raw(np.arange(begin, min(begin + step, shape[0])))
            total.update(np.ascontiguousarray(block).data)
            if np.issubdtype(dtype, np.floating):
                finite(network_inputs(block, str(rows.path)), f"{rows.path}: the inputs", begin)
        return {"digest": total.hexdigest()}

    known = findings.get("npy", [(os.path.realpath(rows.path), rows.path.stat())], find)
    return Rows(rows.path, rows.begin, rows.stored, rows.shape, rows.dtype, str(known["digest"]))
