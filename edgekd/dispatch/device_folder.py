"""A temporary folder on a device reached over ssh: what is needed for it, what goes in, what comes out, its end."""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgekd.agent.files import sha256
from edgekd.dispatch.remote import Connection, RemoteError
from edgekd.stage import Progress

RESULTS_BYTES = 64 << 20
"""Room for results and temporary files, besides what is sent."""
LARGEST_RESULTS_BYTES = 16 << 30
"""So much is taken from a device, whatever it announces."""
AGENT, MANIFEST = "agent.pyz", "manifest.json"
LARGE_BYTES = 16 << 20
"""A file that is so large is looked at while it is on its way."""
FULL_BYTES = 1 << 20
STOP_SECONDS = 15
_MARK = "edgekd "  # before what a script tells: a login shell may print text of its own
_FOLDER = re.compile(r"/.*/edgekd-[A-Za-z0-9]{8}")
_NAME = re.compile(r"(?!.*/\.\.(/|$))[A-Za-z0-9][A-Za-z0-9._/-]*")

# Any Python since 2.7 runs this, so that an old one is told by its version.
_INSPECT = """
import json, os, sys
del sys.path[0]
found = {"version": list(sys.version_info[:3]), "numpy": None, "free": None}
try:
    import numpy
    found["numpy"] = numpy.__version__
except Exception as error:
    found["numpy_error"] = "%s: %s" % (type(error).__name__, error)
try:
    disk = os.statvfs(sys.argv[1])
    found["free"] = disk.f_bavail * disk.f_frsize
except OSError as error:
    found["disk_error"] = str(error)
print("edgekd " + json.dumps(found))
"""
_DIGESTS = """
import hashlib, json, sys
print("edgekd " + json.dumps([hashlib.sha256(open(name, "rb").read()).hexdigest() for name in sys.argv[1:]]))
"""
# Whatever has the folder's name on its command line is ours: the name is a random one. The serving process ends its
# children in order; what is left then is killed.
_STOP = """
d={folder}
p=$(cat "$d/pid" 2>/dev/null)
[ -n "$p" ] && grep -qsF "$d" "/proc/$p/cmdline" && kill -TERM "$p" 2>/dev/null
n=0
while [ $n -lt {tenths} ] && [ -n "$p" ] && grep -qsF "$d" "/proc/$p/cmdline"; do n=$((n+1)); sleep 0.1; done
for f in $(grep -lsF "$d" /proc/[0-9]*/cmdline); do
  p=${{f#/proc/}}; p=${{p%/cmdline}}; [ "$p" = $$ ] || kill -KILL "$p" 2>/dev/null
done
true
"""
_REMOVE = 'rm -rf "$d" 2>/dev/null || { sleep 1; rm -rf "$d"; }\n'


@dataclass(frozen=True)
class DeviceFolder:
    """A folder on a device, and the Python that works in it."""

    connection: Connection
    python: str
    path: str

    @property
    def quoted(self) -> str:
        """The path as a shell takes it."""
        return shlex.quote(self.path)

    def run(self, script: str) -> str:
        """Run a line of shell in the folder and return what it tells (see `_MARK`)."""
        return _told(self.connection, f"cd {self.quoted} && {script}", "")

    def send(self, files: Path, names: Mapping[str, str], progress: Progress, say: Callable[[str], None]) -> None:
        """Send files and check that agent and manifest have arrived whole; the agent checks the rest.

        Args:
            files: the folder that holds them.
            names: their SHA-256 by their path in both folders.

        Raises:
            RemoteError: the disk is full, a file was damaged, or the device could not be reached.
        """
        for name in names:
            _check_name(name)
        sizes = {name: (files / name).stat().st_size for name in names}
        left = list(names)

        def put() -> None:
            current = 0

            def watch(written: str) -> None:
                nonlocal current
                current = max(0, written.count("\nsftp> put") - 1)
                there = sum(sizes.values()) - sum(sizes[name] for name in left[current:])
                progress(there + self._arrived(left[current], sizes), sum(sizes.values()), f"sending {left[current]}")

            batch = [f"cd {_quoted(self.path)}", *(f"put {name} {name}" for name in left)]
            try:
                done = self.connection.transfer(batch, files, watch)
            finally:
                del left[:current]  # what has arrived whole is not sent again
            if done.code != 0:
                raise RemoteError(f"{self.connection.address}: {self.full() or 'sending failed'}: {done.words}")

        self.connection.patiently(put, say)
        progress(sum(sizes.values()), sum(sizes.values()), "sent")
        checked = [AGENT, MANIFEST]
        found = json.loads(self.run(f"{self.python} -c {shlex.quote(_DIGESTS)} {' '.join(checked)}"))
        for name, digest in zip(checked, found, strict=True):
            if digest != names[name]:
                raise RemoteError(f"{self.connection.address}: {name} was damaged on its way to the device; try again")

    def fetch(
        self, names: Mapping[str, str], into: Path, progress: Progress, total: int, say: Callable[[str], None]
    ) -> None:
        """Bring files back and check each.

        Args:
            names: their SHA-256 by their path in both folders.
            total: bytes of all files that come back, for the progress.

        Raises:
            RemoteError: a file was damaged, is no longer there, or the device could not be reached.
        """
        for name in names:
            _check_name(name)
            (into / name).parent.mkdir(parents=True, exist_ok=True)

        def watch(written: str) -> None:
            del written
            arrived = sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
            if arrived > min(total, LARGEST_RESULTS_BYTES) + RESULTS_BYTES:
                raise RemoteError(
                    f"{self.connection.address}: it sends more than the {total} bytes that it announced, or more than "
                    f"{LARGEST_RESULTS_BYTES} bytes"
                )
            progress(min(arrived, total), total, "fetching results")

        def get() -> None:
            batch = [f"cd {_quoted(self.path)}", *(f"get {name} {name}" for name in names)]
            done = self.connection.transfer(batch, into, watch)
            if done.code != 0:
                raise RemoteError(f"{self.connection.address}: results could not be fetched: {done.words}")

        self.connection.patiently(get, say)
        watch("")
        for name, digest in names.items():
            if not (into / name).is_file() or sha256(into / name) != digest:
                raise RemoteError(f"{self.connection.address}: {name} was damaged on its way from the device")

    def _arrived(self, name: str, sizes: Mapping[str, int]) -> int:
        """Return how much of a file on its way is there."""
        if sizes[name] < LARGE_BYTES:
            return 0
        return int(self.run(f'echo "{_MARK}$(wc -c <{name} 2>/dev/null || echo 0)"'))

    def full(self) -> str:
        """Return the message that the disk is full there, "" if it is not: neither sftp nor a killed agent tells."""
        free = int(self.run(f"echo {_MARK}$(df -Pk . | awk 'END {{print $4}}')")) * 1024
        return f"the disk with {self.path} is full" if free < FULL_BYTES else ""


