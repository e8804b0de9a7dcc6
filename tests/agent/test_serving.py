"""A measurement that nobody waits for: started once, followed from anywhere, and removed in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekd.agent.files import sha256, write_json
from edgekd.agent.serving import _read, turn

from .command import ROOT, agent, ends
from .networks import linear, write_job


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return a function that writes a job that only evaluates, and serves it."""
    folder = tmp_path / "served"

    def serve(lease: float = 600.0, **fields: Any) -> Path:
        job = write_job(
            folder / "job", {"teacher": linear(folder / "job/models/teacher.onnx")}, latency_inputs=None, **fields
        )
        files = {str(path.relative_to(folder)): sha256(path) for path in sorted(job.rglob("*")) if path.is_file()}
        write_json(folder / "manifest.json", files)
        started = agent("serve", folder, "--lease", lease)
        assert (started.returncode, started.stdout, started.stderr) == (0, "", "")
        return folder

    yield serve
    if (folder / "pid").exists():
        process = (folder / "pid").read_text().strip()
        if not ends(process, 0.01):
            os.kill(int(process), signal.SIGTERM)
            assert ends(process)


def follow(folder: Path, offset: int = 0) -> list[dict[str, Any]]:
    followed = agent("follow", folder, offset)
    assert (followed.returncode, followed.stderr) == (0, "")
    return [json.loads(line) for line in followed.stdout.splitlines()]


def test_all_events_come_and_come_again_from_their_offset(served: Callable[..., Path]) -> None:
    folder = served()
    *events, end = follow(folder)
    assert events[-1]["event"] == "done"
    assert {event["event"] for event in events[:-1]} == {"progress"}
    told = (folder / "events.jsonl").read_bytes()
    assert [event["offset"] for event in events] == [
        index + 1 for index, byte in enumerate(told) if byte == ord("\n")
    ]  # one event a line
    out = folder / "out"
    assert end == {
        "event": "end",
        "code": 0,
        "sha256": sha256(out / "measurement.json"),
        "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        "log": "",
    }
    assert follow(folder, events[1]["offset"]) == [*events[2:], end]
    assert follow(folder, events[-1]["offset"]) == [end]


def test_it_is_started_once(served: Callable[..., Path]) -> None:
    folder = served()
    process = (folder / "pid").read_text().strip()
    for _ in range(2):  # while it works, and when it has ended
        assert agent("serve", folder).returncode == 0
        assert (folder / "pid").read_text().strip() == process
        events = follow(folder)
    assert len([event for event in events if event["event"] == "done"]) == 1


def test_two_measurements_take_turns(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    entered: list[Path] = []

    def second() -> None:
        with turn(folders[1]):
            entered.append(folders[1])

    for folder in folders:
        folder.mkdir()
    thread = threading.Thread(target=second)
    with turn(folders[0]):
        thread.start()
        while not _read(folders[1] / "events.jsonl", 0)[0]:
            time.sleep(0.01)
        assert entered == []
    thread.join(30)
    assert entered == [folders[1]]
    ((event,), _) = _read(folders[1] / "events.jsonl", 0)
    assert (event["phase"], event["detail"]) == ("waiting", "for another measurement on this device")
    assert list(folders[0].iterdir()) == []


def test_nobody_comes_for_the_results(served: Callable[..., Path]) -> None:
    folder = served(lease=1.0)
    process = (folder / "pid").read_text().strip()
    assert follow(folder)[-1]["code"] == 0
    assert ends(process)
    assert not folder.exists()


def test_it_leaves_its_terminal(served: Callable[..., Path]) -> None:
    folder = served()
    process = int((folder / "pid").read_text())
    assert os.getsid(process) == process
    files = [str(Path(f"/proc/{process}/fd/{number}").readlink()) for number in range(3)]
    assert files == ["/dev/null", str(folder / "log.txt"), str(folder / "log.txt")]


def test_an_error_of_the_job_is_told(served: Callable[..., Path]) -> None:
    *_, error, end = follow(served(backend="abacus"))
    assert error["event"] == "error"
    assert "there is no backend 'abacus'" in error["message"]
    assert (end["code"], end["sha256"]) == (1, None)


def test_a_killed_server_is_told_at_once(served: Callable[..., Path]) -> None:
    folder = served()
    process = (folder / "pid").read_text().strip()
    os.kill(int(process), signal.SIGKILL)
    assert ends(process)
    assert follow(folder)[-1] == {"event": "end", "code": None, "sha256": None, "bytes": None, "log": ""}


def test_whoever_follows_is_told_that_all_is_well(served: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that has gone ends the follower at the next sign of life."""
    folder = served()
    follow(folder)
    (folder / "exit.json").rename(folder / "later.json")  # it seems to go on
    offset = (folder / "events.jsonl").stat().st_size
    code = "from edgekd.agent import serving, __main__ as m; serving.HEARTBEAT_SECONDS = 0.1; m.main()"
    command = [sys.executable, "-c", code, "follow", str(folder), str(offset)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"event": "alive"}
        process.stdout.close()
        assert ends(str(process.pid))


def test_a_removed_folder_ends_who_follows(served: Callable[..., Path]) -> None:
    folder = served()
    follow(folder)
    (folder / "exit.json").rename(folder / "later.json")
    command = [sys.executable, "-m", "edgekd.agent", "follow", str(folder), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        folder.rename(folder.with_name("gone"))
        assert process.wait(20) == 0
    folder.with_name("gone").rename(folder)


def test_a_file_that_is_not_the_one_that_was_sent(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    write_json(tmp_path / "manifest.json", {"a": "0" * 64})
    refused = agent("serve", tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == "error: a is missing or was damaged on its way to the device; send it again\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "manifest.json"]


def test_nothing_is_served(tmp_path: Path) -> None:
    asked = agent("follow", tmp_path, 0)
    assert asked.returncode == 1
    assert asked.stderr == f"error: nothing is measured in {tmp_path}; was the device restarted meanwhile?\n"


def test_a_line_that_is_not_whole_waits(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    assert _read(events, 0) == ([], 0)
    events.write_bytes(b'{"event": "done"}\n{"event": "pro')
    assert _read(events, 0) == ([{"event": "done", "offset": 18}], 18)
    assert _read(events, 18) == ([], 18)
    with events.open("ab") as file:
        file.write(b'gress"}\n')
    assert _read(events, 18) == ([{"event": "progress", "offset": 40}], 40)
