"""A device of one's own: an ssh server on loopback with throw-away keys, and a client that knows only that server."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekd.address import Address

SSHD = Path("/usr/sbin/sshd")
REASON = f"there is no ssh server on this machine ({SSHD}; Debian: apt install openssh-server)"


@dataclass(frozen=True)
class Device:
    """The loopback device.

    Args:
        folder: keys and configurations of both sides.
        temporary: the device's TMPDIR.
        hooks: a folder in the device's PYTHONPATH; a `sitecustomize.py` in it runs in each Python of the agent.
        here: this machine's temporary folder meanwhile; its path is short, as that of a socket must be.
    """

    folder: Path
    port: int
    temporary: Path
    hooks: Path
    here: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", None, self.port)

    def hook(self, code: str) -> None:
        """Run code in each Python on the device whose command line is `words`."""
        (self.hooks / "sitecustomize.py").write_text(f"import os, signal, sys, time\nwords = sys.orig_argv\n{code}\n")

    def folders(self) -> list[Path]:
        return list(self.temporary.glob("edgekd-*"))

    def processes(self) -> dict[int, str]:
        """Return the command lines of what runs in the device's temporary folder, or holds a connection to it."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if f"{self.temporary}/edgekd-" in line or f"{self.here}/edgekd-" in line:
                found[int(path.parent.name)] = line
        return found

    def cut(self) -> None:
        """Kill the sessions of the server, as a network that breaks does; the server stays."""
        for child in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            _kill_tree(int(child))


def _kill_tree(pid: int) -> None:
    """Kill a session and the sshd processes below it, not what they run."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if "sshd" in Path(f"/proc/{child}/comm").read_text():
            _kill_tree(int(child))
    os.kill(pid, signal.SIGKILL)


@contextmanager
def device(folder: Path, path: str | None = None, temporary: Path | None = None) -> Iterator[Device]:
    """Run a device and yield it; afterwards it must be as it was."""
    _keys(folder)
    hooks, temporary = folder / "hooks", temporary or folder / "tmp"
    for each in (hooks, temporary):
        each.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A home without the .bashrc of whoever runs the tests, which may be slow.
    variables = {"HOME": folder, "TMPDIR": temporary, "PYTHONPATH": hooks, **({"PATH": path} if path else {})}
    (folder / "sshd_config").write_text(f"""
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
SetEnv {" ".join(f"{name}={value}" for name, value in variables.items())}
""")
    known = f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}"
    (folder / "known_hosts").write_text(known)
    (folder / "config").write_text(f"""
Host board
  HostName 127.0.0.1
  Port {port}
Host behind
  HostName 127.0.0.1
  Port {port}
  ProxyJump board
Host *
  IdentityFile {folder}/user
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
""")
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.PIPE)
    here, before = Path(tempfile.mkdtemp(prefix="test-")), tempfile.tempdir
    found = Device(folder, port, temporary, hooks, here, server)
    try:
        tempfile.tempdir = str(here)
        _wait_for(port, server)
        yield found
    finally:
        tempfile.tempdir = before
        shutil.rmtree(here)
        server.terminate()
        server.wait()
        assert server.stderr is not None
        server.stderr.close()


def client(folder: Path) -> Path:
    """Return a folder for the PATH in which `ssh` reads the configuration of this test, not the user's."""
    programs = folder / "bin"
    programs.mkdir()
    ssh = programs / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    ssh.chmod(0o755)
    return programs


def python(folder: Path, *options: str, before: str = "") -> str:
    """Return this interpreter under another name, with options."""
    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\n{before}\nexec {shlex.join([sys.executable, *options])} "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def leftovers(found: Device) -> list[str]:
    """Return what is left on the device, or here; what is about to end has some seconds."""
    deadline = time.monotonic() + 8
    while True:
        files = [*found.folders(), *found.here.glob("edgekd-*")]
        left = [*map(str, files), *found.processes().values()]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)


def _keys(folder: Path) -> None:
    for name in ("host", "user"):
        keygen(folder / name)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert server.poll() is None, server.stderr.read().decode() if server.stderr else ""
        time.sleep(0.02)
    raise AssertionError("the ssh server does not answer")
