"""Measure on a device over ssh. Nothing is installed there, and nothing is left.

The agent, one file, and the job are copied into a temporary folder of the device and run by its own Python. The agent
goes on when the connection breaks; the host comes back and listens from where it was. Every file is checked by its
SHA-256 where it arrives.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from edgekd.address import Address
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_json, sha256, write_json
from edgekd.dispatch import probing
from edgekd.dispatch.device_folder import AGENT, MANIFEST, DeviceFolder, device_folder, inspect
from edgekd.dispatch.hearing import Hearing, ending, too_long
from edgekd.dispatch.pack import agent_pyz
from edgekd.dispatch.remote import RemoteError, connect
from edgekd.errors import StageError
from edgekd.stage import Progress, silent

Say = Callable[[str], None]

MEASUREMENT = "out/measurement.json"
_END: Mapping[str, Any] = {
    "code": (int, type(None)),
    "log": str,
    "sha256": (str, type(None)),
    "bytes": (int, type(None)),
}
START_SECONDS = 600.0
"""So long may the device take to check what was sent, gigabytes on a slow card."""
GRACE_SECONDS = 10.0
"""So long is listened in any case: the agent may have ended in time while the connection was lost."""


def measure(
    job: Path,
    out: Path,
    *,
    address: Address,
    python: str,
    timeout_s: float,
    keep: bool,
    progress: Progress,
    say: Say,
    cancel: threading.Event | None = None,
) -> None:
    """Run a job on a device; the measurement is then in `out`, whole and checked.

    Args:
        python: the interpreter there; its name has been checked (`edgekd.address.interpreter`).
        timeout_s: so long may the agent take, without the transfers.
        keep: leave the files on the device, and say where.
        say: takes a line: a lost connection, one that came back, what could not be removed.
        cancel: ends the measurement from another thread.

    Raises:
        RemoteError: the device could not be reached or lacks something, or its agent failed, was killed or hung.
    """
    with _staged(job) as (files, names), connect(address, cancel) as connection:
        inspect(connection, python, sum((files / name).stat().st_size for name in names))
        parts = sorted({str(Path(name).parent) for name in names} - {"."})
        with device_folder(connection, python, parts, keep, say) as folder:
            folder.send(files, names, progress, say)
            connection.patiently(lambda: _start(folder), say)
            results = _follow(folder, timeout_s, progress, say)
            _fetch(folder, out, results, progress, say)


def probe(address: Address, python: str, cancel: threading.Event | None = None) -> dict[str, Any]:
    """Return what the agent says of a device.

    Args:
        cancel: ends the probe from another thread.

    Raises:
        RemoteError: the device could not be reached, lacks something, or the agent failed.
    """
    with _staged(None) as (files, names), connect(address, cancel) as connection:
        inspect(connection, python, (files / AGENT).stat().st_size)
        with device_folder(connection, python, [], False, _ignore) as folder:
            folder.send(files, names, silent, _ignore)
            done = connection.run(f"{python} {folder.quoted}/{AGENT} probe --json", probing.SECONDS)
    if done.code != 0:
        raise RemoteError(f"{address}: {ending(done.code, done.err)}")
    try:
        return probing.read(done.out)
    except StageError as error:
        raise RemoteError(f"{address}: {error}") from error


@contextmanager
def _staged(job: Path | None) -> Iterator[tuple[Path, dict[str, str]]]:
    """Give a folder with all that is sent, and the SHA-256 of each of its files by its path in it."""
    with tempfile.TemporaryDirectory(prefix="edgekd-send-") as temporary:
        files = Path(temporary)
        names = {}
        if job is not None:
            (files / "job").symlink_to(job.resolve())
            names = {f"job/{path.relative_to(job).as_posix()}": sha256(path) for path in _files(job)}
        write_json(files / MANIFEST, names)
        agent = agent_pyz(files / AGENT)
        yield files, {AGENT: agent, MANIFEST: sha256(files / MANIFEST), **names}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _start(folder: DeviceFolder) -> None:
    """Start the agent; it is started once, however often this is repeated."""
    done = folder.connection.run(f"{folder.python} {folder.quoted}/{AGENT} serve {folder.quoted}", START_SECONDS)
    if done.code != 0:
        raise RemoteError(f"{folder.connection.address}: {done.words.removeprefix('error: ')}")


def _follow(folder: DeviceFolder, timeout_s: float, progress: Progress, say: Say) -> Mapping[str, Any]:
    """Listen to the agent until it has ended well, over as many connections as it takes."""
    hearing, offset, ends = Hearing(progress), 0, list[dict[str, Any]]()
    at, deadline = folder.connection.address, time.monotonic() + timeout_s

    def listen() -> None:
        nonlocal offset
        until = max(deadline, time.monotonic() + GRACE_SECONDS)
        script = f"{folder.python} {folder.quoted}/{AGENT} follow {folder.quoted} {offset}"
        with closing(folder.connection.lines(script, until)) as lines:
            for line in lines:
                event = hearing.take(line)
                offset = event["offset"] if isinstance(event.get("offset"), int) else offset
                if event.get("event") == "end" and all(isinstance(event.get(key), kind) for key, kind in _END.items()):
                    ends.append(event)

    folder.connection.patiently(listen, say)
    if not ends and time.monotonic() < deadline:
        raise RemoteError(f"{at}: {folder.path} was removed there by somebody else, and the measurement with it")
    if not ends:
        raise RemoteError(f"{at}: {too_long(timeout_s, hearing.doing)}")
    if hearing.message:
        raise RemoteError(f"{at}: {hearing.message}")
    end = ends[-1]
    if end["code"] != 0 or not hearing.done:
        raise RemoteError(f"{at}: {folder.full() or ending(end['code'], end['log'])}")
    return end


def _fetch(folder: DeviceFolder, out: Path, results: Mapping[str, Any], progress: Progress, say: Say) -> None:
    """Bring the measurement back; `out` gets it only when it is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        into = Path(temporary)
        folder.fetch({MEASUREMENT: results["sha256"]}, into, progress, results["bytes"], say)
        folder.fetch(_listed(into / MEASUREMENT), into, progress, results["bytes"], say)
        out.mkdir(exist_ok=True)
        for entry in (into / "out").iterdir():
            entry.replace(out / entry.name)


def _listed(measurement: Path) -> dict[str, str]:
    """Return the SHA-256 of a measurement's files by their path in the device's folder."""
    try:
        files = read_json(measurement)["files"]
        return {f"out/{name}": str(digest) for name, digest in files.items()}
    except (AgentError, LookupError, TypeError, AttributeError) as error:
        raise RemoteError(f"measurement.json of the device does not list its files: {error!r:.100}") from error


def _ignore(text: str) -> None:
    del text
