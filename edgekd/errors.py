"""What can go wrong, and the exit code that says so.

    EdgekdError
    ├── UsageError    2  the recipe, device profile or command line is wrong: found before any work
    ├── StageError    3  a stage failed
    └── DeviceError   4  a device could not be reached, or its measurement is pending

A message says what was asked, what exists, and what to do. It is the whole of what the user sees: no traceback.
"""

from __future__ import annotations

from pathlib import Path


class EdgekdError(Exception):
    """An error with a message for the user and the exit code of the process.

    Its code, such as E-DATA, follows from where it is raised (`edgekd.error_codes`).

    Attributes:
        log: the log of the run that it ended, None where no run had begun.
    """

    exit_code = 3
    log: Path | None = None


class UsageError(EdgekdError):
    """Wrong input that is found before any work is done."""

    exit_code = 2


class StageError(EdgekdError):
    """A stage could not do its work."""

    exit_code = 3


class DeviceError(EdgekdError):
    """A device could not be reached."""

    exit_code = 4
