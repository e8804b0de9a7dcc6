"""The figures of a run that a later one is compared with, as a JSON file that is kept in git.

What a person reviews comes first, one figure a line; then what else may explain a change; last, for each sample of the
test split, whether it was right, so that a later run is compared sample by sample.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from edgekd.artifact import write_text
from edgekd.document import Frozen, check_dict
from edgekd.errors import UsageError
from edgekd.report.baseline.figures import FigureName
from edgekd.report.reading import read_json
from edgekd.report.statistics import FloatArray

SCHEMA = 1
_MOST_SAMPLES = 100_000_000

Name = Annotated[str, Field(min_length=1, max_length=255)]
Positive = Annotated[float, Field(ge=0, le=1e15)]


class Figure(Frozen):
    """A figure with its 95 % interval, where it has one."""

    value: Positive
    ci: tuple[Positive, Positive] | None = None


class Device(Frozen):
    """What was measured on a device.

    Args:
        error: Why there is nothing of it.
        pending: Whether that is because it was not reached yet.
        runtime: Its name and version.
        processor: What it is.
        noise_floor: The relative difference of two times that counts as none.
        energy_scope: What the energy is that of.
        macs: Multiply-accumulates of the reference, to which times and energies are ratios.
        recommended: The variant to use there.
        variants: By name, by kind of figure; a variant that failed there has none.
        failed: Why, by variant.
    """

    error: str | None = None
    pending: bool = False
    runtime: str | None = None
    processor: str | None = None
    batch_size: int | None = None
    noise_floor: Positive | None = None
    energy_scope: str | None = None
    macs: int | None = None
    recommended: str | None = None
    variants: dict[Name, dict[FigureName, Figure]] = Field(default_factory=dict)
    failed: dict[Name, str] = Field(default_factory=dict)


class Data(Frozen):
    """What was measured on. `labels`: sha256 of the labels of the test split, in their order."""

    digest: str | None = None
    labels: str | None = None
    samples: Annotated[int, Field(ge=0, le=_MOST_SAMPLES)] | None = None


class Snapshot(Frozen):
    """The content of a baseline file. `right`: by device, variant and figure, one bit per sample in base64."""

    baseline: Literal[1]
    edgekd: str
    run: str
    kind: str
    recipe: str | None = None
    task: str
    reference: str | None = None
    data: Data = Data()
    tolerances: dict[FigureName, Positive] = Field(default_factory=dict)
    devices: Annotated[dict[Name, Device], Field(min_length=1)]
    versions: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, str] = Field(default_factory=dict)
    right: dict[str, dict[str, dict[FigureName, str]]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _bits_fit(self) -> Self:
        for device, variants in self.right.items():
            for variant, figures in variants.items():
                for figure, text in figures.items():
                    if _unpacked(text, self.data.samples or 0) is None:
                        raise ValueError(f"right.{device}.{variant}.{figure} is not one bit per sample in base64")
        return self

    def scores(self, device: str, variant: str, figure: FigureName) -> FloatArray | None:
        """1 for each sample of the test split that was right (or agreed), else 0 [N]; None where that is not kept."""
        text = self.right.get(device, {}).get(variant, {}).get(figure)
        return None if text is None else _unpacked(text, self.data.samples or 0)


def packed(scores: FloatArray) -> str:
    """Scores of 0 and 1 as base64 of their bits, the first sample in the highest bit."""
    return base64.b64encode(np.packbits(scores.astype(bool)).tobytes()).decode()


def _unpacked(text: str, samples: int) -> FloatArray | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    bits = np.unpackbits(np.frombuffer(raw, np.uint8))
    return bits[:samples].astype(np.float64) if len(bits) == -(-samples // 8) * 8 else None


def read(path: Path) -> Snapshot:
    """Read a baseline file.

    Raises:
        UsageError: There is none, it is of another version, or something in it is not as it must be.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such baseline; make one: edgekd baseline write RUN {path}")
    content = read_json(path)
    if "baseline" not in content:
        raise UsageError(f"{path} is no baseline: edgekd baseline write RUN FILE makes one")
    if content["baseline"] != SCHEMA:
        raise UsageError(
            f"{path} is a baseline of version {content['baseline']!r}; this edgekd reads version {SCHEMA}. It was "
            f"written by edgekd {content.get('edgekd', 'of an unknown version')}: write it again from a run"
        )
    return check_dict(content, Snapshot, str(path))


def read_old(path: Path) -> Snapshot | None:
    """Read what a new baseline would replace; None where there is nothing, or one of another version.

    Raises:
        UsageError: The file is something else.
    """
    if not path.exists():
        return None
    content = read_json(path)
    if content.get("baseline") not in (None, SCHEMA):
        return None
    return read(path)


def write(snapshot: Snapshot, path: Path) -> None:
    """Write a baseline file: the old one or the new, never a part."""
    write_text(path, text(snapshot))


def text(snapshot: Snapshot) -> str:
    """Return the JSON text of a baseline: one figure a line, what is empty left out."""
    return _json(_slim(snapshot.model_dump(mode="json", exclude_defaults=True)), 0) + "\n"


def _slim(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if value not in ({}, None)}


def _json(value: Any, depth: int) -> str:
    """JSON with a line for each key, but for a figure, which is one line as a whole."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Mapping) and set(value) <= {"value", "ci"}:
        return f"{{{', '.join(f'{json.dumps(key)}: {_json(item, depth)}' for key, item in value.items())}}}"
    if not isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not value:
        return "{}"
    inner = ",\n".join(
        f"{'  ' * (depth + 1)}{json.dumps(key, ensure_ascii=False)}: {_json(item, depth + 1)}"
        for key, item in value.items()
    )
    return f"{{\n{inner}\n{'  ' * depth}}}"