def inspect(connection: Connection, python: str, needed_bytes: int) -> None:
    """Check that the agent can work on a device, in one command.

    Args:
        needed_bytes: to be sent.

    Raises:
        RemoteError: it cannot be reached, or lacks Python 3.8, numpy, or room in its temporary folder.
    """
    missing = f"command -v {python} >/dev/null 2>&1 || {{ echo '{_MARK}null'; exit 0; }}"
    script = f'{missing}; {python} -c {shlex.quote(_INSPECT)} "${{TMPDIR:-/tmp}}"'
    found = json.loads(_told(connection, script, f"{python} does not work there"))
    at = connection.address
    if found is None:
        raise RemoteError(
            f"{at}: there is no {python} in the PATH of a command over ssh: set `python` in the device profile"
        )
    version = ".".join(map(str, found["version"]))
    if found["version"] < [3, 8]:
        raise RemoteError(
            f"{at}: {python} is Python {version}; the agent needs 3.8: set `python` in the device profile"
        )
    if found["numpy"] is None:
        raise RemoteError(
            f"{at}: numpy is not there for {python} ({version}): sudo apt install python3-numpy, or {python} -m pip "
            f"install numpy ({found['numpy_error']})"
        )
    if found["free"] is None:
        raise RemoteError(f"{at}: its temporary folder cannot be used: {found['disk_error']}")
    needed = needed_bytes + RESULTS_BYTES
    if found["free"] < needed:
        raise RemoteError(
            f"{at}: its temporary folder has {found['free'] / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed: make "
            "room, or set TMPDIR for commands over ssh"
        )


@contextmanager
def device_folder(
    connection: Connection, python: str, parts: list[str], keep: bool, say: Callable[[str], None]
) -> Iterator[DeviceFolder]:
    """Make a folder on the device; when the block ends, nothing of it is left there, nor what runs in it.

    Args:
        parts: folders in it.
        keep: leave the files, and say where.

    Raises:
        RemoteError: the device has no room, or could not be reached.
    """
    made = 'd=$(mktemp -d "${TMPDIR:-/tmp}/edgekd-XXXXXXXX") && cd "$d" && mkdir -p %s && echo "%s$(pwd -P)"'
    # Not interrupted halfway: its answer is the only trace of the folder.
    patient = replace(connection, cancel=threading.Event())
    path = _told(patient, made % (" ".join(parts or ["."]), _MARK), "no temporary folder could be made")
    if not _FOLDER.fullmatch(path):
        raise RemoteError(
            f"{connection.address}: the temporary folder is called {path!r}, which is not what was asked for"
        )
    try:
        yield DeviceFolder(connection, python, path)
    finally:
        _end(patient, path, keep, say)


def _end(connection: Connection, path: str, keep: bool, say: Callable[[str], None]) -> None:
    """End what runs in a folder on the device and remove it; what cannot be done is said, no error."""
    script = _STOP.format(folder=shlex.quote(path), tenths=STOP_SECONDS * 10) + ("" if keep else _REMOVE)
    try:
        try:
            done = connection.run(script)
        except RemoteError:  # the connection broke, which one of a moment later may not
            connection.close()
            done = connection.run(script)
        problem = done.err.strip() if done.code != 0 else ""
    except RemoteError as error:
        problem = f"{error}; what runs there ends by itself and removes it an hour later"
    if problem:
        say(f"{connection.address}: {path} could not be removed: {problem}")
    elif keep:
        say(f"{connection.address}: kept {path}")


def _told(connection: Connection, script: str, problem: str) -> str:
    """Return what a script tells."""
    done = connection.run(script)
    told = [line[len(_MARK) :] for line in done.out.splitlines() if line.startswith(_MARK)]
    if done.code != 0 or not told:
        raise RemoteError(f"{connection.address}: {problem + ': ' if problem else ''}{done.words}")
    return told[-1]


def _check_name(name: str) -> None:
    """Refuse a path that sftp or a file system could take for anything but a file below the folder."""
    if not _NAME.fullmatch(name):
        raise RemoteError(f"{name!r} is no name of a file that goes over ssh: letters, digits and _ . / - are meant")


def _quoted(path: str) -> str:
    """Return a path as sftp's batch files quote it."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
