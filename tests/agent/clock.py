"""A clock that moves only when a test, or somebody's sleep, moves it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.on_move: Callable[[], None] = lambda: None
        self.slept: list[float] = []

    def spend(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)
        self.on_move()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.spend(seconds)

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9

    def perf_counter(self) -> float:
        return 1000 + self.now_ns / 1e9

    def install(self, patch: pytest.MonkeyPatch, *modules: ModuleType) -> Clock:
        for module in modules:
            patch.setattr(module, "time", self)
        return self
