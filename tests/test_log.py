"""The log of a run: what a line says, and what happens to it when the run ends well, badly, or not at all."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgekd import error_codes, log, recording
from edgekd.artifact import open_store
from edgekd.dispatch.measurement import Outcome
from edgekd.errors import StageError
from edgekd.log import Log
from edgekd.making import Show


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logs" / "run.jsonl"


def test_a_line_says_when_how_grave_and_what(path, told):
    found = Log(path, told.append)
    found.write("step", step="teacher", folder=Path("/x"), cached=False)
    found.write("warning", level="warning", text="two\nlines")
    first, second = _lines(path)
    assert datetime.fromisoformat(first["time"]).tzinfo is UTC
    assert 0 <= first["elapsed_s"] <= second["elapsed_s"]
    assert list(first) == ["time", "elapsed_s", "level", "event", "step", "folder", "cached"]
    assert (first["level"], first["folder"], second["level"], second["text"]) == ("info", "/x", "warning", "two\nlines")
    assert told == []


def test_addresses_name_no_password(path, told):
    Log(path, told.append).write("run", command=["edgekd", "--storage", "postgresql://me:s3cret@host:5432/db"])
    assert _lines(path)[0]["command"][2] == "postgresql://***@host:5432/db"
    for secret, shown in {
        "postgresql://me:p@ss/w@host/db": "postgresql://***@host/db",
        "https://t0ken@host/x": "https://***@host/x",
        "https://host/x?a=1&access_token=t0ken&b=2": "https://host/x?a=1&access_token=***&b=2",
        "postgresql://host/db?password=s3cret": "postgresql://host/db?password=***",
        json.dumps({"url": 'a://me:s3"cret@host', "mail": "b@c"}): '{"url": "a://***@host", "mail": "b@c"}',
    }.items():
        assert log.without_secrets(secret) == shown
    for plain in ("http://host:80/a@b", "https://host/a@b?c=token", "jetson=nvidia@10.0.0.7", "a: b@c"):
        assert log.without_secrets(plain) == plain


def test_lines_of_several_threads_stay_whole(path, told):
    found = Log(path, told.append)
    threads = [
        threading.Thread(target=lambda one=one: [found.write("x", one=one, n=n, text="." * 500) for n in range(50)])
        for one in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = _lines(path)
    assert len(lines) == 200
    for one in range(4):
        assert [line["n"] for line in lines if line["one"] == one] == list(range(50))


def test_a_log_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path, told):
    (tmp_path / "logs").write_text("a file is in its way")
    found = Log(tmp_path / "logs" / "run.jsonl", told.append)
    for _ in range(3):
        found.write("step")
    found.keep(tmp_path)
    (line,) = told
    assert "cannot be written" in line
    assert "goes on without it" in line
    assert not (tmp_path / log.FILE).exists()


def test_progress_is_written_now_and_then_and_at_its_end(monkeypatch):
    now = 100.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    written: list[int] = []
    progress = log.seldom(lambda done, total, text: written.append(done))
    for done in range(1, 101):
        now += 0.5
        progress(done, 100, "")
    assert written == [1, 21, 41, 61, 81, 100]


# ---- a run


def _recorded(tmp_path, told, **facts):
    store = open_store(tmp_path / "store")
    show = Show(say=told.append, note=lambda event, facts: told.append(event))
    return recording.recorded(store, show, "mine", datetime(2026, 1, 2, tzinfo=UTC), **facts)


def test_the_log_of_a_finished_run_is_in_its_folder_alone(tmp_path, told):
    with _recorded(tmp_path, told, kind="bench") as record:
        assert log.path_of(record.store.root, record.run_id).is_file()
        record.show.say("a word")
        record.show.working("measure")(1, 1, "done")
        record.store.warn("careful")
        record.measured({"cpu": Outcome(None, 1.5, {"a": Path("a.onnx")}), "far": Outcome({"kind": "failed"}, 0.1)})
        record.finish(tmp_path, exit_code=0)
    lines = _lines(tmp_path / log.FILE)
    assert [line["event"] for line in lines] == [
        "run", "message", "progress", "warning", "measured", "measured", "finished",
    ]  # fmt: skip
    assert (lines[0]["run"], lines[0]["kind"]) == (record.run_id, "bench")
    assert {"command", "versions", "host"} <= set(lines[0])
    assert (lines[4]["device"], lines[4]["variants"]) == ("cpu", ["a"])
    assert (lines[5]["device"], lines[5]["error"]) == ("far", {"kind": "failed"})
    assert told == ["a word", "careful", "measured", "measured"]
    assert list((tmp_path / "store" / "logs").iterdir()) == []
    assert record.target(None) == tmp_path / "store" / "runs" / record.run_id
    assert record.target("there") == Path("there")


def test_the_log_of_a_failed_run_stays_and_the_error_names_it(tmp_path, told):
    with pytest.raises(StageError) as failed, _recorded(tmp_path, told) as record:
        raise StageError("no luck")
    path = log.path_of(record.store.root, record.run_id)
    assert failed.value.log == path
    last = _lines(path)[-1]
    assert (last["event"], last["level"], last["message"], last["exit_code"]) == ("failed", "error", "no luck", 3)
    assert last["code"] == error_codes.code(failed.value)


def test_of_a_bug_the_log_has_the_traceback_and_of_an_interruption_that_it_was_one(tmp_path, told):
    with pytest.raises(ZeroDivisionError), _recorded(tmp_path, told) as record:
        print(1 // 0)
    last = _lines(log.path_of(record.store.root, record.run_id))[-1]
    assert (last["code"], last["message"]) == ("E-BUG", "integer division or modulo by zero")
    assert "ZeroDivisionError" in last["traceback"]
    with pytest.raises(KeyboardInterrupt), _recorded(tmp_path, told) as record:
        raise KeyboardInterrupt
    assert _lines(log.path_of(record.store.root, record.run_id))[-1]["event"] == "interrupted"
