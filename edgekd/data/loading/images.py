"""Image files, read with Pillow: PNG, JPEG and BMP, 8-bit grey or colour."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgekd.data.loading.arrays import Array, pixel_preprocessing, pixels
from edgekd.errors import UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
_GREY = frozenset({"1", "L"})
_COLOUR = frozenset({"RGB", "RGBA", "P"})
_SCALE = 1 / 255


def look(file: Path | IO[bytes], where: str) -> tuple[tuple[int, int], bool]:
    """Return the (height, width) of an image, and whether it is grey; its pixels are not read.

    Raises:
        UsageError: It is no image, or of another kind.
    """
    with _image(file, where) as image:
        if image.mode not in _GREY | _COLOUR:
            raise UsageError(f"{where}: is of mode {image.mode}; save it as 8-bit grey or RGB")
        return image.size[::-1], image.mode in _GREY


def content(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error


def decode(file: Path | IO[bytes], mode: str, size: tuple[int, ...], where: str) -> Array:
    """Return the pixels of an image, uint8, (H, W) in mode "L", (H, W, 3) in mode "RGB".

    Raises:
        UsageError: It is no image, damaged, or not of the (height, width) it should be.
    """
    with _image(file, where) as image:
        if image.size[::-1] != size:
            raise UsageError(f"{where}: is not {told(size)}, as it was when the data were read first")
        try:
            return np.asarray(image.convert(mode))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            raise UsageError(f"{where}: the image is damaged: {error}") from error


def stored(count: int, size: tuple[int, ...], mode: str) -> Array:
    """Return room for so many decoded images, (N, H, W) or (N, H, W, 3)."""
    return np.empty((count, *size, *([3] if mode == "RGB" else [])), np.uint8)


def network_images(images: Array, mode: str) -> Array:
    """Return decoded images as a network takes them: float32 (N, 1 or 3, H, W) in [0, 1]."""
    first = images[:, None] if mode == "L" else np.moveaxis(images, 3, 1)
    return np.ascontiguousarray(pixels(first, scale=_SCALE, mean=0.0, std=1.0))


def preprocessing(mode: str) -> dict[str, object]:
    """Describe what `network_images` does."""
    return {**pixel_preprocessing(scale=_SCALE), "mode": mode}


def told(size: tuple[int, ...]) -> str:
    """Return a (height, width) as it is said: "5 x 6 pixels", the width first."""
    return f"{size[1]} x {size[0]} pixels"


def _image(file: Path | IO[bytes], where: str) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError as error:
        raise UsageError(f"{where}: is no image") from error
    except Image.DecompressionBombError as error:
        raise UsageError(f"{where}: {error}") from error
    except (ValueError, SyntaxError) as error:  # of readers of single formats
        raise UsageError(f"{where}: is no image that can be read: {error}") from error
    except OSError as error:
        raise UsageError(f"{where}: cannot be read: {error.strerror or error}") from error
