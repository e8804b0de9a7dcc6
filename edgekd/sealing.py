"""JSON files with the checksum of their own content, so that a bit that flips on a disk is noticed, not believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.artifact import digest_of, write_text

SEAL = "seal"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file shall hold: the content with its checksum."""
    unsealed = {key: value for key, value in content.items() if key != SEAL}
    return {**unsealed, SEAL: digest_of(unsealed)}


def fits(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a file is what was sealed; one that never was does not fit."""
    return bool(content.get(SEAL) == sealed(content)[SEAL])


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    write_text(path, json.dumps(sealed(plain), indent=1))


def read(path: Path) -> dict[str, Any]:
    """Return the content of a file that `write` wrote.

    Raises:
        ValueError: It is damaged.
        OSError: It cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict) or not fits(content):
        raise ValueError("its checksum does not fit")
    return {key: value for key, value in content.items() if key != SEAL}
