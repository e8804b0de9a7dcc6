from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.agent.children import ChildError, run_child

from .command import ends

TASK = {"label": "latency", "cores": None}

# A child gets the task file and the number of the descriptor for its events.
START = "import json, os, signal, sys, time; task = json.load(open(sys.argv[1])); events = int(sys.argv[2]);"
TELL = "os.write(events, json.dumps({'variant': 'int8', 'detail': 'int8: warm-up'}).encode() + b'\\n');"


def run(code: str, work: Path, stall_seconds: float = 30.0) -> tuple[dict[str, object], list[str]]:
    details: list[str] = []
    result = run_child(
        {**TASK, "kind": "latency"}, work, details.append, stall_seconds, lambda: [sys.executable, "-c", START + code]
    )
    return result, details


def test_result_and_progress_come_back(tmp_path: Path) -> None:
    code = TELL + "print('noise of a runtime'); open(task['result'], 'w').write(json.dumps({'answer': task['label']}))"
    assert run(code, tmp_path) == ({"answer": "latency"}, ["int8: warm-up"])


def test_a_killed_child_is_told_with_phase_variant_and_last_words(tmp_path: Path) -> None:
    code = TELL + "print('allocating', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(ChildError) as caught:
        run(code, tmp_path)
    assert caught.value.variant == "int8"
    message = str(caught.value)
    assert message.startswith("latency of int8: the process was killed by SIGKILL; the device may be out of memory")
    assert message.endswith("It wrote last:\n    allocating")


def test_a_crash_shows_the_end_of_its_output(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match=r"latency: the process ended with exit code 1") as caught:
        run("[print(line) for line in range(100)]; sys.exit('broken')", tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[-1] == "    broken"
    assert len(lines) == 13


def test_a_child_without_a_result_failed(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match=r"ended with exit code 0, and wrote nothing"):
        run("pass", tmp_path)


def test_an_error_of_the_agent_is_passed_on_as_it_is(tmp_path: Path) -> None:
    code = TELL + "open(task['result'], 'w').write(json.dumps({'error': 'no such layer'})); sys.exit(1)"
    with pytest.raises(ChildError) as caught:
        run(code, tmp_path)
    assert (str(caught.value), caught.value.variant) == ("no such layer", "int8")


def test_a_silent_child_is_ended_with_its_own_children(tmp_path: Path) -> None:
    code = (
        TELL
        + "import subprocess; inner = subprocess.Popen(['sleep', '600']);"
        + f"open({str(tmp_path / 'pid')!r}, 'w').write(str(inner.pid)); time.sleep(600)"
    )
    with pytest.raises(ChildError, match=r"latency of int8: no progress for 4 s; stopped"):
        run(code, tmp_path / "work", stall_seconds=4)
    assert ends((tmp_path / "pid").read_text())


def test_a_process_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match=r"latency: no process can be started: .*No such file .*'/no/python'"):
        run_child({**TASK, "kind": "latency"}, tmp_path, print, 4, lambda: ["/no/python"])


def test_a_signal_without_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match=r"the process was killed by signal 40, and wrote nothing"):
        run("signal.raise_signal(40); time.sleep(600)", tmp_path)


@pytest.mark.parametrize("code", ["pass", "time.sleep(600)"])
def test_a_process_that_does_not_die_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    real = subprocess.Popen.wait

    def wait(child: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        real(child)
        assert timeout is not None
        raise subprocess.TimeoutExpired(child.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    with pytest.raises(ChildError, match=r"latency: no progress for 0\.5 s; stopped"):
        run(code, tmp_path, stall_seconds=0.5)


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for index in range(3):
        with pytest.raises(ChildError):
            run("pass", tmp_path / str(index))
        with pytest.raises(ChildError):
            run_child({**TASK, "kind": "latency"}, tmp_path / str(index), print, 4, lambda: ["/no/python"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
