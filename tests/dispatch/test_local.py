"""The agent on this machine, with this interpreter or another one."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from agent.networks import linear, samples, weights, write_job

from edgekd.agent.files import read_npz
from edgekd.dispatch import local
from edgekd.dispatch.hearing import Hearing, ending, too_long
from edgekd.dispatch.local import MeasurementError

from .sshd import python


def job(folder: Path) -> Path:
    models = {"teacher": linear(folder / "job/models/teacher.onnx")}
    return write_job(folder / "job", models, latency_inputs=None, inputs={"validation": "inputs/validation.npz"})


def test_another_interpreter_gets_the_agent_as_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    interpreter = python(tmp_path, before=f'echo "$PYTHONPATH|$1" >>{tmp_path}/started')
    shown: list[str] = []
    local.measure(
        job(tmp_path), tmp_path / "out", timeout_s=60, progress=lambda *told: shown.append(told[2]), python=interpreter
    )
    found = json.loads((tmp_path / "out/measurement.json").read_text())
    logits = read_npz(tmp_path / "out" / found["variants"]["teacher"]["outputs"]["validation"])["logits"]
    np.testing.assert_allclose(logits, samples(5, seed=1) @ weights(), rtol=0, atol=1e-6)
    assert shown[0] == "evaluate backend onnxruntime"
    path, agent = (tmp_path / "started").read_text().strip().split("|")
    assert (path, Path(agent).name) == ("", "agent.pyz")
    assert not Path(agent).exists()


def test_probes_agree(tmp_path: Path) -> None:
    here, other = local.probe(), local.probe(python(tmp_path))
    assert here["isa"] == other["isa"]
    assert here["backends"]["onnxruntime"]["version"] == other["backends"]["onnxruntime"]["version"]


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    words = "there is no interpreter /usr/bin/python4.2 on this machine"
    with pytest.raises(MeasurementError, match=words):
        local.probe("/usr/bin/python4.2")
    with pytest.raises(MeasurementError, match=words):
        local.measure(job(tmp_path), tmp_path / "out", timeout_s=9, progress=print, python="/usr/bin/python4.2")


def test_an_interpreter_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("no program")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(MeasurementError, match="Exec format error"):
        local.probe(str(tmp_path / "python"))
    with pytest.raises(MeasurementError, match="Exec format error"):
        local.measure(job(tmp_path), tmp_path / "out", timeout_s=9, progress=print, python=str(tmp_path / "python"))


def test_an_interpreter_without_numpy(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="numpy is not installed for"):
        local.probe(python(tmp_path, "-S"))


def test_an_agent_that_takes_too_long(tmp_path: Path) -> None:
    slow = python(tmp_path, before="exec sleep 600")
    with pytest.raises(MeasurementError, match=r"the agent was ended after 0\.005 minutes"):
        local.measure(job(tmp_path), tmp_path / "out", timeout_s=0.3, progress=print, python=slow)


def test_what_an_agent_was_at_that_took_too_long_is_told() -> None:
    hearing = Hearing(lambda *_: None)
    assert (
        too_long(90, hearing.doing) == "the agent was ended after 1.5 minutes (measure.timeout_minutes in the recipe)"
    )
    hearing.take('{"event": "progress", "phase": "prepare", "done": 0, "total": 1, "detail": "building m.onnx, 9 s"}')
    hearing.take("what a runtime prints")
    assert too_long(90, hearing.doing).endswith("; it was at: prepare building m.onnx, 9 s")


def test_an_agent_that_takes_too_long_may_set_things_back(tmp_path: Path) -> None:
    """Clocks that are locked do not stay so."""
    slow = python(tmp_path, before=f"trap 'kill $!; touch {tmp_path}/back; exit 130' TERM\nsleep 600 & wait")
    with pytest.raises(MeasurementError, match="the agent was ended after"):
        local.measure(job(tmp_path), tmp_path / "out", timeout_s=0.3, progress=print, python=slow)
    assert (tmp_path / "back").exists()


@pytest.mark.parametrize("said", ["nothing to read", "{", '{"protocol": 2}'])
def test_a_probe_that_is_none(said: str, tmp_path: Path) -> None:
    other = python(tmp_path, before=f"printf '\\377%s' '{said}'; exit 0")
    with pytest.raises(MeasurementError, match="python: the device's answer is no probe"):
        local.probe(other)


def test_words_that_are_no_text(tmp_path: Path) -> None:
    odd = python(tmp_path, before="printf 'caf\\351 \\033[2Jbad\\n' >&2; printf '\\377\\n'; exit 3")
    with pytest.raises(MeasurementError, match=r"exit code 3; its last words: caf\ufffd  \[2Jbad$"):
        local.measure(job(tmp_path), tmp_path / "out", timeout_s=9, progress=print, python=odd)


def test_an_agent_that_is_killed(tmp_path: Path) -> None:
    doomed = python(tmp_path, before="echo almost done >&2; kill -9 $$")
    with pytest.raises(MeasurementError, match="killed, perhaps for lack of memory; its last words: almost done"):
        local.measure(job(tmp_path), tmp_path / "out", timeout_s=9, progress=print, python=doomed)


@pytest.mark.parametrize(
    ("code", "log", "words"),
    [
        (2, "", "the agent ended with exit code 2"),
        (-signal.SIGSEGV, " \n", "the agent was killed by SIGSEGV"),
        (-40, "", "the agent was killed by signal 40"),
        (-signal.SIGKILL, "a\nb\n", "the agent was killed, perhaps for lack of memory; its last words: a | b"),
        (1, "\n".join("abcdefg"), "the agent ended with exit code 1; its last words: c | d | e | f | g"),
    ],
)
def test_an_end_in_words(code: int, log: str, words: str) -> None:
    assert ending(code, log) == words


def test_what_is_no_event_is_nobodys_message() -> None:
    shown: list[tuple[int, int, str]] = []
    hearing = Hearing(lambda *told: shown.append(told))
    assert hearing.take("Welcome to this board") == hearing.take("[1]") == hearing.take("") == {}
    assert hearing.take("[" * 100_000) == {}
    for broken in ('{"event": "progress"}', '{"event": "progress", "done": "1", "total": null}', '{"event": []}'):
        hearing.take(broken)
    hearing.take('{"event": "progress", "phase": "latency", "done": 1, "total": 5, "detail": "\\u001b[2J"}')
    assert shown == [(1, 5, "latency  [2J")]
    assert (hearing.message, hearing.done) == ("", False)
    hearing.take('{"event": "error", "message": "no such backend"}')
    hearing.take('{"event": "done"}')
    assert (hearing.message, hearing.done) == ("no such backend", True)
