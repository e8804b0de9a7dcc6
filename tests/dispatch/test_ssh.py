"""Measurements over ssh, against a real ssh server on loopback: what comes back, what goes wrong, and what is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agent.networks import TINY, linear, quantized, samples, weights, write_job

from edgekd.address import Address
from edgekd.agent.files import read_npz, sha256
from edgekd.dispatch import device_folder, local, openssh, remote, ssh
from edgekd.dispatch.remote import Connection, Done, LostError, RemoteError

from .sshd import REASON, SSHD, Device, client, device, keygen, leftovers, python

pytestmark = pytest.mark.skipif(not SSHD.exists(), reason=REASON)

SHORT: dict[str, Any] = {"latency_inputs": None, "inputs": {"validation": "inputs/validation.npz"}}
"""Fields of a job that only evaluates."""
SLOW = "if 'child' in words and any('evaluate-0' in word for word in words): time.sleep({seconds})"
"""A hook that makes the evaluation of the first variant slow; it has begun when the progress says "evaluate"."""
WAIT = """
if 'run' in words:
    print('{"event": "progress", "phase": "evaluate", "done": 0, "total": 1, "detail": ""}', flush=True)
    time.sleep(600)
"""
"""A hook that measures nothing, for ever."""
RESULT = """
if 'run' in words:
    import hashlib, json, pathlib
    out = pathlib.Path(words[-1])
    (out / 'outputs').mkdir(parents=True)
    (out / 'outputs/numbers').write_bytes(b'1 2 3')
    files = {'outputs/numbers': hashlib.sha256(b'1 2 3').hexdigest()}
    (out / 'measurement.json').write_text(json.dumps({'files': files}))
    print(json.dumps({'event': 'done'}), flush=True)
    os._exit(0)
"""
"""A hook that measures nothing: what is tested is the way there and back."""
LATER = """
if 'run' in words:
    for number in range(4):
        print('{"event": "progress", "phase": "evaluate", "done": %d, "total": 3, "detail": "%d"}' % (number, number))
        sys.stdout.flush()
        time.sleep(0.3)
"""
"""Before RESULT: events come over a while."""
ONE_RUNTIME = "if 'child' in words and not any('/onnxruntime/' in word for word in words): os._exit(1)"
"""A hook for probes, most of whose time are the imports of all runtimes."""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A device on which nothing may be left, whatever a test did with it."""
    folder = tmp_path / "board"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{client(folder)}{os.pathsep}{os.environ['PATH']}")
    with device(folder) as found:
        yield found
        assert leftovers(found) == []


def job(folder: Path, **fields: Any) -> Path:
    return write_job(folder / "job", {"teacher": linear(folder / "job/models/teacher.onnx")}, **fields)


class Run:
    """One measurement: `ssh.measure` with what it says, and its progress as texts."""

    def __init__(self, folder: Path, board: Device, **fields: Any) -> None:
        self.folder, self.board, self.out = folder, board, folder / "out"
        self.job = job(folder, **fields)
        self.said: list[str] = []
        self.shown: list[str] = []
        self.act: Callable[[str], None] = lambda text: None

    def __call__(self, **options: Any) -> None:
        given = {"address": self.board.address, "python": sys.executable, "timeout_s": 60.0, "keep": False}
        ssh.measure(self.job, self.out, progress=self._show, say=self.said.append, **{**given, **options})

    def fails(self, words: str, **options: Any) -> str:
        """Run, and return the message of the failure, which leaves no measurement."""
        with pytest.raises(RemoteError, match=words) as failed:
            self(**options)
        assert not (self.out / "measurement.json").exists()
        return str(failed.value)

    def once(self, phase: str, act: Callable[[], object]) -> None:
        """Do something the first time that a phase shows."""
        pending = [act]
        self.act = lambda text: pending.pop()() if pending and text.startswith(phase) else None  # type: ignore[func-returns-value]

    def _show(self, done: int, total: int, text: str) -> None:
        assert 0 <= done <= total
        self.shown.append(text)
        self.act(text)


