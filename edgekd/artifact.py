"""The store: content-addressed, atomic, locked, self-verifying.

.edgekd/
  artifacts/<stage>-<key>/   files + manifest.json (written last, then the folder is renamed into place)
  partial/<stage>-<key>/     work in progress; the name follows from the key, so a checkpoint there is found again
  locks/                     one file lock per key; the operating system frees it when its holder dies
  set-aside/                 artifacts that failed their check, kept for a look
  logs/                      what unfinished runs did (log.py); a finished run has its own
  runs/                      reports and raw measurements
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgekd.agent.sealing import digest_of, fits, sealed
from edgekd.errors import StageError, UsageError

SCHEMA = 1
CHECKPOINT = "checkpoint"
"""The folder inside a partial artifact that survives an interruption and is removed when the work is done."""


class Abandoned(Exception):  # noqa: N818 - no error
    """Raised by work that is not worth going on with: nothing of it is kept, not even its checkpoint."""


@dataclass(frozen=True)
class Artifact:
    """A finished result: a folder of files with a manifest.

    Args:
        digest: sha256 over the files' names and contents. Two artifacts with one digest are the same.
        parts: what the key was made from, to tell later why another key differs.
    """

    path: Path
    stage: str
    key: str
    digest: str
    facts: Mapping[str, Any]
    parts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Store:
    """A folder of artifacts."""

    root: Path
    warn: Callable[[str], None] = print


def open_store(root: Path, warn: Callable[[str], None] = print) -> Store:
    """Return the store at a folder, which is made if needed.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        for name in ("artifacts", "partial", "locks", "runs"):
            (root / name).mkdir(parents=True, exist_ok=True)
        probe = root / "locks" / f".write-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"the store {root} cannot be written: {error.strerror}; set EDGEKD_HOME to a folder that can"
        ) from error
    return Store(root.resolve(), warn)


def default_root() -> Path:
    """Return where the store is: EDGEKD_HOME, else `.edgekd` in the working directory."""
    return Path(os.environ.get("EDGEKD_HOME") or ".edgekd")


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_name(stage: str, key: str) -> str:
    """Return the folder's name of a key: 128 of its bits are enough to never collide."""
    return f"{stage}-{key[:32]}"


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def find(store: Store, stage: str, key: str) -> Artifact | None:
    """Return a verified artifact; one that fails its check is set aside with a warning and counts as absent."""
    path = store.root / "artifacts" / folder_name(stage, key)
    if not path.is_dir():
        return None
    problem = check(path)
    if problem is None:
        artifact = read(path)
        if artifact.key == key:
            _mark_used(path)
            return artifact
        problem = f"its manifest names another key, {artifact.key[:16]}"
    _set_aside(store, path, problem)
    return None


def check(path: Path, *, contents: bool = True) -> str | None:
    """Return what is wrong with an artifact's folder, or None.

    Args:
        contents: read every file and compare its checksum; without it only the manifest and the names are checked.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if not fits(manifest):
            return "manifest.json does not match its own checksum"
        listed = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"manifest.json cannot be read ({type(error).__name__})"
    present = {name for name in _files(path) if name != "manifest.json"}
    if present != set(listed):
        return f"files are missing or were added: {', '.join(sorted(present ^ set(listed)))}"
    for name, sha256 in listed.items() if contents else ():
        try:
            if file_digest(path / name) != sha256:
                return f"{name} does not match its checksum"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def read(path: Path) -> Artifact:
    """Return the artifact in a folder that was checked."""
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    return Artifact(
        path=path,
        stage=manifest["stage"],
        key=manifest["key"],
        digest=manifest["digest"],
        facts=manifest["facts"],
        parts=manifest["parts"],
        seconds=manifest["seconds"],
    )


def build(
    store: Store, stage: str, parts: Mapping[str, Any], work: Callable[[Path], Mapping[str, Any]]
) -> tuple[Artifact, bool]:
    """Return the artifact for a key, made by `work` if it is not there.

    Args:
        parts: everything the result depends on; its digest is the key.
        work: fills the folder it is given and returns facts.

    Returns:
        The artifact, and whether it was there already (another run may have made it while this one waited).

    Raises:
        Abandoned: by the work.
        StageError: the disk is full or cannot be written.
    """
    key = digest_of(parts)
    name = folder_name(stage, key)
    with locked(store, name):
        found = find(store, stage, key)
        if found is not None:
            return found, True
        partial = store.root / "partial" / name
        try:
            partial.mkdir(exist_ok=True)
            _clear(partial)
            started = time.monotonic()
            facts = work(partial)
            seconds = time.monotonic() - started
            shutil.rmtree(partial / CHECKPOINT, ignore_errors=True)
            _seal(partial, stage, key, parts, facts, seconds)
            target = store.root / "artifacts" / name
            partial.replace(target)
        except Abandoned:
            shutil.rmtree(partial / CHECKPOINT, ignore_errors=True)
            raise
        except OSError as error:
            raise storage_error(stage, f"the store {store.root}", error) from error
        finally:
            _discard(partial)
    return read(target), False


@contextmanager
def locked(store: Store, name: str) -> Iterator[None]:
    """Hold the lock of a name; says so when another process holds it, and waits."""
    lock = FileLock(store.root / "locks" / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        store.warn(f"waiting: another run is making {name}")
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


def _seal(path: Path, stage: str, key: str, parts: Mapping[str, Any], facts: Mapping[str, Any], seconds: float) -> None:
    files = {name: file_digest(path / name) for name in _files(path)}
    manifest = {
        "schema": SCHEMA,
        "stage": stage,
        "key": key,
        "digest": digest_of(files),
        "files": files,
        "facts": dict(facts),
        "parts": dict(parts),
        "seconds": round(seconds, 3),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(path / "manifest.json", json.dumps(sealed(manifest), indent=1, allow_nan=False))


def _files(path: Path) -> list[str]:
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())


def _clear(partial: Path) -> None:
    """Empty a partial folder of all but its checkpoint."""
    for entry in partial.iterdir():
        if entry.name != CHECKPOINT:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _discard(partial: Path) -> None:
    """Remove what failed work left; a checkpoint stays for the next run."""
    if partial.is_dir() and not (partial / CHECKPOINT).is_dir():
        shutil.rmtree(partial, ignore_errors=True)


def _set_aside(store: Store, path: Path, problem: str) -> None:
    target = store.root / "set-aside" / f"{path.name}-{time.time_ns()}"
    target.parent.mkdir(exist_ok=True)
    try:
        path.replace(target)
    except FileNotFoundError:  # another run was faster
        return
    store.warn(f"corrupted artifact {path.name}: {problem}; set aside as {target}, it will be made again")


def _mark_used(path: Path) -> None:
    """Note the time of use, for `cache gc`; a store that is read-only still serves what it has."""
    try:
        os.utime(path)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise


def storage_error(what: str, where: str, error: OSError) -> Exception:
    """Return the error to tell for a failed write: a full or closed disk is no bug; other errors are as they were."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StageError(f"{what}: no space left in {where}; free some (edgekd cache gc), then run again")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StageError(f"{what}: {error.filename or where}: {error.strerror}")
    return error
