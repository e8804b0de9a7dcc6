"""Storages: those that are not there are told before any work, and no password is ever shown."""

from __future__ import annotations

import socket
import sys

import pytest

from edgekd.errors import UsageError
from edgekd.tuning.storage import Heartbeat, opened, shown

PASSWORD = "hunter2-of-nobody"


def _refused(url: str) -> str:
    with pytest.raises(UsageError) as error, opened(url, Heartbeat()):
        pass
    assert PASSWORD not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (PASSWORD, "this is no URL of a database; write sqlite:///FILE, or postgresql://"),
        ("trials.db", "this is no URL"),
        (f"mysql://me:{PASSWORD}@host/db", "mysql is no kind of storage that edgekd knows"),
        (f"postgresql+psycopg2://me:{PASSWORD}@host/db", "postgresql+psycopg2 is no kind"),
        (f"postgresql://host/db?password={PASSWORD}", "write the password before the host"),
        (f"postgresql://me:{PASSWORD}@host:port/db", "this is no URL"),
        ("sqlite://", "a search in memory would be lost"),
        ("sqlite:///nowhere/at/all/trials.db", "sqlite:///nowhere/at/all/trials.db cannot be used: unable to open"),
    ],
)
def test_what_is_no_storage(url, told, workplace):
    assert told in _refused(url)


def test_a_file_of_something_else_is_no_storage(workplace):
    (workplace / "notes.db").write_text("no database\n" * 100)
    assert "notes.db cannot be used: file is not a database" in _refused("sqlite:///notes.db")
    assert (workplace / "notes.db").read_text() == "no database\n" * 100


def test_a_server_that_is_not_there_is_told_without_the_password():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message = _refused(f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/db")
    assert f"postgresql+psycopg://me:***@127.0.0.1:{port}/db cannot be used: connection failed" in message


def test_a_driver_that_is_not_installed_is_named_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "pip install 'edgekd[postgresql]'" in _refused(f"postgresql://me:{PASSWORD}@127.0.0.1:1/db")


def test_a_password_is_never_shown():
    assert shown(f"postgresql://me:{PASSWORD}@host/db") == "postgresql+psycopg://me:***@host/db"
    assert shown("sqlite:////a/b.db") == "sqlite:////a/b.db"
