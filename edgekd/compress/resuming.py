"""Networks between the parts of a long work: kept in its checkpoint, so that an interrupted run goes on from there."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edgekd import models, sealing
from edgekd.artifact import file_digest
from edgekd.errors import StageError
from edgekd.models import Description
from edgekd.training import ranks

FACTS = "facts.json"
"""Written last: what lies beside it is whole."""


def keep(folder: Path, description: Description, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Keep a network and what is known of it; of several processes the first one does."""
    if ranks.world()[0] == 0:
        folder.mkdir(parents=True, exist_ok=True)
        models.save(folder, description, model.state_dict())
        sealing.write(folder / FACTS, {"facts": facts, "files": _digests(folder)})


def kept(folder: Path) -> tuple[Description, nn.Module, dict[str, Any]] | None:
    """Return what `keep` left in a folder, or None; what is damaged counts as absent, with a warning."""
    if not (folder / FACTS).is_file():
        return None
    try:
        known = sealing.read(folder / FACTS)
        if known["files"] != _digests(folder):
            raise ValueError("the checksum of a file does not fit")
        return models.describe(folder), models.load(folder), known["facts"]
    except (StageError, OSError, ValueError, KeyError) as error:
        logging.getLogger(__name__).warning("%s cannot be used: %s; it is made again", folder, error)
        if ranks.world()[0] == 0:
            shutil.rmtree(folder, ignore_errors=True)
        return None


def _digests(folder: Path) -> dict[str, str]:
    return {name: file_digest(folder / name) for name in (models.DESCRIPTION, models.WEIGHTS)}
