"""Fixed clocks for the time of a measurement, if a job asks for them: the one thing that is ever changed on a device.

Locked clocks take the jitter out of latencies and raise the power: latency with locked clocks and energy as deployed
are different experiments, so the measurement says which it was.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional

from edgekd.agent.errors import AgentError
from edgekd.agent.root import simulated

_SECONDS = 60.0


@contextmanager
def locked(asked: bool) -> Iterator[Optional[str]]:
    """Hold the clocks of a Jetson at their highest, and set them back however the block ends.

    Args:
        asked: If False, nothing is done and None is given.

    Yields:
        What the measurement says about it, or None.

    Raises:
        AgentError: There is no `jetson_clocks`, it may not be run without a password, or it failed. Where the clocks
            could not be set back, the message has the command that does it.
    """
    if not asked:
        yield None
        return
    command = program()
    folder = Path(tempfile.mkdtemp(prefix="edgekd-clocks-"))
    stored = folder / "clocks.conf"
    try:
        _run([*command, "--store", str(stored)])
    except (AgentError, KeyboardInterrupt):
        shutil.rmtree(str(folder), ignore_errors=True)
        raise
    try:
        _run(command)
        yield "clocks locked by jetson_clocks, restored"
    finally:
        _restore(command, stored)
        shutil.rmtree(str(folder), ignore_errors=True)


def program() -> List[str]:
    """Return the command that locks the clocks.

    Raises:
        AgentError: There is no `jetson_clocks`, or what would be locked is no real device.
    """
    found = shutil.which("jetson_clocks")
    reason = simulated()
    if reason is not None:
        raise AgentError("the clocks cannot be set: %s" % reason)
    if found is None:
        raise AgentError(
            "the clocks cannot be set: there is no jetson_clocks on this machine (only NVIDIA Jetson boards have it); "
            "measure without lock_clocks"
        )
    return [found] if os.geteuid() == 0 else ["sudo", "-n", found]


def _run(command: List[str]) -> None:
    """Run one command; in a session of its own, so that Ctrl-C does not end it halfway."""
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=True,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentError("the clocks cannot be set: %s" % error) from error
    except subprocess.CalledProcessError as error:
        raise AgentError(
            "the clocks cannot be set: `%s` ended with exit code %d (%s); allow it without a password by a line "
            '"USER ALL=(root) NOPASSWD: %s" in a file below /etc/sudoers.d, or measure without lock_clocks'
            % (" ".join(command), error.returncode, _said(error.stdout), shutil.which("jetson_clocks"))
        ) from error


def _said(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip() or "it said nothing"


def _restore(command: List[str], stored: Path) -> None:
    """Set the clocks back; whoever presses Ctrl-C again waits for it."""
    restore = [*command, "--restore", str(stored)]
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        _run(restore)
    except AgentError as error:
        by_hand = " ".join(word for word in restore if word != "-n")
        raise AgentError("the clocks are still locked: run `%s` (%s)" % (by_hand, error)) from error
    finally:
        for number, handler in zip(signals, handlers):
            signal.signal(number, handler)
