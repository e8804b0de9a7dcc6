"""What was found in large files is found once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sources import samples, write_arrays, write_images, write_shards

from edgekd import data
from edgekd.data.loading import findings, images, npy, tar
from edgekd.data.loading.findings import Findings
from edgekd.errors import UsageError

LARGE = {"arrays": write_arrays, "images": write_images, "shards": write_shards}


@pytest.fixture(params=LARGE)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return LARGE[request.param](tmp_path / "source", samples())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the files whose whole content is read."""
    seen: list[Path] = []

    def spy(module: Any, name: str, path_of: Callable[[Any], Path]) -> None:
        original = getattr(module, name)

        def wrapped(argument: Any, *rest: Any) -> Any:
            seen.append(path_of(argument))
            return original(argument, *rest)

        monkeypatch.setattr(module, name, wrapped)

    spy(tar, "_members", lambda path: path)
    spy(images, "content", lambda path: path)
    spy(npy.Rows, "raw", lambda rows: rows.path)
    return seen


def again(root: Path) -> data.Data:
    data._LAST.clear()  # as another process would
    return data.load(str(root), validation=0.2, stream=True)


def test_the_second_start_reads_no_training_sample_but_validation(root: Path, reads: list[Path], index: Path) -> None:
    first = again(root).digest
    assert reads
    held = [path for path in reads if path.name == "x_test.npy"]
    reads.clear()
    assert again(root).digest == first
    assert [path for path in reads if path.name != "x_train.npy"] == held
    assert reads.count(root / "x_train.npy") == (1 if held else 0), "to hold validation out"
    shutil.rmtree(index)
    assert again(root).digest == first


def test_nothing_is_written_beside_the_data(root: Path, index: Path) -> None:
    before = sorted(root.rglob("*"))
    again(root)
    assert sorted(root.rglob("*")) == before
    assert {path.suffix for path in index.iterdir()} == {".npz", ".lock"}


def test_changed_files_are_read_again(root: Path, reads: list[Path]) -> None:
    first = again(root).digest
    files = sorted(path for path in root.rglob("*") if path.is_file() and "train" in str(path.relative_to(root)))
    changed = files[0]
    state = changed.stat()
    os.utime(changed, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))
    reads.clear()
    assert again(root).digest == first, "the content is the same"
    assert changed in reads


def test_a_damaged_finding_is_found_again(root: Path, index: Path) -> None:
    first = again(root).digest
    for damage in (b"", b"text", b"PK\3\4 nothing"):
        for path in index.glob("*.npz"):
            path.write_bytes(damage)
        assert again(root).digest == first
    assert all(np.load(path).files for path in index.glob("*.npz"))
    assert not list(index.glob(".*"))


def test_a_folder_that_cannot_be_written_is_said(root: Path, index: Path) -> None:
    index.write_text("a file in the way")
    with pytest.raises(
        UsageError, match=r"\.index: what was found in large files cannot be kept: .*--data-dir or EDGEKD"
    ):
        again(root)


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(findings.np, "savez", full)
    with pytest.raises(UsageError, match="cannot be kept: No space left"):
        Findings(tmp_path).get("kind", [], lambda: {"a": 1})
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_of_several_that_ask_at_once_one_finds(tmp_path: Path) -> None:
    found: list[int] = []

    def find() -> dict[str, Any]:
        found.append(1)
        return {"values": np.arange(5)}

    with ThreadPool(8) as pool:
        got = pool.map(lambda _: Findings(tmp_path).get("kind", [], find), range(8))
    assert len(found) == 1
    assert all(one["values"].tolist() == [0, 1, 2, 3, 4] for one in got)


def test_progress_is_told(root: Path, index: Path) -> None:
    told: list[tuple[int, int, str]] = []
    data.load(str(root), validation=0.2, stream=True, progress=lambda *sign: told.append(sign))
    assert told
    assert all(0 <= done < total and "digest" in text for done, total, text in told)
