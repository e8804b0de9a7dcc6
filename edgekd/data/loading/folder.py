"""A user's images in folders: `ROOT/train/CLASS/*.png`, `ROOT/test/CLASS/*.png`, optionally `ROOT/validation/...`.

PNG, JPEG and BMP of one size. All grey: (N, 1, H, W); else all as RGB: (N, 3, H, W); float32 in [0, 1].
The classes are the folders in `train`, in alphabetical order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgekd.data.loading.arrays import Source, Split, pixel_preprocessing, pixels
from edgekd.document import suggest
from edgekd.errors import UsageError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
_VALIDATION = ("validation", "val", "valid")
_GREY = frozenset({"1", "L"})
_COLOUR = frozenset({"RGB", "RGBA", "P"})


def describe(root: Path) -> str:
    """Return what is in the folder; no image is read.

    Raises:
        UsageError: A split, or the images of a class, are missing.
    """
    counts = {name: len(files) for name, files in _files(root).items()}
    return f"{root} with {', '.join(f'{count} {name}' for name, count in counts.items())} images"


def load(root: Path) -> Source:
    """Read the images.

    Raises:
        UsageError: A split or class has no images, or one cannot be read or differs in size from the others.
    """
    files = _files(root)
    classes = tuple(dict.fromkeys(label for label, _ in files["train"]))
    every = [path for listed in files.values() for _, path in listed]
    size, modes = _headers(every)
    mode = "L" if modes <= _GREY else "RGB"
    splits: dict[str, Split] = {}
    for name, listed in files.items():
        images = np.empty((len(listed), *size[::-1], *([3] if mode == "RGB" else [])), np.uint8)
        for index, (_, path) in enumerate(listed):
            images[index] = _read(path, mode)
        first = images[:, None] if mode == "L" else np.moveaxis(images, 3, 1)
        targets = np.array([classes.index(label) for label, _ in listed], np.int64)
        splits[name] = Split(np.ascontiguousarray(pixels(first, scale=1 / 255, mean=0.0, std=1.0)), targets)
    preprocessing = {**pixel_preprocessing(scale=1 / 255), "mode": mode}
    return Source(splits["train"], splits.get("validation"), splits["test"], classes, preprocessing)


def _files(root: Path) -> dict[str, list[tuple[str, Path]]]:
    """Return (class, file) of every image by split, in the order of their names."""
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
    files = {split: _classes(root / name) for split, name in folders.items()}
    known = dict.fromkeys(label for label, _ in files["train"])
    for split, listed in files.items():
        for label, path in listed:
            if label not in known:
                raise UsageError(
                    f'{path.parent}: the class "{label}" is not in {root / "train"}{suggest(label, known)} '
                    f"({split} may have only the classes of train: {', '.join(known)})"
                )
    return files


def _classes(folder: Path) -> list[tuple[str, Path]]:
    labels = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found: list[tuple[str, Path]] = []
    for label in labels:
        images = sorted(path for path in label.iterdir() if path.suffix.lower() in _SUFFIXES)
        if not images:
            raise UsageError(f"{label}: has no images ({', '.join(sorted(_SUFFIXES))})")
        found += [(label.name, path) for path in images]
    if not found:
        raise UsageError(f"{folder}: has no folders; images lie in {folder}/CLASS")
    return found


def _headers(paths: list[Path]) -> tuple[tuple[int, int], set[str]]:
    """Return the (width, height) of all images, and their colour modes."""
    size: tuple[int, int] | None = None
    modes: set[str] = set()
    for path in paths:
        with _image(path) as image:
            if image.mode not in _GREY | _COLOUR:
                raise UsageError(f"{path}: is of mode {image.mode}; save it as 8-bit grey or RGB")
            size = size or image.size
            if image.size != size:
                raise UsageError(
                    f"{path}: is {image.size[0]} x {image.size[1]} pixels, {paths[0]} is {size[0]} x {size[1]}; "
                    "all images must have one size: scale them first"
                )
            modes.add(image.mode)
    assert size is not None
    return size, modes


def _read(path: Path, mode: str) -> np.ndarray:
    with _image(path) as image:
        try:
            return np.asarray(image.convert(mode))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            raise UsageError(f"{path}: the image is damaged: {error}") from error


def _image(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except UnidentifiedImageError as error:
        raise UsageError(f"{path}: is no image") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
