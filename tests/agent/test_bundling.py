"""A bundle on its device: checked, measured, and packed to be carried back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from installing import environment

from edgekd.agent import PROTOCOL, bundling
from edgekd.agent import job as jobs
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_npz, sha256, write_json
from edgekd.agent.job import Job
from edgekd.agent.method import Method, Model
from edgekd.dispatch import bundle

from .networks import TINY, linear, quantized, samples, weights, write_job

ONE_PROCESS = replace(TINY, processes=1, throughput_seconds=0)


def carried(folder: Path, **fields: Any) -> Path:
    """Write a bundle for a board with TensorRT and return the folder that it was unzipped into."""
    job, target = folder / "job", folder / "bundle-board.zip"
    models = {"teacher": linear(job / "models/t.onnx"), "int8": quantized(job / "models/q.onnx")}
    write_job(job, models, **{"device": "board", "backend": "tensorrt", "method": ONE_PROCESS, **fields})
    bundle.write(target, job, device="board", run_id="the-run")
    with zipfile.ZipFile(target) as opened:
        opened.extractall(folder / "there")
    return folder / "there"


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unzip(result: Path, target: Path) -> dict[str, Any]:
    """Unpack a result, check every digest in it, and return result.json."""
    with zipfile.ZipFile(result) as opened:
        opened.extractall(target)
    told = json.loads((target / "result.json").read_text())
    assert told["files"] == {name: sha256(target / name) for name in content(target) if name != "result.json"}
    return told


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a device that has numpy and ONNX Runtime, and nothing of edgekd."""
    return environment(tmp_path_factory.mktemp("device"), "numpy", "onnxruntime")


