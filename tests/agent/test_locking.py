"""Clocks are locked by what the board has for it, and set back however the measurement ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.agent import locking
from edgekd.agent.errors import AgentError

from .command import ROOT

FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >> {log}
case "$1" in
  --store) echo saved > "$2" ;;
  --restore) grep -q saved "$2" || exit 9 ;;
esac
{more}
"""


def install(folder: Path, log: Path, more: str = "") -> None:
    folder.mkdir()
    program = folder / "jetson_clocks"
    program.write_text(FAKE.format(log=log, more=more))
    program.chmod(0o755)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path / "calls"


def words(calls: Path) -> list[str]:
    return [" ".join(line.split()[:2]) for line in calls.read_text().splitlines()]


def test_not_asked_nothing_is_done(calls: Path, tmp_path: Path) -> None:
    install(tmp_path / "bin", calls)
    with locking.locked(False) as text:
        assert text is None
    assert not calls.exists()


def test_stored_locked_restored(calls: Path, tmp_path: Path) -> None:
    install(tmp_path / "bin", calls)
    with locking.locked(True) as text:
        assert words(calls) == ["jetson_clocks --store", "jetson_clocks"]
    assert text == "clocks locked by jetson_clocks, restored"
    assert words(calls)[2:] == ["jetson_clocks --restore"]
    first, _, last = calls.read_text().splitlines()
    assert first.split()[2] == last.split()[2]
    assert not list(tmp_path.glob("edgekd-clocks-*"))


def test_restored_after_an_error(calls: Path, tmp_path: Path) -> None:
    install(tmp_path / "bin", calls)
    with pytest.raises(ZeroDivisionError), locking.locked(True):
        raise ZeroDivisionError
    assert words(calls)[-1] == "jetson_clocks --restore"


def test_restored_when_locking_fails(calls: Path, tmp_path: Path) -> None:
    install(tmp_path / "bin", calls, '[ -n "$1" ] || { echo no such domain; exit 3; }')
    with pytest.raises(AgentError, match=r"ended with exit code 3 \(no such domain\)"), locking.locked(True):
        pytest.fail("the clocks are not locked")
    assert words(calls)[-1] == "jetson_clocks --restore"


def test_who_cannot_restore_says_how(calls: Path, tmp_path: Path) -> None:
    install(tmp_path / "bin", calls, '[ "$1" != --restore ] || exit 7')
    with (
        pytest.raises(AgentError, match=r"still locked: run `.*jetson_clocks --restore .*clocks.conf`"),
        locking.locked(True),
    ):
        pass
    assert len(list(tmp_path.glob("edgekd-clocks-*/clocks.conf"))) == 1  # what the command needs is still there


def test_sudo_without_a_password(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "bin", calls)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    sudo = tmp_path / "bin/sudo"
    sudo.write_text(f'#!/bin/sh\necho "sudo $1" >> {calls}; shift; exec "$@"\n')
    sudo.chmod(0o755)
    with locking.locked(True):
        pass
    assert words(calls)[::2] == ["sudo -n"] * 3
    sudo.write_text("#!/bin/sh\necho 'sudo: a password is required'; exit 1\n")
    with pytest.raises(AgentError, match=r"a password is required.*NOPASSWD: .*/jetson_clocks"), locking.locked(True):
        pytest.fail("the clocks are not locked")
    assert not list(tmp_path.glob("edgekd-clocks-*"))


def test_no_jetson(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AgentError, match="there is no jetson_clocks on this machine"), locking.locked(True):
        pytest.fail("the clocks are not locked")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_restored_when_interrupted(calls: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Two signals, as an impatient user sends them: the second comes while the clocks are being set back."""
    install(tmp_path / "bin", calls, '[ "$1" != --restore ] || { sleep 0.3; echo done >> ' + str(calls) + "; }")
    code = (
        "import os, signal, time; from edgekd.agent import __main__, locking; os.geteuid = lambda: 0;"
        "signal.signal(signal.SIGTERM, __main__._interrupt)\n"
        "with locking.locked(True): print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "locked\n"
        running.send_signal(number)
        ended = False
        while "--restore" not in calls.read_text():
            assert not ended
            ended = running.poll() is not None
        running.send_signal(number)
        running.communicate(timeout=30)
    assert calls.read_text().splitlines()[-1] == "done"
