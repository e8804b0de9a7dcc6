"""What only a Jetson has: its board, its Linux for Tegra (L4T), its power modes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

from edgekd.agent.root import ROOT

_STATUS = "var/lib/nvpmodel/status"
_MODES = "etc/nvpmodel.conf"
_PROFILE = "sys/firmware/acpi/platform_profile"


def power_mode(root: Path = ROOT) -> Optional[str]:
    """Return the power mode: "MAXN_SUPER (id 2)" of a Jetson, "id 2" where no file names it, a PC's platform profile.

    Files only; the mode's number means nothing without the board: MAXN_SUPER is 0 on an Orin NX and 2 on an Orin Nano.
    """
    found = re.search(r"pmode:\s*(\d+)", _text(root / _STATUS))
    if not found:
        return _text(root / _PROFILE).strip() or None
    number = int(found.group(1))
    names = dict(re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", _text(root / _MODES), re.MULTILINE))
    name = {int(key): value for key, value in names.items()}.get(number)
    return "%s (id %d)" % (name, number) if name else "id %d" % number


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
