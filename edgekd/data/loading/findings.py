"""What reading large files once has found (where the samples lie, their digest), kept for the next start.

A finding is known by the paths, sizes and times of modification of its files: content that changes and leaves all three
as they are is not noticed. The folder may be deleted at any time; no other file is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from edgekd.agent import npy
from edgekd.data.loading.arrays import Array
from edgekd.errors import UsageError
from edgekd.stage import Progress, silent

_VERSION = 1  # of what is kept: raise it when something else is found


@dataclass(frozen=True)
class Findings:
    """The folder where findings are kept, and who hears about the progress of finding them."""

    folder: Path
    progress: Progress = silent

    def get(self, kind: str, files: Sequence[tuple[str, os.stat_result]], find: Callable[[], Mapping[str, Any]]) -> Any:
        """Return what was found in files, as a mapping from names to arrays.

        Args:
            kind: of the finding.
            files: absolute paths, with the state of each.
            find: finds it. Of several processes that ask at once, one does.

        Raises:
            UsageError: What was found cannot be kept.
        """
        states = [(path, state.st_size, state.st_mtime_ns) for path, state in files]
        key = hashlib.sha256(json.dumps([_VERSION, kind, states]).encode()).hexdigest()
        path = self.folder / f"{key[:32]}.npz"
        known = _read(path)
        if known is None:
            with self._locked(path):
                known = _read(path)  # another process may have been faster
                if known is None:
                    known = {name: np.asarray(value) for name, value in find().items()}
                    try:
                        _write(path, known)
                    except OSError as error:
                        raise self._unkept(error) from error
        return known

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        lock = FileLock(path.with_suffix(".lock"))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise self._unkept(error) from error
        try:
            yield
        finally:
            lock.release()

    def _unkept(self, error: OSError) -> UsageError:
        return UsageError(
            f"{self.folder}: what was found in large files cannot be kept: {error.strerror or error}; name a "
            "folder that can be written with --data-dir or EDGEKD_DATA"
        )


def _read(path: Path) -> Mapping[str, Array] | None:
    """Return what is kept; nothing where it is damaged, and it is then found again."""
    try:
        return npy.arrays(path)
    except (OSError, ValueError):
        return None


def _write(path: Path, content: Mapping[str, Array]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            np.savez(file, allow_pickle=False, **content)
            file.flush()
            os.replace(temporary, path)  # noqa: PTH105  # atomic
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
