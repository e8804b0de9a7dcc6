"""Networks between the parts of a long work: kept in its checkpoint, so that an interrupted run goes on from there."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edgekd import models
from edgekd.artifact import write_text
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
        write_text(folder / FACTS, json.dumps(facts, allow_nan=False))


def kept(folder: Path) -> tuple[Description, nn.Module, dict[str, Any]] | None:
    """Return what `keep` left in a folder, or None; what is damaged counts as absent, with a warning."""
    if not (folder / FACTS).is_file():
        return None
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return models.describe(folder), models.load(folder), facts
    except (StageError, OSError, ValueError) as error:
        logging.getLogger(__name__).warning("%s cannot be used: %s; it is made again", folder, error)
        if ranks.world()[0] == 0:
            shutil.rmtree(folder, ignore_errors=True)
        return None
