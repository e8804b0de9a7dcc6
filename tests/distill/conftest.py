"""One thread: networks this small are not faster with more, and the tests share the machine."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.training.engine.threads", lambda: 1)
