"""JSON files that are sealed: see `edgekd.agent.sealing`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.agent.sealing import SEAL, fits, sealed
from edgekd.artifact import write_text


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
