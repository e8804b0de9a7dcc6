"""What `edgekd cache` does: list, verify and clean the store."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from edgekd import artifact, log
from edgekd.artifact import Store

DAY_S = 86400.0
DOOMED = ".doomed-"
KINDS = {"artifact": "artifacts", "partial": "partial", "set-aside": "set-aside", "log": log.FOLDER}
"""The folder of each kind of entry."""


@dataclass(frozen=True)
class Entry:
    """One folder of the store, or the log of a run.

    Args:
        kind: "artifact", "partial" (work in progress or interrupted), "set-aside" (failed its check), or "log" (of a
            run that works or did not finish).
        used_at: seconds since the epoch.
    """

    kind: str
    path: Path
    size_bytes: int
    used_at: float


def entries(store: Store) -> Iterator[Entry]:
    """Yield everything in the store, the newest first."""
    found = [
        entry
        for kind, folder in KINDS.items()
        for path in (store.root / folder).glob("*")
        if (entry := _entry(kind, path)) is not None
    ]
    yield from sorted(found, key=lambda entry: -entry.used_at)


def problems(store: Store) -> dict[str, str]:
    """Return what is wrong with each corrupted artifact, by name."""
    checked = {path.name: artifact.check(path) for path in artifacts(store)}
    return {name: problem for name, problem in checked.items() if problem is not None}


def artifacts(store: Store) -> list[Path]:
    """Return the folders of all finished artifacts."""
    return sorted(path for path in (store.root / "artifacts").glob("*") if not path.name.startswith(DOOMED))


def removable(store: Store, older_than_days: float) -> list[Entry]:
    """Return what may go: all that was set aside, and what nobody used for so many days. Work in progress stays."""
    limit = time.time() - older_than_days * DAY_S
    return [
        entry
        for entry in entries(store)
        if entry.kind == "set-aside" or (entry.used_at < limit and not _in_use(store, entry))
    ]


def remove(store: Store, entry: Entry) -> bool:
    """Delete an entry, and return whether it was: one that somebody works on or has used since stays.

    It is renamed first, so that an interrupted deletion leaves no half artifact.
    """
    doomed = entry.path.with_name(f"{DOOMED}{entry.path.name.removeprefix(DOOMED)}")
    try:
        with _lock(store, entry).acquire(timeout=0):
            if entry.path.stat().st_mtime > entry.used_at:
                return False
            entry.path.replace(doomed)
    except (Timeout, FileNotFoundError):
        return False
    if doomed.is_dir():
        shutil.rmtree(doomed)
    else:
        doomed.unlink()
    return True


def _entry(kind: str, path: Path) -> Entry | None:
    """Return a folder as an entry; None where another run has just taken it away."""
    try:
        files = path.rglob("*") if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files if file.is_file())
        return Entry(kind, path, size, path.stat().st_mtime)
    except FileNotFoundError:
        return None


def _in_use(store: Store, entry: Entry) -> bool:
    try:
        with _lock(store, entry).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _lock(store: Store, entry: Entry) -> FileLock:
    return FileLock(store.root / "locks" / f"{entry.path.name}.lock")
