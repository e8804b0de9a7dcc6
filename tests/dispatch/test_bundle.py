"""What is in a bundle: all that a device needs, each file with its digest, the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from agent.networks import linear, quantized, write_job

from edgekd.agent import PROTOCOL
from edgekd.agent.bundling import verify
from edgekd.dispatch import bundle
from edgekd.errors import StageError
from edgekd.version import __version__


@pytest.fixture
def job(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    models = {"teacher": linear(folder / "models/t.onnx"), "int8": quantized(folder / "models/q.onnx")}
    return write_job(folder, models, device="board", backend="tensorrt", options={"precisions": ["fp32"]})


@pytest.fixture
def archive(job: Path, tmp_path: Path) -> Path:
    bundle.write(tmp_path / "bundle-board.zip", job, device="board", run_id="20300101-tiny-abcd")
    return tmp_path / "bundle-board.zip"


def read(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_everything_is_in_it_with_its_digest(archive, job):
    files = read(archive)
    told = json.loads(files.pop("bundle.json"))
    sent = {path.relative_to(job).as_posix(): path.read_bytes() for path in job.rglob("*") if path.is_file()}
    assert {name.removeprefix("job/"): content for name, content in files.items() if name.startswith("job/")} == sent
    assert set(files) == {"agent.pyz", "README.txt", *(f"job/{name}" for name in sent)}
    assert told.pop("files") == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert told == {
        "format": 1, "device": "board", "run_id": "20300101-tiny-abcd", "edgekd": __version__, "protocol": PROTOCOL,
    }  # fmt: skip


def test_the_device_accepts_it(archive, tmp_path):
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "there")
    assert verify(tmp_path / "there")["device"] == "board"


def test_the_same_job_gives_the_same_bytes(archive, job, tmp_path):
    first = archive.read_bytes()
    for path in job.rglob("*"):
        path.touch()
    bundle.write(archive, job, device="board", run_id="20300101-tiny-abcd")
    assert archive.read_bytes() == first
    bundle.write(tmp_path / "bundle-board.zip", job, device="board", run_id="20300101-tiny-abce")
    assert archive.read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle-board.zip", "job"]


@pytest.mark.parametrize(
    ("backend", "needs", "substitute"),
    [("tensorrt", "JetPack", True), ("openvino", "pip install openvino", True), ("onnxruntime", "pip install", False)],
)
def test_the_readme_has_the_commands(backend, needs, substitute, tmp_path):
    folder = tmp_path / "job"
    write_job(folder, {"teacher": linear(folder / "models/t.onnx")}, device="board", backend=backend)
    bundle.write(tmp_path / "bundle-board.zip", folder, device="board", run_id="the-run")
    text = read(tmp_path / "bundle-board.zip")["README.txt"].decode()
    for part in ("the-run", "Python 3.8", "numpy", needs, "python3 agent.pyz bundle\n", "report RUN --add result.zip"):
        assert part in text
    assert ("--device cpu" in text) == substitute
    assert max(map(len, text.splitlines())) <= 120


def test_a_full_disk_leaves_no_part_of_it(job, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(StageError, match=r"bundle-board\.zip: no space left"):
        bundle.write(tmp_path / "bundle-board.zip", job, device="board", run_id="r")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job"]
