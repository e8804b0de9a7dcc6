"""The programs of OpenSSH on this machine: how they are called, and what their complaints mean."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from edgekd.address import Address
from edgekd.dispatch.hearing import plain

CONNECT_SECONDS = 10

OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "NoHostAuthenticationForLocalhost": "no",
    "ConnectTimeout": str(CONNECT_SECONDS),
    "ConnectionAttempts": "1",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ControlMaster": "auto",
    "ControlPersist": "60",  # it ends by itself should this process be killed
    # What a user's configuration may want of a terminal would get in the way of commands.
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "PermitLocalCommand": "no",
    "ClearAllForwardings": "yes",
    "LogLevel": "INFO",
}

# What ssh says, what it means, and whether it may be over in a while.
_MEANINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one in known_hosts: it was installed anew, or something else answers in its place. If "
        "you know why, `ssh-keygen -R HOST`, connect once by hand and compare the fingerprint",
        False,
    ),
    (
        "Host key verification failed",
        "its host key is not in known_hosts: connect once by hand, `ssh ADDRESS`, and compare the fingerprint",
        False,
    ),
    ("Permission denied (", "it takes none of this user's keys: `ssh-copy-id ADDRESS`, or another user", False),
    ("Too many authentication failures", "it was offered too many keys: set IdentityFile in ~/.ssh/config", False),
    ("Could not resolve hostname", "no machine is known by this name: no address, and no Host of ~/.ssh/config", True),
    ("Connection refused", "nothing answers on this port: is an ssh server running there?", True),
    ("timed out", f"it does not answer within {CONNECT_SECONDS} s: is it switched on, and in this network?", True),
    ("No route to host", "no network leads to it", True),
    ("Network is unreachable", "no network leads to it", True),
    (
        "Received message too long",
        "its shell prints text where nobody sees it, which breaks sftp: let its .bashrc print only to terminals",
        False,
    ),
    ("subsystem request failed", "its ssh server has no sftp: add `Subsystem sftp` to its sshd_config", False),
)


def meaning(said: str, address: Address) -> tuple[str, bool]:
    """Return what a failure of ssh means, in words, and whether it may be over in a while.

    Args:
        said: its standard error.
    """
    for words, told, transient in _MEANINGS:
        if words in said:
            return told.replace("ADDRESS", _typed(address)).replace("HOST", _known(address)), transient
    lines = said.strip().splitlines()
    return (plain(lines[-1]) if lines else "the connection broke"), True


@contextmanager
def started(command: Sequence[str], **streams: object) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program of OpenSSH, away from the terminal: it cannot ask there, and Ctrl-C is for this process."""
    environment = {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}
    process = subprocess.Popen(
        command,
        env=environment, start_new_session=True, **({"stdin": subprocess.DEVNULL} | streams),  # type: ignore[call-overload]
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def text(stream: IO[str]) -> str:
    """Return what a program has written so far; reading in place would move the position at which it writes."""
    return os.pread(stream.fileno(), os.fstat(stream.fileno()).st_size, 0).decode("utf-8", "replace")


def _typed(address: Address) -> str:
    """Return an address as ssh takes it at a prompt."""
    port = f"-p {address.port} " if address.port else ""
    return f"{port}{address.user + '@' if address.user else ''}{address.host}"


def _known(address: Address) -> str:
    """Return the name under which known_hosts has a host."""
    return f"'[{address.host}]:{address.port}'" if address.port not in (None, 22) else address.host
