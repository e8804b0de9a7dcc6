"""A PostgreSQL server of a test's own, in a temporary folder, which asks for a password."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "s3cret-of-the-test"
START_S = 60.0


@contextmanager
def server() -> Iterator[str]:
    """Yield the URL of its database; skip where PostgreSQL is not installed."""
    program = _program("initdb").parent
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="edgekd-postgresql-"))  # pytest's own folders are closed to other users
    try:
        (folder / "password").write_text(PASSWORD)
        if user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        made = [program / "initdb", "-D", folder / "data", "-U", "edgekd", "--auth=scram-sha-256", "--no-sync",
                f"--pwfile={folder / 'password'}"]  # fmt: skip
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
                   "shared_buffers": "8MB"}  # fmt: skip
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (folder / "log").open("w") as log:
            running = subprocess.Popen(
                [program / "postgres", "-D", folder / "data", *settings], user=user, stderr=log, cwd=folder
            )
        try:
            _wait(running, port, folder / "log")
            yield f"postgresql://edgekd:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            running.send_signal(signal.SIGINT)  # without waiting for its clients
            running.wait(START_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> Path:
    found = [*Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    if on_path := shutil.which(name):
        found.append(Path(on_path).resolve())
    if not found:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    return found[0]


def _user() -> str | None:
    """Return whose the server shall be: it refuses to run as root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


def _wait(running: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while "ready to accept connections" not in log.read_text():
        assert running.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
