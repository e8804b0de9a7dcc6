"""A power meter that belongs to this machine: a program that prints `time watts` lines while a device is measured."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgekd.errors import StageError

FILE = "external.csv"
_GRACE_SECONDS = 5.0


class RecordingError(StageError):
    """The meter's program could not be run, or ended before the measurement did."""


@contextmanager
def recording(command: Sequence[str], target: Path) -> Iterator[None]:
    """Run a meter's program as long as the block runs, and put what it printed into a file if the block succeeds.

    Raises:
        RecordingError: it cannot be started, or it ended by itself: what it would have told is missing.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-meter-") as folder:
        lines, errors = Path(folder) / FILE, Path(folder) / "errors.txt"
        with lines.open("wb") as output, errors.open("wb") as complaints:
            try:
                process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=complaints)
            except OSError as error:
                raise RecordingError(
                    f"the power meter's program {command[0]!r} cannot be started: {error.strerror}"
                ) from error
            try:
                yield
                early = process.poll()
            finally:
                _end(process)
        if early is not None:
            said = " | ".join(errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
            raise RecordingError(
                f"the power meter's program {command[0]!r} ended with exit code {early} before the measurement did"
                + (f": {said}" if said else "")
            )
        content = lines.read_bytes()
        target.write_bytes(content[: content.rfind(b"\n") + 1])  # the program was ended, perhaps within a line


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
