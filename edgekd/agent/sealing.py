"""JSON documents with the checksum of their own content: a bit that flips on a disk is noticed, not believed."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, Mapping

SEAL = "seal"


def digest_of(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON: keys in order, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sealed(content: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what a file shall hold: the content with its checksum.

    Args:
        content: as JSON holds it; a seal that it has is replaced.
    """
    unsealed = {key: value for key, value in content.items() if key != SEAL}
    return dict(unsealed, **{SEAL: digest_of(unsealed)})


def fits(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a file is what was sealed; one that never was does not fit."""
    return bool(content.get(SEAL) == sealed(content)[SEAL])
