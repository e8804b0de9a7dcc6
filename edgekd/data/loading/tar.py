"""What is in one tar file of samples, and where."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.agent import npy
from edgekd.data.loading import images
from edgekd.data.loading.arrays import Array
from edgekd.data.loading.findings import Findings
from edgekd.data.loading.npz import network_inputs
from edgekd.data.loading.streaming import Indices
from edgekd.errors import UsageError

BLOCK = 512
"""Headers and contents of a tar file begin at multiples of so many bytes."""
IMAGE, ARRAY = "image", "array"
PIXEL = np.dtype(np.uint8).str
_INPUTS = frozenset({*(suffix[1:] for suffix in images.SUFFIXES), "npy"})
_LABELS = ("cls", "json")
_LARGEST_LABEL = 2**31
_TOLD = 1000  # members between two signs of life


@dataclass(frozen=True)
class Kind:
    """What the inputs are.

    Args:
        form: `IMAGE` or `ARRAY`.
        dtype: as numpy writes it, byte order included.
        shape: of one: (height, width), or that of the array.
    """

    form: str
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of_array(cls, array: Array) -> Kind:
        """Return the kind of an array."""
        return cls(ARRAY, array.dtype.str, array.shape)

    def __str__(self) -> str:
        if self.form == IMAGE:
            return f"images of {images.told(self.shape)}"
        return f"arrays {np.dtype(self.dtype)} {self.shape}"


@dataclass(frozen=True, eq=False)
class Shard:
    """A tar file of samples.

    Args:
        grey: whether all images are.
        places: of the inputs (N, 2): where the content begins, and how many bytes it has.
        labels: int64 (N,).
        digest: sha256 (hex) over names and contents of all inputs and labels.
    """

    path: Path
    kind: Kind
    grey: bool
    places: Indices
    labels: Indices
    digest: str


def index(path: Path, findings: Findings) -> Shard:
    """Return what is in a tar file; it is read once, from its beginning to its end.

    Raises:
        UsageError: It is damaged or truncated, a sample lacks its input or label or has two, or the inputs differ in
            kind.
    """
    known = findings.get("tar", [(os.path.realpath(path), _state(path))], lambda: _find(path, findings))
    kind = Kind(str(known["form"]), str(known["dtype"]), tuple(known["shape"].tolist()))
    return Shard(path, kind, bool(known["grey"]), known["places"], known["labels"], str(known["digest"]))


def array_of(content: bytes, where: str) -> Array:
    """Return the array of an `.npy` member.

    Raises:
        UsageError: It is none.
    """
    try:
        return npy.array(BytesIO(content), len(content))
    except ValueError as error:
        raise UsageError(f"{where}: is no array of numbers: {error}") from error


@dataclass
class _Sample:
    """A sample while its members are read."""

    members: dict[str, str]
    kind: Kind | None = None
    grey: bool = True
    place: tuple[int, int] = (0, 0)
    label: int | None = None


def _find(path: Path, findings: Findings) -> dict[str, Any]:
    samples: dict[str, _Sample] = {}
    total = hashlib.sha256()
    for number, (name, begin, content) in enumerate(_members(path)):
        folder, _, base = name.rpartition("/")
        key, suffix = f"{folder}/{base.partition('.')[0]}".lstrip("/"), base.partition(".")[2].lower()
        part = "input" if suffix in _INPUTS else suffix
        sample = samples.setdefault(key, _Sample({}))
        if part in sample.members:
            raise UsageError(
                f"{path}: the sample {key} has two members for its {'input' if part == 'input' else 'label'}, "
                f"{sample.members[part]} and {name}; each sample needs a key of its own"
            )
        sample.members[part] = name
        total.update(f"{name}:{len(content)}:".encode(errors="surrogateescape"))
        total.update(content)
        where = f"{path}: {name}"
        if part == "input":
            sample.kind, sample.grey = _kind(content, suffix, where)
            sample.place = begin, len(content)
        elif suffix == "cls" or "cls" not in sample.members:
            sample.label = _label(content, suffix, where, sample.label)
        if number % _TOLD == 0:
            findings.progress(begin, _state(path).st_size, f"{path.name}: index and digest")
    first = _checked(samples, path)
    return {
        "form": first.form, "dtype": first.dtype, "shape": np.array(first.shape, np.int64),
        "grey": all(sample.grey for sample in samples.values()),
        "places": np.array([sample.place for sample in samples.values()], np.int64),
        "labels": np.array([sample.label for sample in samples.values()], np.int64),
        "digest": total.hexdigest(),
    }  # fmt: skip


def _members(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, place and content of the members that can be inputs and labels."""
    end = 0
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            size = os.fstat(file.fileno()).st_size
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK if member.isreg() else member.offset_data
                suffix = member.name.rpartition("/")[2].partition(".")[2].lower()
                if member.isreg() and not member.issparse() and suffix in _INPUTS.union(_LABELS):
                    file.seek(member.offset_data)
                    content = file.read(min(member.size, size - member.offset_data))
                    if len(content) < member.size:
                        raise UsageError(
                            f"{path}: is truncated: {member.name} has {len(content)} of {member.size} bytes"
                        )
                    yield member.name, member.offset_data, content
            file.seek(end)
            last = file.read(BLOCK)
    except tarfile.TarError as error:
        raise UsageError(
            f"{path}: is no tar file, or is damaged: {error} (compressed ones must be unpacked: .tar.gz to .tar)"
        ) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    # Of a header that is damaged or cut, tarfile makes the end of the file.
    if len(last) < BLOCK:
        raise UsageError(f"{path}: is truncated: it has no end mark after byte {end}")
    if any(last):
        raise UsageError(f"{path}: is damaged: there is no tar header at byte {end}")


