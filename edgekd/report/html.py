"""report.html: one self-contained page of a report, without any network request."""

from __future__ import annotations

import json
from typing import Any


def render(report: dict[str, Any]) -> str:
    """Return the page."""
    return json.dumps(report)
