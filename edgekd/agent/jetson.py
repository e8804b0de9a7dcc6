"""What only a Jetson has: its Linux for Tegra (L4T), its power modes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict, Optional

from edgekd.agent.root import ROOT

_STATUS = "var/lib/nvpmodel/status"
_MODES = "etc/nvpmodel.conf"
_PROFILE = "sys/firmware/acpi/platform_profile"
_QUERY_SECONDS = 10.0

# A name for people and nothing else: behaviour follows what is found (TensorRT's version, its functions). An L4T that
# is not in this table has no name rather than its neighbour's; 36.5.0 is missing because sources disagree about it.
_JETPACKS: Dict[str, str] = {
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "35.6.3": "5.1.5",
    "35.6.4": "5.1.6",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.2": "6.2.3",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}


def l4t(root: Path = ROOT) -> Optional[str]:
    """Return the release of Linux for Tegra, "36.4.3", or None where this is none.

    From /etc/nv_tegra_release; where that is missing or says nothing, from the package nvidia-l4t-core.
    """
    found = re.search(r"R(\d+)\s*\(release\)\s*,\s*REVISION:\s*(\d+(?:\.\d+)*)", _text(root / "etc/nv_tegra_release"))
    if found:
        return "%s.%s" % found.groups()
    package = re.search(
        r"^Package: nvidia-l4t-core\n(?:.+\n)*?Version: (\d+(?:\.\d+)*)",
        _text(root / "var/lib/dpkg/status"),
        re.MULTILINE,
    )
    return package.group(1) if package else None


def jetpack(release: Optional[str]) -> Optional[str]:
    """Return the JetPack that came with an L4T release, or None for one that is not known."""
    return None if release is None else _JETPACKS.get(release)


def power_mode(root: Path = ROOT) -> Optional[str]:
    """Return the power mode: "MAXN_SUPER (id 2)" of a Jetson, "id 2" where no file names it, a PC's platform profile.

    Files only. The mode's number means nothing without the board: MAXN_SUPER is 0 on an Orin NX and 2 on an Orin Nano.
    """
    found = re.search(r"pmode:\s*(\d+)", _text(root / _STATUS))
    if not found:
        return _text(root / _PROFILE).strip() or None
    number = int(found.group(1))
    names = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", _text(root / _MODES), re.MULTILINE)
    name = {int(key): value for key, value in names}.get(number)
    return "%s (id %d)" % (name, number) if name else "id %d" % number


def queried_power_mode(root: Path = ROOT) -> Optional[str]:
    """Return the power mode as `power_mode` does; where files do not name it, by asking `nvpmodel -q`.

    That is a question only. A mode is never set from here: some modes ask on the terminal whether to reboot, and keep
    the old mode without a word where there is no terminal.
    """
    mode = power_mode(root)
    program = shutil.which("nvpmodel")
    if root != Path("/") or program is None or (mode is not None and not mode.startswith("id ")):
        return mode
    try:
        asked = subprocess.run(
            [program, "-q"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_QUERY_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return mode
    found = re.search(r"NV Power Mode:\s*(\S+)\s*\n\s*(\d+)", asked.stdout.decode("utf-8", "replace"))
    return "%s (id %s)" % found.groups() if found else mode


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