def _kind(content: bytes, suffix: str, where: str) -> tuple[Kind, bool]:
    """Return of what kind an input is, and whether it is a grey image."""
    if suffix != "npy":
        size, grey = images.look(BytesIO(content), where)
        return Kind(IMAGE, PIXEL, size), grey
    array = array_of(content, where)
    inputs = network_inputs(array[None], where)
    if np.issubdtype(inputs.dtype, np.floating) and not np.isfinite(inputs).all():
        raise UsageError(f"{where}: has values that are not finite (NaN or Inf)")
    return Kind.of_array(array), True


def _label(content: bytes, suffix: str, where: str, known: int | None) -> int | None:
    """Return the label that a member gives; a JSON text need not have one."""
    try:
        value = int(content) if suffix == "cls" else json.loads(content)
    except (ValueError, RecursionError) as error:
        wanted = "an integer" if suffix == "cls" else "JSON"
        raise UsageError(f"{where}: is not {wanted}: {content[:40]!r}") from error
    if suffix == "json":
        if not isinstance(value, dict) or "label" not in value:
            return known
        value = value["label"]
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"{where}: the label is {value!r:.40}; it must be an integer")
    if abs(value) > _LARGEST_LABEL:
        raise UsageError(f"{where}: the label is larger than {_LARGEST_LABEL}")
    return value


def _checked(samples: dict[str, _Sample], path: Path) -> Kind:
    """Return the kind of all inputs."""
    first: Kind | None = None
    for key, sample in samples.items():
        if sample.kind is None:
            raise UsageError(
                f"{path}: the sample {key} has no input ({', '.join(f'.{one}' for one in sorted(_INPUTS))})"
            )
        if sample.label is None:
            raise UsageError(f'{path}: the sample {key} has no label ({key}.cls, or {key}.json with "label")')
        first = first or sample.kind
        if sample.kind != first:
            raise UsageError(
                f"{path}: {sample.members['input']} is of another kind than the inputs before it, {sample.kind} and "
                f"{first}; all must be alike: scale images first"
            )
    if first is None:
        raise UsageError(f"{path}: has no samples (KEY.png with KEY.cls)")
    return first


def _state(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
