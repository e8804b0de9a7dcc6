"""A user's data in one `.npz` file.

Keys: `x_train y_train x_test y_test`, optionally `x_validation y_validation` (or `x_val y_val`) and `classes` (names).
Images may be uint8, (N, H, W) or (N, H, W, C) or (N, C, H, W) with C = 1 or 3: they become float32 (N, C, H, W) in
[0, 1]. Floating-point arrays are taken as they are, as float32; wider integers are token numbers and become int64.
Labels are integers (N,), counted from 0. Nothing pickled is read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgekd.agent import npy
from edgekd.data.loading.arrays import Array, Arrays, Source, Split, pixel_preprocessing, pixels
from edgekd.data.loading.checking import check_labels, class_names
from edgekd.document import suggest
from edgekd.errors import UsageError

NEEDED = ("x_train", "y_train", "x_test", "y_test")
VALIDATION = (("x_validation", "y_validation"), ("x_val", "y_val"))
_CHANNELS = (1, 3)
MAGIC = b"\x93NUMPY"


def describe(path: Path) -> str:
    """Return what is in the file; only its directory is read.

    Raises:
        UsageError: It is not there, is no npz, or lacks an array.
    """
    present = _names(path)
    _check_keys(present, NEEDED, path)
    return f"{path} with {', '.join(present)}"


def load(path: Path) -> Source:
    """Read a user's data.

    Raises:
        UsageError: The file is not there or damaged, or an array is missing or cannot be used.
    """
    present = _names(path)
    held = next((pair for pair in VALIDATION if pair[0] in present), ())
    named = ("classes",) if "classes" in present else ()
    content = arrays(path, (*NEEDED, *held, *named))
    names = content["classes"].astype(str).tolist() if named else None
    classes = tuple(names) if names is not None else class_names(content["y_train"], str(path))
    kinds = {key: content[key].dtype for key in content if key.startswith("x")}
    if len({kind == np.uint8 for kind in kinds.values()}) > 1:
        told = ", ".join(f"{key} {kind}" for key, kind in kinds.items())
        raise UsageError(f"{path}: only some inputs are uint8, which is scaled to [0, 1]; give all alike ({told})")

    def split(x: str, y: str) -> Split:
        check_labels(content[y], f"{path}: {y}")
        return Split(network_inputs(content[x], f"{path}: {x}"), content[y].astype(np.int64))

    preprocessing = pixel_preprocessing(scale=1 / 255) if content["x_train"].dtype == np.uint8 else {}
    validation = split(*held) if held else None
    return Source(split("x_train", "y_train"), validation, split("x_test", "y_test"), classes, preprocessing)


def arrays(path: Path, keys: Sequence[str]) -> Arrays:
    """Return arrays of an npz file.

    Raises:
        UsageError: The file is not there or damaged, or an array is missing or pickled.
    """
    _check_keys(_names(path), keys, path)
    with _told(path):
        return npy.arrays(path, keys)


def _names(path: Path) -> list[str]:
    with _told(path):
        return npy.names(path)


def network_inputs(array: Array, where: str) -> Array:
    """Return an array as a network takes it (the module's docstring says how).

    Raises:
        UsageError: It is of another kind.
    """
    if array.dtype == np.uint8:
        return pixels(_channels_first(array, where), scale=1 / 255, mean=0.0, std=1.0)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    if array.dtype in (np.int32, np.int64):
        return array.astype(np.int64)
    raise UsageError(f"{where}: is {array.dtype}; it must be uint8 (pixels), floating-point, or int64 (tokens)")


def _channels_first(images: Array, where: str) -> Array:
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        return images
    first, last = images.shape[1] in _CHANNELS, images.shape[3] in _CHANNELS
    if first == last:
        raise UsageError(
            f"{where}: it cannot be told where the channels are in uint8 images of shape {images.shape}; "
            "give (N, H, W, 1 or 3), or float32 (N, C, H, W)"
        )
    return images if first else np.moveaxis(images, 3, 1)


def _check_keys(present: Sequence[str], keys: Sequence[str], path: Path) -> None:
    missing = [key for key in keys if key not in present]
    if missing:
        hint = suggest(missing[0], present)
        raise UsageError(
            f"{path}: has no array {', '.join(missing)}{hint} (it has: {', '.join(present) or 'none'}; "
            f"needed: {', '.join(keys)}; optional: x_validation, y_validation, classes)"
        )


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Translate everything that can be wrong with an npz file."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                raise UsageError(f"{path}: is a single array (.npy); save several with numpy.savez")
            if not zipfile.is_zipfile(file):
                raise UsageError(f"{path}: is no npz file, or is truncated ({path.stat().st_size} bytes)")
        yield
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file") from error
    except ValueError as error:
        mend = "; save arrays of numbers (not of dtype object) with numpy.savez" if "pickle" in str(error) else ""
        raise UsageError(f"{path}: is damaged: {error}{mend}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