def on_device(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [python, "-I", "agent.pyz", "bundle", *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120, check=False)


def test_a_bundle_is_measured_where_edgekd_is_not(device, tmp_path):
    there = carried(tmp_path)
    before = content(there)
    installed = subprocess.run([device, "-I", "-c", "import edgekd"], capture_output=True, check=False)
    assert installed.returncode != 0

    done = on_device(device, there)
    assert done.returncode == 1, "there is no TensorRT, and nothing steps in for it unasked"
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert content(there) == before

    done = on_device(device, there, "--device", "cpu", "--keep")
    assert done.returncode == 0, done.stderr
    assert "teacher" in done.stdout
    assert "a preview" in done.stdout
    assert "edgekd report RUN --add result.zip" in done.stderr
    assert set(content(there)) - set(before) == {
        "result.zip",
        *(f"measurement/{n}" for n in content(there / "measurement")),
    }

    told = unzip(there / "result.zip", tmp_path / "back")
    files = told.pop("files")
    assert told == {
        "format": 1, "device": "board", "run_id": "the-run", "protocol": PROTOCOL,
        "job_sha256": sha256(there / "job/job.json"),
        "models": {
            name: {"sha256": sha256(there / f"job/models/{name[0].replace('i', 'q')}.onnx"), "precision": None}
            for name in ("teacher", "int8")
        },
    }  # fmt: skip
    assert {f"measurement/{name}" for name in content(there / "measurement")} == set(files)
    measurement = json.loads((tmp_path / "back/measurement/measurement.json").read_text())
    assert (measurement["device"], measurement["backend"]) == ("cpu", "onnxruntime")
    assert measurement["substituted"] == {"asked": "tensorrt", "used": "onnxruntime"}
    outputs = read_npz(tmp_path / "back/measurement" / measurement["variants"]["teacher"]["outputs"]["test"])
    np.testing.assert_allclose(outputs["logits"], samples(70) @ weights(), rtol=1e-5, atol=1e-5)

    done = on_device(device, there, "--device", "cpu")
    assert done.returncode == 1
    assert "result.zip is there already; bring it back, or name another file with --out" in done.stderr


def test_what_was_asked_for_is_measured_and_not_called_a_substitute(tmp_path):
    there, lines = carried(tmp_path, backend="onnxruntime"), []
    preview = bundling.run(there, tmp_path / "r.zip", on_cpu=False, keep=False, say=lines.append)
    told = unzip(tmp_path / "r.zip", tmp_path / "back")
    assert told["device"] == "board"
    measurement = json.loads((tmp_path / "back/measurement/measurement.json").read_text())
    assert list(preview["models"]) == list(measurement["variants"]) == ["teacher", "int8"]
    assert (measurement["device"], measurement["substituted"]) == ("board", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "bundle-board.zip", "job", "r.zip", "there"]
    parts = [" ".join(line.split()[:2]) for line in lines]
    assert {"evaluate 0/2", "evaluate 1/2", "evaluate 2/2", "latency 0/1", "latency 1/1"} <= set(parts)


def damage(there: Path, name: str) -> None:
    data = bytearray((there / name).read_bytes())
    data[len(data) // 2] ^= 1
    (there / name).write_bytes(data)


def refusal(there: Path, **options: Any) -> str:
    """Return why a bundle is not measured, after a look that nothing was written."""
    before = sorted(there.parent.rglob("*"))
    with pytest.raises(AgentError) as error:
        bundling.run(there, there / "result.zip", **{"on_cpu": False, "keep": False, "say": print, **options})
    assert sorted(there.parent.rglob("*")) == before
    return str(error.value)


def test_a_bundle_that_is_not_whole(tmp_path):
    there = carried(tmp_path)
    damage(there, "job/models/q.onnx")
    damage(there, "agent.pyz")
    (there / "job/inputs/test.npz").unlink()
    message = refusal(there)
    assert "agent.pyz was damaged or changed; job/inputs/test.npz is missing; job/models/q.onnx was damaged" in message
    assert "unzip it again" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "there is no bundle.json in"),
        ("{", "is not JSON"),
        ([], "is not for this agent"),
        ({"format": 2}, "is not for this agent"),
        ({"protocol": PROTOCOL - 1}, "is not for this agent"),
        ({"device": 3}, "lacks device, run_id or files"),
        ({"run_id": None}, "lacks device, run_id or files"),
        ({"files": ["agent.pyz"]}, "lacks device, run_id or files"),
        ({"files": {"../job/job.json": "0" * 64}}, "'../job/job.json' leads out of it"),
        ({"files": {"/etc/hostname": "0" * 64}}, "'/etc/hostname' leads out of it"),
    ],
)
def test_a_bundle_json_that_is_wrong(change, message, tmp_path):
    there = carried(tmp_path)
    path = there / "bundle.json"
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    else:
        write_json(path, {**json.loads(path.read_text()), **change} if isinstance(change, dict) else change)
    assert message in refusal(there)


def test_what_is_there_is_not_written_over(tmp_path):
    there = carried(tmp_path, backend="onnxruntime")
    (there / "measurement").mkdir()
    assert "measurement is there already; move it away" in refusal(there, keep=True)
    (there / "result.zip").write_bytes(b"mine")
    assert "result.zip is there already" in refusal(there)
    with pytest.raises(AgentError, match=r"there is no folder .*absent"):
        bundling.run(there, tmp_path / "absent/r.zip", on_cpu=False, keep=False, say=print)


def test_a_substitute_for_itself_is_refused(tmp_path):
    there = carried(tmp_path, backend="onnxruntime", options={"providers": ["CPUExecutionProvider"], "threads": 4})
    assert "leave out --device cpu" in refusal(there, on_cpu=True)


