"""Where the trials of a search are kept: one SQLite file on one machine, one PostgreSQL database across machines."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from edgekd.errors import UsageError

LOST = (StorageInternalError, SQLAlchemyError)
"""What is raised when a storage that was there is not there any more."""
DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgresql+psycopg": "postgresql+psycopg"}
CONNECT_S, BUSY_S = 10, 60
RETRIES = 3


@dataclass(frozen=True)
class Heartbeat:
    """How soon a trial whose worker is gone is noticed, and begun again.

    Args:
        every_s: seconds between two signs of life of a trial.
        grace_s: a trial without one for so long is lost.
    """

    every_s: int = 5
    grace_s: int = 45


@contextmanager
def opened(url: str, heartbeat: Heartbeat) -> Iterator[RDBStorage]:
    """Yield a storage, whose tables are made if needed.

    A trial that is lost waits to be tried again, at most three times: a trial may be what kills its workers.

    Args:
        url: sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/DATABASE.

    Raises:
        UsageError: it cannot be reached, or is no storage; the message has no password.
    """
    storage = _open(url, heartbeat)
    try:
        yield storage
    finally:
        storage.engine.dispose()


def _open(url: str, heartbeat: Heartbeat) -> RDBStorage:
    parsed = _parsed(url)
    options = {"timeout": BUSY_S} if parsed.drivername == "sqlite" else {"connect_timeout": CONNECT_S}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = RDBStorage(
                parsed.render_as_string(hide_password=False),
                engine_kwargs={"connect_args": options, "pool_pre_ping": True},
                heartbeat_interval=heartbeat.every_s,
                grace_period=heartbeat.grace_s,
                heartbeat_stale_trial_callback=again(RETRIES),
            )
        if parsed.drivername == "sqlite":
            _one_at_a_time(storage)
        return storage
    except ImportError as error:
        raise UsageError(
            f"--storage {shown(url)}: psycopg is not installed: pip install 'edgekd[postgresql]'"
        ) from error
    except (*LOST, RuntimeError) as error:
        raise UsageError(f"--storage {shown(url)} cannot be used: {reason(error, url)}") from None


def _one_at_a_time(storage: RDBStorage) -> None:
    """Let a transaction have the file for itself: SQLite has no lock of a row, and two workers would take one trial."""
    storage.engine.dispose()

    @event.listens_for(storage.engine, "connect")
    def leave_transactions_alone(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(storage.engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def again(retries: int | None = None) -> RetryHeartbeatStaleTrialCallback:
    """Return what makes a lost trial wait to be tried again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RetryHeartbeatStaleTrialCallback(max_retry=retries)


def shown(url: str) -> str:
    """Return a storage's URL without its password."""
    return _parsed(url).render_as_string(hide_password=True)


def reason(error: Exception, url: str) -> str:
    """Return the first line of what a database says, without the password."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    lines = str(getattr(cause, "orig", None) or cause).strip().splitlines()
    password = _parsed(url).password
    text = lines[0] if lines else type(error).__name__
    return text.replace(str(password), "***") if password else text


def _parsed(url: str) -> URL:
    """Return a URL with the driver that is used for it.

    Raises:
        UsageError: it is none, or of another kind of database. It is not repeated: it may hold a password.
    """
    kinds = "write sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/DATABASE"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(f"--storage: this is no URL of a database; {kinds}") from None
    if parsed.drivername not in DRIVERS:
        raise UsageError(f"--storage: {parsed.drivername} is no kind of storage that edgekd knows; {kinds}")
    if parsed.drivername == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UsageError("--storage: a search in memory would be lost; write sqlite:///FILE")
    if "password" in parsed.query:
        raise UsageError(f"--storage: write the password before the host; {kinds}")
    return parsed.set(drivername=DRIVERS[parsed.drivername])
