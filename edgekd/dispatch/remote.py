"""A connection to a device by the system's own ssh and sftp, which know ~/.ssh/config, key agents and jump hosts.

All commands share one connection, which is made again when it broke. Nothing asks at the terminal; host keys are always
checked.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from edgekd.address import Address
from edgekd.dispatch import openssh
from edgekd.dispatch.hearing import last_lines
from edgekd.errors import DeviceError

T = TypeVar("T")

COMMAND_SECONDS = 60.0
SILENCE_SECONDS = 45.0
"""So long after the last sign of life a connection counts as lost, whatever ssh says."""
PATIENCE_SECONDS = 300.0
"""So long a lost connection is tried again."""
_ATTEMPTS = 100
_POLL_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 15.0
_LONGEST_LINE = 16 << 20
_LOST = 255
"""The exit code with which ssh says that it failed itself."""


class RemoteError(DeviceError):
    """A device could not be reached, or gave no measurement."""


class LostError(RemoteError):
    """There is no connection at this moment; a later attempt may find one."""


@dataclass(frozen=True)
class Done:
    """A command that has ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """What it wrote last about a failure."""
        return last_lines(self.err) or f"exit code {self.code}, without a word"


@dataclass(frozen=True)
class Connection:
    """A device, and the socket of the connection to it.

    Args:
        cancel: ends whatever waits; the error is then "interrupted".
    """

    address: Address
    folder: Path
    cancel: threading.Event = field(default_factory=threading.Event)

    def run(self, script: str, timeout_s: float = COMMAND_SECONDS) -> Done:
        """Run a line of shell on the device.

        Raises:
            RemoteError: it could not be reached, or took too long.
        """
        return self._complete(self._ssh(script), timeout_s=timeout_s)

    def transfer(self, batch: Sequence[str], cwd: Path, watch: Callable[[str], None]) -> Done:
        """Let sftp do its commands.

        Args:
            cwd: the folder on this machine to which local names are relative.
            watch: called about every second with what sftp has written so far: each command before it is done.

        Raises:
            RemoteError: the device could not be reached.
        """
        host = f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        command = [_program("sftp"), "-S", _program("ssh"), "-b", "-", *self._options(), "--", host]
        return self._complete(command, "".join(f"{line}\n" for line in batch), cwd=cwd, watch=watch)

    def lines(self, script: str, deadline: float) -> Generator[str]:
        """Yield the lines that a command on the device writes, as they come, until it or the time ends.

        Args:
            deadline: on the clock of `time.monotonic`.

        Raises:
            RemoteError: the connection broke, or the command failed.
        """
        with (
            tempfile.TemporaryFile("w+") as errors,
            openssh.started(self._ssh(script), stdout=subprocess.PIPE, stderr=errors) as process,
        ):
            assert process.stdout is not None
            pending, heard = b"", time.monotonic()
            while (now := time.monotonic()) < deadline:
                self._check_cancel()
                if now - heard > SILENCE_SECONDS:
                    raise LostError(f"{self.address}: no sign of life for {SILENCE_SECONDS:g} s")
                if not select.select([process.stdout], [], [], _POLL_SECONDS)[0]:
                    continue
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    done = self._checked(Done(process.wait(), "", openssh.text(errors)))
                    if done.code != 0:
                        raise RemoteError(f"{self.address}: {done.words}")
                    return
                heard = now
                *whole, pending = (pending + data).split(b"\n")
                if len(pending) > _LONGEST_LINE:
                    raise RemoteError(f"{self.address}: it sends a line of more than {_LONGEST_LINE} bytes")
                yield from (line.decode("utf-8", "replace") for line in whole)

    def patiently(self, action: Callable[[], T], say: Callable[[str], None]) -> T:
        """Do an action that may be repeated; when the connection breaks, wait for it and do it again.

        Raises:
            RemoteError: the connection did not come back, or the action failed for another reason.
        """
        for _ in range(_ATTEMPTS):
            try:
                return action()
            except LostError as lost:
                say(f"{lost}; trying again for {PATIENCE_SECONDS / 60:g} minutes")
                self._reconnect(lost)
                say(f"{self.address}: connected again")
        return action()

    def close(self) -> None:
        """End the shared connection."""
        socket = self.folder / "socket"
        if socket.exists():
            command = [_program("ssh"), *self._options(), "-O", "exit", "--", self.address.host]
            with suppress(RemoteError):  # its process has died, and left the socket
                replace(self, cancel=threading.Event())._complete(command, timeout_s=openssh.CONNECT_SECONDS)
        socket.unlink(missing_ok=True)

    def _reconnect(self, lost: LostError) -> None:
        until, pause = time.monotonic() + PATIENCE_SECONDS, 1.0
        while True:
            self.close()
            try:
                self.run("exit 0")
                return
            except LostError as again:
                lost = again
            if time.monotonic() + pause > until:
                raise RemoteError(f"the connection was lost and did not come back: {lost}")
            self.cancel.wait(pause)
            self._check_cancel()
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _ssh(self, script: str) -> list[str]:
        return [_program("ssh"), *self._options(), "--", self.address.host, f"exec sh -c {shlex.quote(script)}"]

    def _options(self) -> list[str]:
        given = {"User": self.address.user, "Port": self.address.port}
        # Without a user or port in the address, those of ~/.ssh/config hold.
        options = {name: str(value) for name, value in given.items() if value is not None}
        options |= {**openssh.OPTIONS, "ControlPath": str(self.folder / "socket")}
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def _complete(
        self,
        command: Sequence[str],
        given: str = "",
        *,
        timeout_s: float = float("inf"),
        cwd: Path | None = None,
        watch: Callable[[str], None] = lambda text: None,
    ) -> Done:
        """Run a program on this machine to its end."""
        started = watched = time.monotonic()
        # Files, not pipes: they never fill up, and the shared connection's process may hold them open.
        with (
            tempfile.TemporaryFile("w+") as words,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            words.write(given)
            words.seek(0)
            with openssh.started(command, stdin=words, stdout=out, stderr=err, cwd=cwd) as process:
                while process.poll() is None:
                    self._check_cancel()
                    now = time.monotonic()
                    if now - started > timeout_s:
                        raise LostError(f"{self.address}: no answer for {timeout_s:g} s")
                    if now - watched > 1:
                        watch(openssh.text(out))
                        watched = time.monotonic()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_POLL_SECONDS)
            return self._checked(Done(process.returncode, openssh.text(out), openssh.text(err)))

    def _checked(self, done: Done) -> Done:
        """Return a command's end unless it is that of ssh itself."""
        if done.code != _LOST:
            return done
        told, transient = openssh.meaning(done.err, self.address)
        raise (LostError if transient else RemoteError)(f"{self.address}: {told}")

    def _check_cancel(self) -> None:
        if self.cancel.is_set():
            raise RemoteError(f"{self.address}: interrupted")


@contextmanager
def connect(address: Address, cancel: threading.Event | None = None) -> Iterator[Connection]:
    """Give a connection, made by its first command and ended with this block."""
    # The path of a socket may have about a hundred characters, and ssh would take a space in it for its end.
    short = None if re.fullmatch(r"[\w/.-]{1,50}", tempfile.gettempdir(), re.ASCII) else "/tmp"  # noqa: S108 - mkdtemp makes a private folder in it
    with tempfile.TemporaryDirectory(prefix="edgekd-ssh-", dir=short, ignore_cleanup_errors=True) as folder:
        connection = Connection(address, Path(folder), cancel or threading.Event())
        try:
            yield connection
        finally:
            connection.close()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RemoteError(f"there is no `{name}` on this machine: install OpenSSH's client")
    return found