def content(out: Path) -> dict[str, Any]:
    """Return a measurement, all of whose files are there as they were on the device."""
    found: dict[str, Any] = json.loads((out / "measurement.json").read_text())
    present = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert present == {"measurement.json", *found["files"]}
    assert all(sha256(out / name) == digest for name, digest in found["files"].items())
    return found


def test_a_measurement_is_the_same_as_a_local_one(board: Device, tmp_path: Path) -> None:
    run = Run(tmp_path, board)
    models = {
        "teacher": linear(run.job / "models/teacher.onnx"),
        "int8": quantized(run.job / "models/int8.onnx"),
    }
    write_job(run.job, models, method=replace(TINY, processes=1, throughput_seconds=0))
    run(address=Address("board"))
    local.measure(run.job, tmp_path / "local", timeout_s=60, progress=lambda *_: None)
    there, here = content(run.out), content(tmp_path / "local")
    assert sorted(there["files"]) == sorted(here["files"])
    assert there["latency"]["columns"] == ["teacher", "int8", "teacher#control"]
    for name in models:
        for split in ("test", "validation"):
            file = there["variants"][name]["outputs"][split]
            np.testing.assert_array_equal(
                read_npz(run.out / file)["logits"], read_npz(tmp_path / "local" / file)["logits"]
            )
    teacher = read_npz(run.out / there["variants"]["teacher"]["outputs"]["test"])["logits"]
    np.testing.assert_allclose(teacher, samples(70) @ weights(), rtol=0, atol=1e-6)
    p50 = [np.median(read_npz(out / "samples/0.npz")["latency_ns_0"]) for out in (run.out, tmp_path / "local")]
    assert 0.1 < p50[0] / p50[1] < 10  # of the same order: the agent runs there, not through the connection
    phases = [text.split()[0] for text in run.shown]
    assert list(dict.fromkeys(phases)) == ["sent", "evaluate", "latency", "throughput", "fetching"]
    assert run.said == []


def test_the_agent_is_probed_behind_a_jump_host(board: Device) -> None:
    board.hook(ONE_RUNTIME)
    found = ssh.probe(Address("behind"), sys.executable)
    assert found["environment"]["python"] == sys.version.split()[0]
    assert found["backends"]["onnxruntime"]["version"]


def test_several_devices_at_once(board: Device, tmp_path: Path) -> None:
    board.hook(RESULT)
    runs = [Run(tmp_path / name, board) for name in ("one", "two")]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: run(), runs))
    for run in runs:
        assert list(content(run.out)["files"]) == ["outputs/numbers"]


@pytest.mark.parametrize("what", ["the server's sessions", "the client's connection"])
def test_a_connection_that_breaks_is_made_again(board: Device, tmp_path: Path, what: str) -> None:
    """The agent goes on alone, and was started once."""
    ran = f"if 'run' in words: open({str(tmp_path / 'runs')!r}, 'a').write('.')\n"
    board.hook(ran + LATER + RESULT)
    run = Run(tmp_path, board, **SHORT)
    run.once("evaluate", board.cut if what == "the server's sessions" else _kill_master)
    run()
    assert list(content(run.out)["files"]) == ["outputs/numbers"]
    assert (tmp_path / "runs").read_text() == "."
    lost, back = run.said
    assert "trying again for 5 minutes" in lost
    assert back == f"{board.address}: connected again"
    told = [text for text in run.shown if text.startswith("evaluate")]
    assert told == ["evaluate 0", "evaluate 1", "evaluate 2", "evaluate 3"]  # each once


def _kill_master() -> None:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if tempfile.gettempdir().encode() in line and b"[mux]" in line:
            os.kill(int(path.parent.name), signal.SIGKILL)


