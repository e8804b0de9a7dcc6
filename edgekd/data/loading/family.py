"""The MNIST family: four IDX files, or one npz with the same arrays, found on disk or fetched from their mirrors.

Whatever the form, the content is checked against the sha256 of the official IDX files, uncompressed: the files of
different members of the family have the same names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.data.loading import idx, npz
from edgekd.data.loading.arrays import Array, Source, Split, pixel_preprocessing, pixels
from edgekd.data.loading.fetching import fetch
from edgekd.errors import UsageError

FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
_SCALE = 1 / 255


@dataclass(frozen=True)
class Family:
    """A data set of the family.

    Args:
        name: as in YAML, also the folder's name.
        folder: the name that other software gives the folder.
        sha256: of each uncompressed IDX file, by the key of `FILES`.
        mirrors: addresses of the folder with the gzipped files, tried in this order.
        mean, std: of the training images, scaled to [0, 1].
    """

    name: str
    folder: str
    sha256: Mapping[str, str]
    mirrors: tuple[str, ...]
    mean: float
    std: float
    classes: tuple[str, ...]


def describe(family: Family, data_dir: Path) -> str:
    """Return where the data are, or whence they will come."""
    found = _found(family, data_dir)
    if found is None:
        return f"{family.name} will be downloaded to {data_dir / family.name} from {family.mirrors[0]}"
    return f"{family.name} in {next(iter(found.values())).parent}"


def load(family: Family, data_dir: Path, progress: Callable[[int, int, str], None]) -> Source:
    """Read the data set: inputs float32 (N, 1, 28, 28), standardised.

    Raises:
        UsageError: It is neither there nor to be had, or a file is damaged or not the official one.
    """
    found = _found(family, data_dir) or _download(family, data_dir, progress)
    if "npz" in found:
        arrays = npz.arrays(found["npz"], tuple(FILES))
    else:
        arrays = {key: idx.read(path) for key, path in found.items()}
    for key, array in arrays.items():
        _check_content(family, key, array, found.get(key, found.get("npz", data_dir)))

    def split(name: str) -> Split:
        images = pixels(arrays[f"x_{name}"], scale=_SCALE, mean=family.mean, std=family.std)
        return Split(images[:, None], arrays[f"y_{name}"].astype(np.int64))

    preprocessing = pixel_preprocessing(scale=_SCALE, mean=family.mean, std=family.std)
    return Source(split("train"), None, split("test"), family.classes, preprocessing)


def _check_content(family: Family, key: str, array: Array, path: Path) -> None:
    content = hashlib.sha256(idx.header(array))
    content.update(np.ascontiguousarray(array).data)
    if array.dtype != np.uint8 or content.hexdigest() != family.sha256[key]:
        where = key if path.suffix == ".npz" else FILES[key]
        raise UsageError(
            f"{path}: {where} is not the official {family.name} "
            f"({array.dtype} {array.shape}, sha256 as IDX {content.hexdigest()[:16]}..., "
            f"expected {family.sha256[key][:16]}...); your own data are read from any other .npz"
        )


def _folders(family: Family, data_dir: Path) -> Iterator[Path]:
    """Yield the folders that are searched: those of this data set before the one that others share."""
    for name in (family.name, family.name.replace("-", "_"), family.folder):
        yield data_dir / name
        yield data_dir / name / "raw"
    yield data_dir


def _found(family: Family, data_dir: Path) -> dict[str, Path] | None:
    for folder in _folders(family, data_dir):
        for name in (family.name, family.name.replace("-", "_")):
            if (folder / f"{name}.npz").is_file():
                return {"npz": folder / f"{name}.npz"}
        files = {key: path for key in FILES if (path := _file(folder, key)) is not None}
        if len(files) == len(FILES):
            return files
    return None


def _file(folder: Path, key: str) -> Path | None:
    names = (FILES[key], FILES[key].replace("-idx", ".idx"))  # both spellings are in circulation
    candidates = (folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _download(family: Family, data_dir: Path, progress: Callable[[int, int, str], None]) -> dict[str, Path]:
    folder = data_dir / family.name
    paths: dict[str, Path] = {}
    for done, key in enumerate(FILES):
        progress(done, len(FILES), f"{family.name}: {FILES[key]}")
        name = f"{FILES[key]}.gz"
        present = _file(folder, key)
        try:
            paths[key] = present or fetch(
                [mirror + name for mirror in family.mirrors], folder / name, family.sha256[key]
            )
        except OSError as error:
            raise UsageError(
                f"{family.name} is not in {data_dir} and could not be downloaded:\n  "
                + "\n  ".join(str(error).split("\n"))
                + f"\nPut these files into {folder}:\n  {', '.join(FILES.values())} (or each with .gz)\n"
                f"or one {family.name}.npz with the arrays {', '.join(FILES)} (uint8).\n"
                "Another folder is named by --data-dir or the environment variable EDGEKD_DATA."
            ) from error
    progress(len(FILES), len(FILES), family.name)
    return paths
