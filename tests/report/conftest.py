from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .synthetic import write_run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a synthetic run into the test's folder."""

    def make(*args: Any, name: str = "run", **options: Any) -> Path:
        return write_run(tmp_path / name, *args, **options)

    return make
