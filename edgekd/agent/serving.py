"""The device's side of a measurement over ssh: it goes on when the connection does not.

`serve DIR` checks what was sent, leaves its terminal, waits until no other one measures beside it, and measures;
`follow DIR OFFSET` tells how it goes, as often as somebody asks. In DIR:

    manifest.json  SHA-256 of each file that was sent, by path
    job/  out/     the job and its measurement
    events.jsonl   what `run` tells; an offset counts its bytes
    log.txt        what the agent wrote besides
    exit.json      how `run` ended: {"code", "sha256", "bytes"}: its exit code (negative: the signal that killed it),
                   and where that is 0, the SHA-256 of out/measurement.json and the size of all results
    pid  lock      the process that serves; it holds the lock for as long as it lives
    lease          touched by whoever follows
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from edgekd.agent.errors import AgentError
from edgekd.agent.events import emit
from edgekd.agent.files import read_json, sha256, write_json

LEASE_SECONDS = 3600.0
HEARTBEAT_SECONDS = 5.0
_POLL_SECONDS = 0.3
_LOG_LINES = 12


def serve(folder: Path, lease_seconds: float = LEASE_SECONDS) -> int:
    """Start a measurement that needs nobody to wait for it; return the exit code.

    It is started once, however often this is called. When it has ended, its results stay for as long as somebody asks
    for them, and are removed when nobody did for `lease_seconds`.

    Raises:
        AgentError: A file is missing or not the one that was sent.
    """
    folder = folder.resolve()
    _verify(folder)
    lock = os.open(str(folder / "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    if (folder / "pid").exists():
        return 0
    (folder / "lease").touch()
    child = os.fork()  # it holds the lock from its first moment
    if child:
        (folder / "pid").write_text("%d\n" % child)
        return 0
    os.setsid()
    _leave_terminal(folder / "log.txt")
    try:
        with turn(folder):
            code = _run(folder)
        write_json(folder / "exit.json", {"code": code, **(_results(folder / "out") if code == 0 else {})})
    except OSError as error:  # a full disk, most likely: what came of the job gives way to saying so
        shutil.rmtree(str(folder / "out"), ignore_errors=True)
        print("error: %s" % error, file=sys.stderr, flush=True)
        code = 1
        write_json(folder / "exit.json", {"code": code})
    _linger(folder, lease_seconds)
    return code


def follow(folder: Path, offset: int) -> int:
    """Print the events from a byte offset on until the measurement has ended; return the exit code.

    Each has the "offset" behind it, from which a later call goes on. {"event": "alive"} breaks long silences. The last
    one is {"event": "end", "code", "sha256", "bytes", "log"}: what exit.json says (the code is null if the serving
    process itself is gone) and the end of log.txt.

    Raises:
        AgentError: Nothing is served in this folder.
    """
    if not (folder / "lock").exists():
        raise AgentError("nothing is measured in %s; was the device restarted meanwhile?" % folder)
    told = time.monotonic()
    while True:
        try:
            os.utime(str(folder / "lease"))
            ending = _ending(folder)  # looked at before the events are read: none comes after it
            events, offset = _read(folder / "events.jsonl", offset)
        except FileNotFoundError:  # the host has removed the folder, and hears nothing more
            return 0
        for event in events:
            emit(**event)
            told = time.monotonic()
        if ending is not None:
            emit(event="end", **ending)
            return 0
        if time.monotonic() - told > HEARTBEAT_SECONDS:
            emit(event="alive")
            told = time.monotonic()
        time.sleep(_POLL_SECONDS)


def _verify(folder: Path) -> None:
    for name, digest in read_json(folder / "manifest.json").items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise AgentError("%s is missing or was damaged on its way to the device; send it again" % name)


def _leave_terminal(log: Path) -> None:
    """Let standard input, output and error belong to nobody's session."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    for stream, descriptor in ((0, nothing), (1, output), (2, output)):
        os.dup2(descriptor, stream)
    os.close(nothing)
    os.close(output)


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait until no other measurement is served beside this folder: two at once would measure each other.

    The other one may be that of another host, or one whose host is gone for good.
    """
    # An abstract name: it leaves no file, and the kernel frees it however its holder dies.
    name = "\0edgekd-serving-" + hashlib.sha256(os.fsencode(str(folder.parent))).hexdigest()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as place:
        waiting = False
        while True:
            try:
                place.bind(name)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            if not waiting:
                with (folder / "events.jsonl").open("ab") as events:
                    told = {"phase": "waiting", "detail": "for another measurement on this device"}
                    line = json.dumps({"event": "progress", "done": 0, "total": 1, **told})
                    events.write(line.encode("utf-8") + b"\n")
                waiting = True
            time.sleep(_POLL_SECONDS)
        yield


def _run(folder: Path) -> int:
    """Measure in a process of its own, whose death is then known, and return its exit code."""
    program = [sys.executable, *_program(), "run", str(folder / "job"), str(folder / "out")]
    with (folder / "events.jsonl").open("ab") as events:
        process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=events)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _program() -> List[str]:
    """Return what a Python is told to run this very agent: its zip file, or the module."""
    return [sys.argv[0]] if sys.argv[0].endswith(".pyz") else ["-m", "edgekd.agent"]


def _results(out: Path) -> Dict[str, Any]:
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"sha256": sha256(out / "measurement.json"), "bytes": size}


def _linger(folder: Path, lease_seconds: float) -> None:
    """Wait until the host has removed the folder; remove it when nobody has come for too long.

    A device without a battery sets its clock when it finds a time server, so only changes of the lease count.
    """
    visit, since = -1.0, time.monotonic()
    while time.monotonic() - since < lease_seconds:
        time.sleep(min(1.0, lease_seconds))
        try:
            last = (folder / "lease").stat().st_mtime
        except FileNotFoundError:
            return
        if last != visit:
            visit, since = last, time.monotonic()
    shutil.rmtree(str(folder))


def _ending(folder: Path) -> Optional[Dict[str, Any]]:
    """Return how the measurement ended, None while it goes on."""
    gone = _is_free(folder / "lock")
    if (folder / "exit.json").exists():
        ending = read_json(folder / "exit.json")
    elif gone:
        ending = {"code": None}
    else:
        return None
    return {"sha256": None, "bytes": None, **ending, "log": _last_words(folder / "log.txt")}


def _is_free(lock: Path) -> bool:
    """Return whether nobody holds a lock, which a process that has died does not, however it died."""
    with lock.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _last_words(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LOG_LINES:])


def _read(events: Path, offset: int) -> Tuple[List[Dict[str, Any]], int]:
    """Return the whole lines from an offset on, and the offset behind them."""
    found: List[Dict[str, Any]] = []
    if events.exists():
        with events.open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                found.append({**json.loads(line.decode("utf-8")), "offset": offset})
    return found, offset
