"""The places and programs that edgekd uses: the store, the data, and OpenSSH's client."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgekd import artifact, cleaning, pipeline
from edgekd import data as datasets
from edgekd.doctor.finding import Finding
from edgekd.errors import UsageError

STORE, DATA, PROGRAMS = "store", "data", "programs"
_GIVES = "everything that is made, and runs"


def findings(data_dir: Path | None) -> Iterator[Finding]:
    """Yield the state of the store, the data sets and the programs."""
    yield from store(artifact.default_root())
    yield from _data(data_dir)
    yield from programs()


def store(root: Path) -> Iterator[Finding]:
    """Yield whether a store can be written, has room, and holds what it says; it is not made to be looked at.

    The contents of files are not read: `edgekd cache verify` does.
    """
    place = root.absolute()
    if not root.is_dir():
        yield _future(place)
        return
    try:
        opened = artifact.open_store(root, lambda text: None)
    except UsageError as error:
        yield Finding(STORE, "place", "broken", str(error), _GIVES, "set EDGEKD_HOME to a folder that can be written")
        return
    free = shutil.disk_usage(opened.root).free
    kept = cleaning.artifacts(opened)
    told = f"{opened.root}: {len(kept)} artifacts; {free / 1e9:.1f} GB free"
    if free < pipeline.SMALLEST_FREE_BYTES:
        yield Finding(STORE, "place", "broken", told, _GIVES, "edgekd cache gc, or set EDGEKD_HOME to a larger place")
    else:
        yield Finding(STORE, "place", "ok", told)
    bad = [path.name for path in kept if artifact.check(path, contents=False) is not None]
    if bad:
        told = f"{len(bad)} corrupted: {', '.join(bad[:3])}"
        yield Finding(STORE, "artifacts", "broken", told, "what need not be made again", "the next run makes them anew")
    aside = list((opened.root / "set-aside").glob("*"))
    if aside:
        told = f"{len(aside)} artifacts failed their check and were set aside"
        yield Finding(STORE, "set aside", "note", told, "a look at what happened", "edgekd cache gc removes them")


def _future(place: Path) -> Finding:
    parent = next(folder for folder in place.parents if folder.exists())
    try:  # permissions do not tell: the file system may be read-only, and root may do everything
        with tempfile.TemporaryDirectory(prefix=".write-", dir=parent):
            pass
    except OSError as error:
        told = f"{place} cannot be made: {error.strerror}"
        return Finding(STORE, "place", "broken", told, _GIVES, "set EDGEKD_HOME to a folder that can be written")
    free = shutil.disk_usage(parent).free
    return Finding(STORE, "place", "ok", f"the first run will make {place}; {free / 1e9:.1f} GB free")


def _data(data_dir: Path | None) -> Iterator[Finding]:
    folder = datasets.data_folder(data_dir)
    if not folder.is_dir() and (data_dir or os.environ.get("EDGEKD_DATA")):
        mend = "name another folder by EDGEKD_DATA or --data-dir; a download would make this one"
        yield Finding(DATA, "folder", "note", f"there is no folder {folder}", "data sets that are not downloaded", mend)
    for name in datasets.shipped_data():
        try:
            yield Finding(DATA, name, "ok", datasets.describe(name, data_dir))
        except UsageError as error:
            yield Finding(DATA, name, "missing", str(error), f"recipes on {name}", "as said there")


def programs() -> Iterator[Finding]:
    """Yield whether devices can be reached over ssh."""
    paths = {name: shutil.which(name) for name in ("ssh", "sftp")}
    absent = [name for name, path in paths.items() if path is None]
    if absent:
        mend = "install OpenSSH's client (openssh-client on Debian and Ubuntu)"
        told, gives = f"there is no {' and no '.join(absent)}", "measuring on devices over ssh (--at)"
        yield Finding(PROGRAMS, "ssh", "missing", told, gives, mend)
    else:
        yield Finding(PROGRAMS, "ssh", "ok", ", ".join(str(path) for path in paths.values()))