def test_a_job_for_the_processor():
    """Of the precisions of one file one is left; what is the file's own precision stays."""

    def model(name: str, digest: str, precision: str | None, half: str | None = None) -> Model:
        return Model(name, f"models/{digest}.onnx", digest, precision, half, half and f"{digest}-half")

    models = (
        model("teacher", "t", "fp16", "models/t.half.onnx"),
        model("teacher-fp32", "t", "fp32"),
        model("student", "s", "fp16"),
        model("student-fp32", "s", "fp32"),
        model("int8", "q", "int8"),
        model("copy", "t", None),
    )
    job = Job("board", "tensorrt", models, {"workspace_mb": 512}, reference="teacher", cores=(7,), lock_clocks=True)
    changed = bundling.on_processor(job)
    assert [(one.name, one.sha256) for one in changed.models] == [
        ("teacher", "t"), ("student", "s"), ("int8", "q"), ("copy", "t"),
    ]  # fmt: skip
    assert {(one.precision, one.half_file, one.half_sha256) for one in changed.models} == {(None, None, None)}
    assert (changed.device, changed.backend, changed.cores, changed.reference) == (
        "cpu",
        "onnxruntime",
        None,
        "teacher",
    )
    assert not changed.lock_clocks
    assert changed.options == {"providers": ["CPUExecutionProvider"], "threads": 1}
    assert jobs.parse(json.loads(json.dumps(changed.to_json()))) == changed


def test_what_is_left_out_is_told(tmp_path):
    there = carried(tmp_path)
    job = jobs.parse(json.loads((there / "job/job.json").read_text()))
    whole, half = (replace(job.models[0], precision=precision) for precision in ("fp32", "fp16"))
    models = (whole, replace(half, name="teacher-fp16"), job.models[1])
    write_json(there / "job/job.json", replace(job, models=models, lock_clocks=True).to_json())
    told = json.loads((there / "bundle.json").read_text())
    told["files"]["job/job.json"] = sha256(there / "job/job.json")
    write_json(there / "bundle.json", told)
    lines: list[str] = []
    preview = bundling.run(there, there / "r.zip", on_cpu=True, keep=False, say=lines.append)
    assert "left out: teacher-fp16, which ONNX Runtime would compute as another variant of the same file" in lines
    assert "the clocks are not locked: that was asked for the device, not for this processor" in lines
    assert list(preview["models"]) == ["teacher", "int8"]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Yield an agent in the middle of a long measurement of a bundle."""
    there = carried(tmp_path, backend="onnxruntime", method=Method(**{**vars(ONE_PROCESS), "seconds": 600.0}))
    command = [sys.executable, "agent.pyz", "bundle", "--out", "../r.zip"]
    with subprocess.Popen(command, cwd=there, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("latency 0/"):
                break
        yield there, process
        process.kill()


def test_an_interrupted_measurement_leaves_nothing(running, tmp_path):
    there, process = running
    before = content(there)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert "interrupted" in rest.splitlines()[-1]
    assert "Traceback" not in rest
    assert content(there) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle-board.zip", "job", "there"]


def test_a_zip_file_is_the_same_each_time_and_holds_what_it_was_given(tmp_path):
    given = {"empty": b"", "noise": np.random.default_rng(0).bytes(3_000_000), "zeros": bytes(3_000_000)}
    given["text"] = b"\n".join(b"%d" % number for number in range(300_000))
    for order in (list(given), list(reversed(given))):
        files: dict[str, Any] = {}
        for index, name in enumerate(order):
            path = tmp_path / f"{index}.bin"
            path.write_bytes(given[name])
            files[name] = path if index % 2 else given[name]
        bundling.write_zip(tmp_path / f"{order[0]}.zip", files)
    assert (tmp_path / "empty.zip").read_bytes() == (tmp_path / "text.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "empty.zip") as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == given
        # What gets no smaller is stored; so is what gets so much smaller that it would pass for a bomb.
        deflated = [one.filename for one in opened.infolist() if one.compress_type == zipfile.ZIP_DEFLATED]
    assert deflated == ["text"]


def test_a_full_disk_is_told(tmp_path, monkeypatch, capsys):
    from edgekd.agent.__main__ import main

    there = carried(tmp_path)
    monkeypatch.chdir(there)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundling, "measure", full)
    before = content(there)
    assert main(["bundle"]) == 1
    assert "error: result.zip: No space left on device; nothing was written" in capsys.readouterr().err
    assert content(there) == before
