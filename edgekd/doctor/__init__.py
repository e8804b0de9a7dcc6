"""What is installed here, what of it works, and what each thing that is missing would give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edgekd.doctor import machine, packages, places
from edgekd.doctor.finding import Finding

__all__ = ["Finding", "examine", "verdict"]


def examine(data_dir: Path | None = None) -> list[Finding]:
    """Look at this installation and its machine, without changing anything and without loading torch.

    Args:
        data_dir: where data sets lie. Default: EDGEKD_DATA.
    """
    return [*packages.findings(), *machine.findings(), *places.findings(data_dir)]


def verdict(findings: Sequence[Finding]) -> str:
    """Return in one sentence how an installation is."""
    counts = Counter(one.state for one in findings)
    broken = [one.name for one in findings if one.state == "broken"]
    told = f"{len(broken)} broken: {', '.join(broken)}" if broken else "what is installed works"
    return f"{told}; {counts['missing']} optional parts are missing" if counts["missing"] else told
