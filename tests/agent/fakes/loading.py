"""Load the agent's TensorRT modules on top of a stand-in of a release, and take them away again."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgekd.agent import cudart

from . import tensorrt_api
from .bindings import NAMES, releases

RELEASES = ("8.5", "8.6", "10.3", "10.7", "10.13", "10.16", "11.0", "11.1")
LOWERING = RELEASES[:6]
"""Releases whose builder lowers the precision by itself."""

_SOURCE = Path(__file__).with_name("cudart.c")
_MODULES = ("nvinfer", "building", "engines", "execution", "backends.tensorrt")


@functools.cache
def library(*definitions: str) -> Path:
    """Compile the stand-in of CUDA's runtime, once for each content of its source; skip where there is no compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc, which compiles the stand-in of CUDA's runtime")
    key = hashlib.sha256(_SOURCE.read_bytes() + repr((definitions, os.getuid())).encode()).hexdigest()[:16]
    place = Path(tempfile.gettempdir()) / f"edgekd-fake-{key}" / "libcudart.so"
    if not place.exists():
        place.parent.mkdir(mode=0o700, exist_ok=True)
        partial = place.with_name(f"{os.getpid()}.so")
        options = [f"-D{definition}" for definition in definitions]
        command = ["gcc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *options, "-o", str(partial), str(_SOURCE)]
        subprocess.run(command, check=True)
        partial.replace(place)
    return place


def live(path: Path) -> int:
    """Return how many of the stand-in's handles have not been given back."""
    return int(ctypes.CDLL(str(path)).fake_live())


def need_names() -> None:
    """Skip where the list of names is not there."""
    if not releases():
        pytest.skip(f"{NAMES} is not there, which lists the names that each release of TensorRT has")


@contextmanager
def loaded(release: str, folder: Path, monkeypatch: pytest.MonkeyPatch, version: str | None = None) -> Iterator[Any]:
    """Give the backend as a device with this release would load it; nothing of its memory may be left at the end."""
    need_names()
    path = library()
    monkeypatch.setenv("EDGEKD_CUDART", str(path))
    monkeypatch.setenv("EDGEKD_ENGINE_CACHE", str(folder / "engines"))
    cudart.load.cache_clear()
    tensorrt_api.TIMED.clear()
    before = live(path)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", tensorrt_api.make(release, version))
        _forget()
        try:
            yield importlib.import_module("edgekd.agent.backends.tensorrt")
        finally:
            _forget()
            cudart.load.cache_clear()
    assert live(path) == before, "memory or handles of CUDA were not given back"


def _forget() -> None:
    for name in _MODULES:
        sys.modules.pop(f"edgekd.agent.{name}", None)
        parent = sys.modules.get(f"edgekd.agent.{name}".rpartition(".")[0])
        if hasattr(parent, name.rpartition(".")[2]):
            delattr(parent, name.rpartition(".")[2])
