"""What `edgekd cache` does: list, verify and clean the store."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from edgekd import artifact
from edgekd.artifact import Store

DAY_S = 86400.0


@dataclass(frozen=True)
class Entry:
    """One folder of the store.

    Args:
        kind: "artifact", "partial" (work in progress or interrupted), or "set-aside" (failed its check).
        used_at: seconds since the epoch.
    """

    kind: str
    path: Path
    size_bytes: int
    used_at: float


def entries(store: Store) -> Iterator[Entry]:
    """Yield everything in the store, the newest first."""
    folders = [
        (kind, path)
        for kind, folder in (("artifact", "artifacts"), ("partial", "partial"), ("set-aside", "set-aside"))
        for path in (store.root / folder).glob("*")
    ]
    for kind, path in sorted(folders, key=lambda item: -item[1].stat().st_mtime):
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        yield Entry(kind, path, size, path.stat().st_mtime)


def problems(store: Store) -> dict[str, str]:
    """Return what is wrong with each corrupted artifact, by name."""
    checked = {path.name: artifact.check(path) for path in sorted((store.root / "artifacts").glob("*"))}
    return {name: problem for name, problem in checked.items() if problem is not None}


def removable(store: Store, older_than_days: float) -> list[Entry]:
    """Return what may go: all that was set aside, and what nobody used for so many days. Work in progress stays."""
    limit = time.time() - older_than_days * DAY_S
    return [
        entry
        for entry in entries(store)
        if entry.kind == "set-aside" or (entry.used_at < limit and not _in_use(store, entry))
    ]


def remove(entry: Entry) -> None:
    """Delete an entry: renamed first, so that an interrupted deletion leaves no half artifact."""
    doomed = entry.path.with_name(f".doomed-{entry.path.name}")
    entry.path.replace(doomed)
    shutil.rmtree(doomed)


def _in_use(store: Store, entry: Entry) -> bool:
    lock = FileLock(store.root / "locks" / f"{entry.path.name}.lock")
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True
