"""One tiny run of the whole chain that many tests look at, and a user at the command line."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from installing import pip
from tiny import ROOT, Chain, Outcome, tiny
from tqdm import tqdm

from edgekd import Recipe, cli, run
from edgekd.dispatch import job, local

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what ends with &, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Whatever library shows a bar starts a thread for good, which takes a lock of all processes every ten seconds: it has
# aborted the interpreter in a test that forks.
tqdm.monitor_interval = 0

# How long one input takes says how busy the machine is.
hypothesis.settings.register_profile("edgekd", deadline=None)
hypothesis.settings.load_profile("edgekd")


@pytest.fixture(scope="session", autouse=True)
def _short_measurements() -> Iterator[None]:
    """Warm-up and throughput are no options of a recipe; what is left is the start of the agent's processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "QUICK", replace(job.QUICK, warmup_seconds=0.05, throughput_seconds=0.05))
        yield


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Run the tiny recipe once, from nothing to its report."""
    folder = tmp_path_factory.mktemp("chain")
    recipe = Recipe.of(**tiny())
    result = run(recipe, devices=["cpu"], out=folder / "run", store=folder / "store")
    return Chain(recipe, folder / "store", result)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel that a user would install."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def store(chain: Chain, tmp_path: Path) -> Path:
    """Return a copy of the tiny run's store, to be changed."""
    shutil.copytree(chain.store, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let every measurement fail at once; returns the jobs that were asked for."""
    jobs: list[Path] = []

    def measure(folder: Path, out: Path, **options: Any) -> None:
        jobs.append(folder)
        raise local.MeasurementError("no measurement in this test")

    monkeypatch.setattr(local, "measure", measure)
    return jobs


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty working directory whose modules nobody else sees."""
    folder = tmp_path / "workplace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("EDGEKD_DATA", raising=False)
    monkeypatch.setenv("EDGEKD_HOME", str(tmp_path / "store"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def edgekd(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Return the command line, run in this process; what a user would see is checked to be plain."""
    handler = signal.getsignal(signal.SIGTERM)

    def command(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["edgekd", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        assert "Traceback" not in out + err
        if left.value.code in (2, 3):
            assert "internal error" not in err, err
            assert len(err.splitlines()) < 24, "more than one screen"
        return Outcome(left.value.code, out, err)

    yield command
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def module(workplace: Path) -> Callable[[str], str]:
    """Return a function that writes a user's module and gives its name."""

    def write(source: str) -> str:
        name = f"mine_{uuid.uuid4().hex[:8]}"
        (workplace / f"{name}.py").write_text(source)
        return name

    return write


@pytest.fixture
def write_recipe(workplace: Path) -> Callable[..., Path]:
    """Return a function that writes a recipe on small random images, with changes; JSON is YAML."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = generator.standard_normal((60, 1, 6, 6)).astype(np.float32) + labels[:, None, None, None]
    arrays = {"x_train": images[:40], "y_train": labels[:40], "x_test": images[40:], "y_test": labels[40:]}

    def write(**changes: Any) -> Path:
        np.savez(workplace / "small.npz", **arrays)
        content = {
            "version": 1,
            **tiny(data={"source": "small.npz", "validation": 0.25}),
            "teacher": {"model": "mlp", "widths": [32], "epochs": 1, "batch_size": 8},
            "student": {"model": "mlp", "widths": [16], "epochs": 1, "batch_size": 8},
            **changes,
        }
        path = workplace / "small.yaml"
        path.write_text(json.dumps(content))
        return path

    return write
