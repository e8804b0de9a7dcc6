"""How the agent's command line ends: with a message, and without leaving a process behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

from edgekd.agent.__main__ import COMMANDS
from edgekd.agent.method import Method

from .command import ROOT, agent, ends
from .networks import TINY, linear, write_job


def test_a_used_folder_is_refused(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", {"teacher": linear(tmp_path / "job/models/t.onnx")})
    ran = agent("run", job, tmp_path / "job")
    assert ran.returncode == 1
    event = json.loads(ran.stdout)
    assert event["event"] == "error"
    assert "is not empty; name a new folder" in event["message"]
    assert "Traceback" not in ran.stderr


def test_every_command_says_what_it_does() -> None:
    told = agent("--help").stdout
    assert set(COMMANDS) >= {"run", "bench", "probe", "bundle"}
    for name, (about, _, _) in COMMANDS.items():
        assert re.search(rf"^ +{name} +{re.escape(about.split(',')[0][:40])}", told, re.MULTILINE)
    assert "child" not in told


def test_errors_are_for_people(tmp_path: Path) -> None:
    ran = agent("bench", tmp_path / "none.onnx")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"error: there is no file {tmp_path / 'none.onnx'}\n"
    assert agent("bench").returncode == 2


def test_an_interrupted_agent_leaves_no_process(tmp_path: Path) -> None:
    """SIGTERM is answered in order; after SIGKILL the kernel ends the children."""
    method = Method(**{**vars(TINY), "seconds": 600.0})
    job = write_job(tmp_path / "job", {"teacher": linear(tmp_path / "job/models/t.onnx")}, method=method)
    for number, code in ((signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)):
        out = tmp_path / f"out{number}"
        command = [sys.executable, "-m", "edgekd.agent", "run", str(job), str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
            assert running.stdout is not None
            for line in running.stdout:
                if json.loads(line)["phase"] == "latency":
                    break
            children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
            assert len(children) == 1
            running.send_signal(number)
            rest = running.stdout.read()
        assert running.returncode == code
        if number == signal.SIGTERM:
            assert json.loads(rest.splitlines()[-1]) == {"event": "error", "message": "interrupted"}
        assert ends(children[0])
        assert not (out / "measurement.json").exists()