def test_a_connection_that_does_not_come_back(board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 1.0)
    board.hook(WAIT)
    run = Run(tmp_path, board, **SHORT)

    def switch_off() -> None:
        board.cut()
        board.process.kill()

    run.once("evaluate", switch_off)
    assert "nothing answers on this port" in run.fails("the connection was lost and did not come back")
    (where,) = board.folders()
    assert f"{where} could not be removed" in run.said[-1]
    assert "removes it an hour later" in run.said[-1]
    assert any("serve" in line for line in board.processes().values())
    stop = device_folder._STOP.format(folder=where, tenths=50) + device_folder._REMOVE  # what the host could not do
    subprocess.run(["sh", "-c", stop], check=True)


def test_an_unknown_host_key(board: Device, tmp_path: Path) -> None:
    (board.folder / "known_hosts").write_text("")
    port = board.port
    Run(tmp_path, board).fails(f"its host key is not in known_hosts: .* `ssh -p {port} 127.0.0.1`, and compare")


def test_a_changed_host_key(board: Device, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    (board.folder / "known_hosts").write_text(f"[127.0.0.1]:{board.port} {(tmp_path / 'other.pub').read_text()}")
    Run(tmp_path, board).fails(rf"its host key is not the one in known_hosts.*-R '\[127.0.0.1\]:{board.port}'")


def test_a_wrong_key(board: Device, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    (board.folder / "authorized_keys").write_text((tmp_path / "other.pub").read_text())
    address = replace(board.address, user="root")
    Run(tmp_path, board).fails(
        rf"root@127.0.0.1:\d+: it takes none of this user's keys: `ssh-copy-id -p {board.port} root@127.0.0.1`",
        address=address,
    )


def test_a_port_where_nothing_answers(board: Device, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", None, unused.getsockname()[1])
        Run(tmp_path, board).fails("nothing answers on this port: is an ssh server running there", address=address)


def test_a_machine_that_says_nothing(board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(openssh.OPTIONS, "ConnectTimeout", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address("127.0.0.1", None, silent.getsockname()[1])
        Run(tmp_path, board).fails("it does not answer within 10 s", address=address)


def test_a_name_that_nobody_knows(board: Device, tmp_path: Path) -> None:
    Run(tmp_path, board).fails("no machine is known by this name", address=Address("nobody.invalid"))


def test_no_ssh_here(board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    Run(tmp_path, board).fails("there is no `ssh` on this machine: install OpenSSH's client")


def test_no_python(board: Device, tmp_path: Path) -> None:
    Run(tmp_path, board).fails("there is no python4.2 in the PATH .* set `python`", python="python4.2")


def test_a_python_that_does_not_work(board: Device, tmp_path: Path) -> None:
    broken = python(tmp_path, before="echo 'Illegal instruction' >&2; exit 132")
    Run(tmp_path, board).fails(f"{broken} does not work there: Illegal instruction$", python=broken)


def test_a_python_that_is_too_old(board: Device, tmp_path: Path) -> None:
    board.hook("sys.version_info = (3, 6, 9)")
    Run(tmp_path, board).fails("is Python 3.6.9; the agent needs 3.8: set `python`")


def test_no_numpy(board: Device, tmp_path: Path) -> None:
    python(board.folder, "-S")  # the device's home
    told = Run(tmp_path, board).fails("numpy is not there for", python="~/python")
    assert f"~/python ({sys.version.split()[0]}): sudo apt install python3-numpy" in told
    assert "No module named 'numpy'" in told


def test_a_broken_numpy(board: Device, tmp_path: Path) -> None:
    (board.hooks / "numpy.py").write_text("raise OSError('libopenblas.so.0: cannot open shared object file')")
    Run(tmp_path, board).fails("numpy is not there for .* libopenblas.so.0: cannot open")


def test_no_runtime(board: Device, tmp_path: Path) -> None:
    (board.hooks / "onnxruntime.py").write_text("raise ImportError('no onnxruntime')")
    Run(tmp_path, board, **SHORT).fails("no onnxruntime|onnxruntime is not installed")


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A device whose temporary folder has 8 MB."""
    folder, disk = tmp_path / "board", tmp_path / "disk"
    folder.mkdir()
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "edgekd-test", disk], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    monkeypatch.setenv("PATH", f"{client(folder)}{os.pathsep}{os.environ['PATH']}")
    try:
        with device(folder, temporary=disk) as found:
            yield found
            assert leftovers(found) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_too_little_room(small_disk: Device, tmp_path: Path) -> None:
    Run(tmp_path, small_disk).fails("its temporary folder has 8 MB free, 67 MB are needed: make room")


def test_a_disk_that_is_full_before_all_is_sent(
    small_disk: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_folder, "RESULTS_BYTES", 0)
    run = Run(tmp_path, small_disk)
    (run.job / "inputs/large.npz").write_bytes(bytes(6_000_000))
    made = Connection.transfer

    def transfer(connection: Connection, *given: Any) -> Done:
        (small_disk.temporary / "other").write_bytes(bytes(4_000_000))
        return made(connection, *given)

    monkeypatch.setattr(Connection, "transfer", transfer)
    run.fails(rf"the disk with {small_disk.temporary}/edgekd-\w+ is full")


def test_a_disk_that_the_results_fill(small_disk: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_folder, "RESULTS_BYTES", 0)
    small_disk.hook(f"if 'run' in words: open({str(small_disk.temporary / 'other')!r}, 'wb').write(bytes(9_000_000))")
    Run(tmp_path, small_disk).fails(rf"the disk with {small_disk.temporary}/edgekd-\w+ is full")


def test_files_that_have_arrived_are_not_sent_again(
    board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks in the third file."""
    board.hook(RESULT)
    monkeypatch.setattr(device_folder, "LARGE_BYTES", 1)
    made, batches = Connection.transfer, list[list[str]]()

    def transfer(connection: Connection, batch: list[str], cwd: Path, watch: Callable[[str], None]) -> Done:
        batches.append(batch)
        part = batch[:4] if len(batches) == 1 else batch
        done = made(connection, part, cwd, lambda text: None)
        watch(done.out)
        if part is not batch:
            raise LostError("the cable was pulled")
        return done

    monkeypatch.setattr(Connection, "transfer", transfer)
    run = Run(tmp_path, board)
    run()
    assert list(content(run.out)["files"]) == ["outputs/numbers"]
    assert batches[1] == [batches[0][0], *batches[0][3:]]
    assert run.said[0] == "the cable was pulled; trying again for 5 minutes"


@pytest.mark.parametrize("folder", ["job/models/teacher.onnx", "manifest.json"])
def test_what_was_damaged_on_its_way_there(
    board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    made = Connection.transfer

    def transfer(connection: Connection, *given: Any) -> Done:
        done = made(connection, *given)
        with (board.folders()[0] / folder).open("ab") as file:
            file.write(b"x")
        return done

    monkeypatch.setattr(Connection, "transfer", transfer)
    Run(tmp_path, board).fails(f"{folder} (is missing or )?was damaged on its way to the device")


def test_what_was_damaged_on_its_way_back(board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Connection.transfer

    def transfer(connection: Connection, batch: list[str], *given: Any) -> Done:
        damaged = [path for path in board.folders()[0].rglob("out/**/*") if path.name == "numbers"]
        if any(line.startswith("get") for line in batch):
            with damaged[0].open("ab") as stream:
                stream.write(b" ")
        return made(connection, batch, *given)

    monkeypatch.setattr(Connection, "transfer", transfer)
    board.hook(RESULT)
    Run(tmp_path, board).fails("out/outputs/numbers was damaged on its way from the device")


def test_a_measurement_that_lists_no_files(board: Device, tmp_path: Path) -> None:
    board.hook(RESULT.replace("{'files': files}", "[]"))
    Run(tmp_path, board).fails("measurement.json of the device does not list its files")


def test_a_device_that_sends_without_end(board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it announces, no more is taken; the limits are lowered here instead."""
    monkeypatch.setattr(device_folder, "LARGEST_RESULTS_BYTES", -device_folder.RESULTS_BYTES)
    Run(tmp_path, board).fails("it sends more than the .* bytes that it announced, or more than")


def test_a_line_without_end(board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_LONGEST_LINE", 100)
    with remote.connect(board.address) as connection, pytest.raises(RemoteError, match="a line of more than 100 bytes"):
        list(connection.lines("head -c 1000 /dev/zero; sleep 5", time.monotonic() + 30))


def test_a_folder_that_somebody_removes(board: Device, tmp_path: Path) -> None:
    board.hook(WAIT)
    run = Run(tmp_path, board, **SHORT)
    run.once("evaluate", lambda: subprocess.run(["rm", "-r", *board.folders()], check=True))
    run.fails("was removed there by somebody else")


@pytest.mark.parametrize(
    "name", ["../../.bashrc", "/etc/passwd", "a/../../b", "a/..", "-rf", "a b", 'a"b', "a\nput x y", "a*"]
)
def test_names_that_a_device_may_not_give(name: str, tmp_path: Path) -> None:
    nowhere = Connection(Address("nowhere.invalid"), tmp_path)
    folder = device_folder.DeviceFolder(nowhere, "python3", "/tmp/edgekd-12345678")
    with pytest.raises(RemoteError, match="is no name of a file that goes over ssh"):
        folder.fetch({name: ""}, tmp_path, lambda *_: None, 0, print)


def test_an_agent_that_is_killed(board: Device, tmp_path: Path) -> None:
    board.hook(
        "if 'run' in words: print('almost done', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    Run(tmp_path, board, **SHORT).fails("the agent was killed, perhaps for lack of memory; its last words: almost done")


def test_a_serving_process_that_is_killed(board: Device, tmp_path: Path) -> None:
    """What it has started does not survive the host's cleaning."""
    board.hook(SLOW.format(seconds=600))
    run = Run(tmp_path, board, **SHORT)
    run.once("evaluate", lambda: os.kill(int((board.folders()[0] / "pid").read_text()), signal.SIGKILL))
    run.fails("the agent is gone: it was killed, perhaps for lack of memory, or the device was restarted$")


def test_an_agent_that_hangs(board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "GRACE_SECONDS", 0.0)
    board.hook(WAIT)
    Run(tmp_path, board, **SHORT).fails("the agent was ended after 0.02 minutes", timeout_s=1.2)


def test_a_measurement_can_be_cancelled(board: Device, tmp_path: Path) -> None:
    cancel = threading.Event()
    board.hook(WAIT)
    run = Run(tmp_path, board, **SHORT)
    run.once("evaluate", cancel.set)
    run.fails("interrupted", cancel=cancel)
    assert leftovers(board) == []


def test_an_interrupt_cleans_up(board: Device, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    board.hook(WAIT)
    run = Run(tmp_path, board, **SHORT)
    run.once("evaluate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert leftovers(board) == []


def test_what_is_kept_runs_no_more(board: Device, tmp_path: Path) -> None:
    board.hook(RESULT)
    run = Run(tmp_path, board)
    run(keep=True)
    (where,) = board.folders()
    assert run.said == [f"{board.address}: kept {where}"]
    assert where.stat().st_mode & 0o777 == 0o700
    assert sha256(where / "out/measurement.json") == sha256(run.out / "measurement.json")
    deadline = time.monotonic() + 5
    while board.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert board.processes() == {}
    subprocess.run(["rm", "-r", where], check=True)


def test_a_shell_that_talks(board: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a .bashrc prints is no answer."""
    talk = remote.Connection._ssh

    def noisy(connection: Connection, script: str) -> list[str]:
        *start, command = talk(connection, script)
        return [*start, f"echo Welcome!; {command}"]

    monkeypatch.setattr(remote.Connection, "_ssh", noisy)
    board.hook(ONE_RUNTIME)
    assert ssh.probe(board.address, sys.executable)["isa"]["arch"] == os.uname().machine
