"""A run that is completed by a bundle's result, or left exactly as it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agent.networks import TINY, linear, quantized, samples, weights, write_job

from edgekd import adding, rundir
from edgekd.agent import PROTOCOL, bundling, sealing
from edgekd.dispatch import archive, bundle
from edgekd.errors import StageError, UsageError
from edgekd.report import build

RUN_ID = "20300101-000000-tiny-abcd"
PENDING = {"kind": "pending", "message": "nobody was there yet"}
METHOD = replace(TINY, processes=1, inferences=60, throughput_seconds=0)
OTHER = {"sha256": "0" * 64, "precision": None}
ANOTHER_TIME = {"finished_at": "2030-01-01T00:00:00+00:00"}
Files = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A run that waits for two devices, and the results of their bundles: the board's, and the jetson's on a
    processor."""

    run: Path
    board: Path
    processor: Path


def measure(folder: Path, device: str, backend: str, models: Mapping[str, Path], result: str) -> Path:
    """Make a bundle for a device, measure it, and return its result."""
    job = folder / device / "job"
    (job / "models").mkdir(parents=True)
    copies = {name: Path(shutil.copy(path, job / "models")) for name, path in models.items()}
    write_job(job, copies, device=device, backend=backend, method=METHOD)
    bundle.write(folder / device / "bundle.zip", job, device=device, run_id=RUN_ID)
    with zipfile.ZipFile(folder / device / "bundle.zip") as opened:
        opened.extractall(folder / device / "there")
    there = folder / device / "there"
    bundling.run(there, folder / result, on_cpu=backend == "tensorrt", keep=False, say=lambda line: None)
    return folder / result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("made")
    run = folder / "run"
    models = {"teacher": linear(run / "models/teacher.onnx"), "int8": quantized(run / "models/int8.onnx")}
    facts = {name: rundir.model_facts(run, path) for name, path in models.items()}

    def waiting(backend: str, **error: str) -> dict[str, Any]:
        return {"profile": {"backend": backend}, "scheme": {"activations": "s8"}, "models": facts, "error": error}

    labels = {}
    for split, inputs in (("test", samples(70)), ("validation", samples(5, seed=1))):
        labels[split] = (inputs @ weights()).argmax(1)
    labels["test"][:7] = (labels["test"][:7] + 1) % 4  # the teacher is wrong on 7 of 70
    rundir.write_labels(run, labels)
    content = {
        "schema": rundir.SCHEMA, "kind": "pipeline", "recipe": "tiny", "run_id": RUN_ID, "task": "classification",
        "inputs": "data", "reference": "teacher", "gates": {"max_drop_pp": 50.0},
        "variants": {name: {"role": "candidate", "parameters": 32, "macs": 32} for name in models},
        "devices": {"board": waiting("onnxruntime", **PENDING), "jetson": waiting("tensorrt", **PENDING)},
        "stages": [], "provenance": {"data": {"classes": []}},
    }  # fmt: skip
    rundir.write(run, content)
    board = measure(folder, "board", "onnxruntime", models, "board.zip")
    return Case(run, board, measure(folder, "jetson", "tensorrt", models, "processor.zip"))


@pytest.fixture
def case(made: Case, tmp_path: Path) -> Case:
    shutil.copytree(made.run, tmp_path / "run")
    return Case(tmp_path / "run", *(Path(shutil.copy(path, tmp_path)) for path in (made.board, made.processor)))


