"""The same samples as arrays, images in folders, and tar files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"train": 60, "test": 12}
CLASSES = ("a", "b", "c")


def samples(shape: tuple[int, ...] = (6, 5), seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return uint8 pixels and labels by split, in the order of the classes, as folders have them."""
    generator = np.random.default_rng(seed)
    return {
        split: (generator.integers(0, 256, (count, *shape), np.uint8), np.arange(count) * len(CLASSES) // count)
        for split, count in COUNTS.items()
    }


def write_arrays(root: Path, content: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for split, (inputs, labels) in content.items():
        np.save(root / f"x_{split}.npy", inputs)
        np.save(root / f"y_{split}.npy", labels)
    return root


def write_images(root: Path, content: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    for split, (inputs, labels) in content.items():
        for index, (image, label) in enumerate(zip(inputs, labels, strict=True)):
            folder = root / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index:04}.png").write_bytes(encoded(image, "png"))
    return root


def write_shards(
    root: Path, content: Mapping[str, tuple[np.ndarray, np.ndarray]], suffix: str = "png", per_shard: int = 16
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for split, (inputs, labels) in content.items():
        for number, begin in enumerate(range(0, len(inputs), per_shard)):
            members: dict[str, bytes] = {}
            for index in range(begin, min(begin + per_shard, len(inputs))):
                members[f"{index:06}.{suffix}"] = encoded(inputs[index], suffix)
                members |= label_of(index, int(labels[index]))
            write_tar(root / f"{split}-{number:06}.tar", members)
    return root


def label_of(index: int, label: int) -> dict[str, bytes]:
    """Return every second label as text, every other one as JSON."""
    if index % 2:
        return {f"{index:06}.json": json.dumps({"label": label, "source": "x"}).encode()}
    return {f"{index:06}.cls": f"{label}\n".encode()}


def encoded(array: np.ndarray, suffix: str) -> bytes:
    content = io.BytesIO()
    if suffix == "npy":
        np.save(content, array)
    else:
        Image.fromarray(array).save(content, {"jpg": "jpeg"}.get(suffix, suffix))
    return content.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes] | list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
