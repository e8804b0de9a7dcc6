"""What a run did and when, for programs: `log.jsonl` in the run's folder, one JSON object per line.

While a run works, and for good where it fails, is interrupted or is killed, its log is `logs/<run>.jsonl` in the store.
Every line has "time" (UTC), "elapsed_s" (since the run began, by a clock that does not jump), "level" ("debug", "info",
"warning", "error") and "event"; the other keys belong to the event.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekd.errors import EdgekdError

FILE = "log.jsonl"
FOLDER = "logs"
SECONDS_BETWEEN = 10.0
# What is before the last @, but for one in a path; also in JSON, where a quote has a backslash before it.
_IN_URL = r"(?<=://)(?![^\s\"@:/]*(?::\d+)?/)(?:\\.|[^\s\"\\])+(?=@)"
_NAMED = r"(?<=[?&])((?:[a-z_-]*(?:password|passwd|token|secret|signature|api_?key))=)[^\s\"&'\\]+"
_SECRETS = re.compile(f"{_IN_URL}|{_NAMED}", re.IGNORECASE)


def path_of(store: Path, run_id: str) -> Path:
    """Return where the log of a run is until it is finished."""
    return store / FOLDER / f"{run_id}.jsonl"


def without_secrets(text: str) -> str:
    """Return a text whose addresses name no user, password or token."""
    return _SECRETS.sub(lambda found: f"{found[1] or ''}***", text)


class Log:
    """The log of one run: whole lines, from any thread, each written at once.

    A log that cannot be written is told once, and the run goes on without.

    Args:
        path: a new file; its folder is made.
        warn: takes what is wrong with it.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path = path
        self._warn = warn
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._lost = False

    def write(self, event: str, *, level: str = "info", **fields: Any) -> None:
        """Write one line."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "elapsed_s": round(time.monotonic() - self._began, 3), "level": level, "event": event}
        text = without_secrets(json.dumps({**line, **fields}, default=str))
        with self._lock:
            if self._lost:
                return
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as stream:
                    stream.write(f"{text}\n")
            except OSError as error:
                self._lost = True
                self._warn(f"the log {self.path} cannot be written: {error.strerror}; the run goes on without it")

    def ended(self, error: BaseException, code: str) -> None:
        """Write why a run ended early, and tell the error where its log is."""
        if isinstance(error, EdgekdError):
            self.write("failed", level="error", code=code, message=str(error), exit_code=error.exit_code)
            error.log = None if self._lost else self.path
        elif isinstance(error, Exception):
            told = "".join(traceback.format_exception(error))
            self.write("failed", level="error", code=code, message=str(error), traceback=told)
        else:
            self.write("interrupted", level="warning")

    def keep(self, folder: Path) -> None:
        """Copy the log into the folder of its run, which is complete but for its place."""
        if not self._lost:
            shutil.copyfile(self.path, folder / FILE)

    def done(self) -> None:
        """Remove the copy outside the run's folder."""
        self.path.unlink(missing_ok=True)


def seldom(write: Callable[[int, int, str], None]) -> Callable[[int, int, str], None]:
    """Return a progress that writes now and then, and the end of the work."""
    last = time.monotonic() - SECONDS_BETWEEN

    def update(done: int, total: int, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN or done == total:
            last = time.monotonic()
            write(done, total, text)

    return update