def content(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_json(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def read(path: Path) -> Files:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def pack(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return path


def sealed(result: Files, **changes: Any) -> Files:
    """Return files with a result.json whose digests fit, and with changes of its fields."""
    told = json.loads(result["result.json"])
    rest = {name: data for name, data in result.items() if name != "result.json"}
    told["files"] = {name: sha256(data).hexdigest() for name, data in rest.items()}
    return {**rest, "result.json": json.dumps({**told, **changes}).encode()}


def measured_otherwise(result: Files, **changes: Any) -> Files:
    """Return files with changes of measurement.json, and digests that fit."""
    name = "measurement/measurement.json"
    content = sealing.sealed({**json.loads(result[name]), **changes})
    return sealed({**result, name: json.dumps(content).encode()})


def with_array(files: Files, name: str, data: bytes) -> Files:
    """Return files in which one of those listed in measurement.json holds something else; all digests fit."""
    listed = json.loads(files["measurement/measurement.json"])["files"]
    assert name in listed
    changed = {**files, f"measurement/{name}": data}
    return measured_otherwise(changed, files={**listed, name: sha256(data).hexdigest()})


def refused(case: Case, result: Path) -> str:
    """Return why a result is not added, after a look that the run is as it was and nothing lies beside it."""
    before, beside = content(case.run), sorted(case.run.parent.iterdir())
    with pytest.raises(UsageError) as error:
        adding.add(case.run, result)
    assert content(case.run) == before
    assert sorted(case.run.parent.iterdir()) == beside
    assert not [path for path in case.run.iterdir() if path.name.startswith(".")]
    assert str(result) in str(error.value)
    assert "/edgekd-" not in str(error.value), "a temporary folder says nothing to anybody"
    assert len(str(error.value).splitlines()) < 20
    return str(error.value)


def test_a_result_completes_its_run(case):
    before = content(case.run)
    assert adding.add(case.run, case.board) == "board: its measurement was added."
    told = read(case.board)
    expected = {f"measurements/board/{name.removeprefix('measurement/')}": data for name, data in told.items()}
    del expected["measurements/board/result.json"]
    after = content(case.run)
    assert {name: data for name, data in after.items() if name != "run.json"} == {
        **{name: data for name, data in before.items() if name != "run.json"}, **expected,
    }  # fmt: skip
    original, completed = json.loads(before["run.json"]), run_json(case.run)
    assert original.pop("seal") != completed.pop("seal")
    assert completed["devices"].pop("board") == {**original["devices"].pop("board"), "error": None}
    assert completed == original

    report = build.write(case.run)
    board = report["devices"]["board"]
    assert board["variants"]["teacher"]["accuracy"] == pytest.approx(63 / 70)
    assert board["variants"]["teacher"]["latency_ns"]["p50"] > 0
    assert report["devices"]["jetson"]["error"] == PENDING
    assert build.exit_code(report) == 4


def test_adding_twice_changes_nothing(case):
    adding.add(case.run, case.board)
    before = content(case.run)
    assert "is in this run already; nothing was changed" in adding.add(case.run, case.board)
    assert content(case.run) == before


def test_what_was_added_before_a_bad_result_is_in_the_report(case, edgekd, tmp_path):
    build.write(case.run)
    (tmp_path / "text.zip").write_text("hello")
    outcome = edgekd("report", case.run, "--add", case.board, "--add", tmp_path / "text.zip")
    assert outcome.code == 2
    assert "text.zip is no zip file" in outcome.text
    assert "board: its measurement was added" in outcome.text
    report = json.loads((case.run / "report.json").read_text())
    assert report["devices"]["board"]["error"] is None
    assert edgekd("report", case.run, "--power", "board").code == 2


def test_another_measurement_of_a_device_is_refused(case, tmp_path):
    adding.add(case.run, case.board)
    other = pack(tmp_path / "other.zip", measured_otherwise(read(case.board), **ANOTHER_TIME))
    message = refused(case, other)
    assert "has another measurement of board already, and keeps it" in message
    assert "--bundle" in message


def test_a_substitute_is_a_device_of_its_own(case, tmp_path):
    original = run_json(case.run)
    message = adding.add(case.run, case.processor)
    assert message.startswith("cpu: a measurement with onnxruntime on the processor was added")
    assert "says nothing of jetson with tensorrt" in message
    completed = run_json(case.run)
    assert original.pop("seal") != completed.pop("seal")
    cpu = completed["devices"].pop("cpu")
    assert completed == original
    assert cpu["models"] == original["devices"]["jetson"]["models"]
    assert (cpu["profile"]["backend"], cpu["error"], cpu["in_place_of"]) == ("onnxruntime", None, "jetson")

    again = pack(tmp_path / "again.zip", measured_otherwise(read(case.processor), **ANOTHER_TIME))
    assert "already; nothing was changed" in adding.add(case.run, case.processor)
    assert adding.add(case.run, again).startswith("cpu-2: ")
    assert "already; nothing was changed" in adding.add(case.run, again)
    assert "already; nothing was changed" in adding.add(case.run, case.processor)
    assert list(run_json(case.run)["devices"]) == ["board", "jetson", "cpu", "cpu-2"]

    report = build.write(case.run)
    assert report["devices"]["cpu-2"]["variants"]["teacher"]["accuracy"] == pytest.approx(63 / 70)
    assert report["devices"]["jetson"]["error"] == PENDING
    assert report["devices"]["jetson"]["variants"]["teacher"]["latency_ns"] is None


def test_a_substitute_never_takes_a_devices_name(case):
    """A `cpu` of the run is another device, whether it was measured or not."""
    content = run_json(case.run)
    content["devices"]["cpu"] = content["devices"]["board"]
    rundir.write(case.run, content)
    assert adding.add(case.run, case.processor).startswith("cpu-2: ")
    assert run_json(case.run)["devices"]["cpu"] == content["devices"]["board"]


def test_a_substitute_may_have_fewer_variants(case, tmp_path):
    """Variants that are one file in several precisions are measured once on a processor."""
    content = run_json(case.run)
    models = content["devices"]["jetson"]["models"]
    models["teacher-fp16"] = models["teacher"]
    rundir.write(case.run, content)
    told = json.loads(read(case.processor)["result.json"])["models"]
    files = sealed(read(case.processor), models={**told, "teacher-fp16": told["teacher"]})
    adding.add(case.run, pack(tmp_path / "fewer.zip", files))
    assert list(run_json(case.run)["devices"]["cpu"]["models"]) == ["teacher", "int8"]


def test_quantized_files_may_have_been_sent_in_another_form(case, tmp_path):
    """What builds a file in a precision may need other integers in it: its digest is then not the run's."""
    told = json.loads(read(case.processor)["result.json"])["models"]
    for precision, fits in (("int8", True), ("fp16", False)):
        models = {**told, "int8": {"sha256": "1" * 64, "precision": precision}}
        bad = pack(tmp_path / f"{precision}.zip", sealed(read(case.processor), models=models))
        if fits:
            adding.add(case.run, bad)
        else:
            assert "'int8' is not the one of this run" in refused(case, bad)


def test_a_simulated_measurement_says_so(case, tmp_path):
    files = measured_otherwise(read(case.board), simulated=["the runtime is a stand-in"])
    assert "It is simulated" in adding.add(case.run, pack(tmp_path / "simulated.zip", files))


# What makes a result another one: by name, a change of its files and what the refusal says.
CHANGES: dict[str, tuple[Callable[[Files], Files], str]] = {
    "another run": (lambda files: sealed(files, run_id="20300101-000000-tiny-ffff"), "it belongs to the run"),
    "another device": (lambda files: sealed(files, device="phone"), "the device 'phone'; this run has board, jetson"),
    "another file": (
        lambda files: sealed(files, models={"teacher": OTHER, "int8": OTHER}), "'teacher' is not the one of this run",
    ),
    "another variant": (
        lambda files: sealed(files, models={"pruned": OTHER}), "'pruned' is not the one of this run",
    ),
    "old format": (lambda files: sealed(files, format=0), "has format 0 and protocol"),
    "old protocol": (lambda files: sealed(files, protocol=PROTOCOL - 1), "the version of edgekd that adds its result"),
    "old measurement": (lambda files: measured_otherwise(files, protocol=1), "has protocol 1"),
    "no result.json": (
        lambda files: {name: data for name, data in files.items() if name != "result.json"}, "it has no result.json",
    ),
    "no measurement.json": (
        lambda files: sealed({name: data for name, data in files.items() if "measurement.json" not in name}),
        "measurement/measurement.json is not listed",
    ),
    "a file is missing": (
        lambda files: {name: data for name, data in files.items() if name != "measurement/outputs/int8.test.npz"},
        "measurement/outputs/int8.test.npz is missing",
    ),
    "a file is missing in both lists": (
        lambda files: sealed({name: data for name, data in files.items() if "outputs/int8.test" not in name}),
        "outputs/int8.test.npz is missing",
    ),
    "a file was added": (
        lambda files: {**files, "measurement/samples/9.npz": b""}, "measurement/samples/9.npz was added",
    ),
    "a file was changed": (
        lambda files: {**files, "measurement/outputs/int8.test.npz": files["measurement/samples/0.npz"]},
        "measurement/outputs/int8.test.npz was changed",
    ),
    "a file was changed in both lists": (
        lambda files: sealed({**files, "measurement/outputs/int8.test.npz": files["measurement/samples/0.npz"]}),
        "outputs/int8.test.npz was altered after it was measured",
    ),
    "a foreign file": (lambda files: sealed({**files, "run.json": b"{}"}), "'run.json' is none of the files"),
    "a foreign script": (
        lambda files: sealed({**files, "measurement/run.py": b""}), "'measurement/run.py' is none of the files",
    ),
    "a way out": (lambda files: sealed({**files, "../../evil": b""}), "'../../evil' leads out of the archive"),
    "result.json is no JSON": (lambda files: {**files, "result.json": b"{"}, "result.json cannot be read as JSON"),
    "result.json is no text": (lambda files: {**files, "result.json": b"\xff\xfe\x00"}, "cannot be read as JSON"),
    "result.json is a list": (lambda files: {**files, "result.json": b"[]"}, "must hold a JSON object"),
    "result.json is deep": (lambda files: {**files, "result.json": b"[" * 100_000}, "cannot be read as JSON"),
    "measurement.json is no JSON": (
        lambda files: sealed({**files, "measurement/measurement.json": b"nothing"}), "cannot be read as JSON",
    ),
    "another backend": (
        lambda files: measured_otherwise(files, backend="openvino"), "not what the bundle for board asks for",
    ),
    "another name": (lambda files: measured_otherwise(files, device="jetson"), "on 'jetson' with 'onnxruntime'"),
    "a substitute that was not asked for": (
        lambda files: measured_otherwise(
            files, device="cpu", backend="openvino", substituted={"asked": "onnxruntime", "used": "openvino"}
        ),
        "not what the bundle for board asks for",
    ),
    "no variants": (lambda files: measured_otherwise(files, variants={}, latency=None), "not what the bundle for"),
    "outputs that are no arrays": (lambda files: with_array(files, "outputs/int8.test.npz", b"PK"), "cannot be added"),
    "latencies that are no arrays": (lambda files: with_array(files, "samples/0.npz", b"PK"), "samples/0.npz"),
    "a swapped split": (
        lambda files: with_array(files, "samples/0.npz", files["measurement/outputs/teacher.test.npz"]), "latency_ns_0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not_this_runs_result_is_refused(name, case, tmp_path):
    change, message = CHANGES[name]
    assert message in refused(case, pack(tmp_path / "bad.zip", change(read(case.board))))


WRONG: list[Any] = [None, True, 3, -1, 1.5, "text", "", [], {}, [None], {"a": 1}, {"teacher": 1}, "é" * 500, 10**400]


@pytest.mark.parametrize("field", ["format", "device", "run_id", "job_sha256", "protocol", "models", "files"])
def test_every_field_of_result_json_has_its_kind(field, case, tmp_path):
    files = read(case.board)
    told = json.loads(files["result.json"])
    without = {key: value for key, value in told.items() if key != field}
    for changed in (without, *({**told, field: value} for value in WRONG), {**told, field: [told[field]]}):
        if changed.get(field) == told[field] and type(changed.get(field)) is type(told[field]):
            continue
        bad = pack(tmp_path / "bad.zip", {**files, "result.json": json.dumps(changed).encode()})
        refused(case, bad)
    refused(case, pack(tmp_path / "bad.zip", {**files, "result.json": json.dumps({**told, "more": 1}).encode()}))


def test_a_result_of_the_board_is_not_the_jetsons(case, tmp_path):
    """The same files, measured with ONNX Runtime, are not what TensorRT makes of them."""
    files = sealed(measured_otherwise(read(case.board), device="jetson"), device="jetson")
    message = refused(case, pack(tmp_path / "bad.zip", files))
    assert "measured on 'jetson' with 'onnxruntime'" in message
    assert "asks for: tensorrt" in message


def test_a_substitute_that_does_not_say_so_is_refused(case, tmp_path):
    for changes in ({"substituted": None}, {"substituted": None, "device": "jetson"}):
        files = measured_otherwise(read(case.processor), **changes)
        assert "asks for: tensorrt" in refused(case, pack(tmp_path / "bad.zip", files))


def test_a_result_that_was_cut_short_or_damaged(case, tmp_path):
    whole = case.board.read_bytes()
    positions = np.random.default_rng(0).integers(0, len(whole), 40)
    accepted = 0
    for position in positions.tolist():
        (tmp_path / "bad.zip").write_bytes(whole[:position])
        refused(case, tmp_path / "bad.zip")
        (tmp_path / "bad.zip").write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        before = content(case.run)
        try:
            adding.add(case.run, tmp_path / "bad.zip")
        except UsageError:
            assert content(case.run) == before
        else:  # a time stamp, or the like
            assert json.loads(content(case.run)["measurements/board/measurement.json"]) == json.loads(
                read(case.board)["measurement/measurement.json"]
            )
            accepted += 1
            shutil.rmtree(case.run / "measurements")
            (case.run / "run.json").write_bytes(before["run.json"])
    assert accepted < 10


def test_what_is_no_run_or_no_result(case, tmp_path):
    assert "there is no such file" in refused(case, tmp_path / "absent.zip")
    (tmp_path / "text.zip").write_text("hello")
    assert "is no zip file" in refused(case, tmp_path / "text.zip")
    with pytest.raises(UsageError, match=r"is not a run: it has no run\.json"):
        adding.add(tmp_path, case.board)
    rundir.write(case.run, {**run_json(case.run), "schema": 99})
    with pytest.raises(UsageError, match="has schema 99"):
        adding.add(case.run, case.board)


@pytest.mark.parametrize("name", ["..", ".", "", "../board", "/tmp/board", "a/b", "a\nb", "a" * 300])
def test_a_device_of_a_run_that_somebody_made_is_no_way_out(name, case, tmp_path):
    made = run_json(case.run)
    rundir.write(case.run, {**made, "devices": {name: made["devices"]["board"]}})
    result = pack(tmp_path / "evil.zip", measured_otherwise(sealed(read(case.board), device=name), device=name))
    before = content(case.run)
    with pytest.raises(UsageError, match="is no name of a device"):
        adding.add(case.run, result)
    assert content(case.run) == before


@pytest.mark.parametrize("change", [{"devices": []}, {"run_id": None}, {"devices": {"board": None}}])
def test_a_run_json_that_no_run_wrote(change, case):
    rundir.write(case.run, {**run_json(case.run), **change})
    with pytest.raises(UsageError, match="no run wrote it"):
        adding.add(case.run, case.board)


def test_a_full_disk_leaves_the_run_as_it_was(case, monkeypatch):
    before = content(case.run)

    copyfile = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if case.run in target.parents:
            raise OSError(28, "No space left on device")
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StageError, match="no space left"):
        adding.add(case.run, case.board)
    assert content(case.run) == before


def test_a_run_that_changes_meanwhile_is_not_written_over(case, monkeypatch):
    extract = archive.extract

    def slow(*arguments: Any, **options: Any) -> None:
        extract(*arguments, **options)
        rundir.write(case.run, {**run_json(case.run), "recipe": "changed meanwhile"})

    monkeypatch.setattr(archive, "extract", slow)
    with pytest.raises(UsageError, match="was changed by another process meanwhile"):
        adding.add(case.run, case.board)
    assert run_json(case.run)["recipe"] == "changed meanwhile"
    assert run_json(case.run)["devices"]["board"]["error"] == PENDING


KILLED = """
import os, signal, sys
from pathlib import Path
from edgekd import adding, rundir
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
{patch}
adding.add(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "patch",
    [
        "adding._try_report = die",
        "adding._copy = die",
        "Path.replace = lambda path, to: die() if '.unfinished-' in path.name else os.replace(path, to) or Path(to)",
        "rundir.write = lambda run, content: die() if run == Path(sys.argv[1]) else writing(run, content)",
    ],
)
def test_an_add_that_is_killed_leaves_the_run_as_it_was(patch, case, tmp_path):
    """What it leaves in the way of the next one is removed by that."""
    before = build.build(case.run)
    script = KILLED.format(patch=f"writing = rundir.write\n{patch}")
    command = [sys.executable, "-c", script, str(case.run), str(case.board)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert build.build(case.run) == before
    assert adding.add(case.run, case.board) == "board: its measurement was added."
    assert sorted(path.name for path in (case.run / "measurements").iterdir()) == ["board"]
    assert build.write(case.run)["devices"]["board"]["error"] is None
