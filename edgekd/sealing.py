"""JSON files that are sealed: see `edgekd.agent.sealing`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.agent.files import write_sealed
from edgekd.agent.sealing import SEAL, fits


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    write_sealed(path, content)


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
