from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Chain

from edgekd import rundir
from edgekd.errors import EdgekdError
from edgekd.report import build, html, statistics
from edgekd.report.evidence import read_measurement, read_run
from edgekd.report.schema import EnergyWindows, Measurement

from .synthetic import INT8, TEACHER, write_measurement

RIGHT: dict[str, Any] = {"test": 0, "validation": 0}
MEASURED = {
    "teacher": replace(TEACHER, joules=0.02, wrong=RIGHT),
    "int8": replace(INT8, joules=0.01, wrong=RIGHT, layers=[{"name": "conv", "type": "Conv", "precision": "int8"}]),
}
HOSTILE: tuple[Any, ...] = (None, True, -1, "../x", [[None]], {"x": None}, 2**70, float("nan"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("measured") / "cpu"
    write_measurement(made, MEASURED, rounds=5, processes=2, samples={"test": 20, "validation": 10})
    content = json.loads((made / "measurement.json").read_text())
    content["variants"]["int8"]["facts"] |= {"gpu_ns": [5, 6], "host_ns": [7, 8]}
    content["variants"]["int8"]["prepare"] = {"build_seconds": 3.0}
    content["substituted"] = {"asked": "tensorrt", "used": "onnxruntime"}
    (made / "measurement.json").write_text(json.dumps(content))
    return made


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 20)


def paths(content: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every field of a document is; of a list, the first item stands for all."""
    items = (
        content.items()
        if isinstance(content, dict)
        else list(enumerate(content))[:1]
        if isinstance(content, list)
        else ()
    )
    for key, value in items:
        yield (*prefix, key)
        yield from paths(value, (*prefix, key))


def dotted(path: tuple[Any, ...]) -> str:
    return ".".join(str(key) for key in path)


def changed(content: dict[str, Any], path: tuple[Any, ...], value: Any, *, remove: bool = False) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(content))
    inner: Any = copy
    for key in path[:-1]:
        inner = inner[key]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


RUN = {
    "schema": 1, "edgekd": "0.1.0", "recipe": None, "kind": "bench", "run_id": "r", "task": "classification",
    "inputs": "data", "reference": "teacher", "gates": {"min_speedup": 2}, "devices": {},
    "variants": {"teacher": {}, "int8": {}}, "stages": [], "provenance": {},
}  # fmt: skip
"""run.json."""


def reported(folder: Path, tmp_path: Path, content: dict[str, Any], **files: bytes) -> dict[str, Any]:
    """The report of a run with an altered measurement, whose digests are right."""
    run = tmp_path / "run"
    target = run / "measurements/cpu"
    if not target.exists():
        target.mkdir(parents=True)
        for path in folder.iterdir():
            if path.is_dir():
                (target / path.name).mkdir()
                for file in path.iterdir():
                    (target / path.name / file.name).hardlink_to(file)
        described = {"cpu": {"profile": {}, "scheme": {}, "models": None, "error": None}}
        (run / "run.json").write_text(json.dumps({**RUN, "devices": described}))
        np.savez(run / "labels.npz", test=np.arange(20) % 10, validation=np.arange(10))
    for name, data in files.items():
        path = target / "samples" / {"energy": "energy.json", "power": "power.npz", "first": "0.npz"}[name]
        path.unlink()
        path.write_bytes(data)
        content["files"][f"samples/{path.name}"] = hashlib.sha256(data).hexdigest()
    (target / "measurement.json").write_text(json.dumps(content))
    report = build.build(run)
    html.render(report)
    return report


def refusal(folder: Path, tmp_path: Path, content: dict[str, Any], **files: bytes) -> str | None:
    """The message with which a measurement is refused; None where there is a report on it."""
    try:
        variants = reported(folder, tmp_path, content, **files)["devices"]["cpu"]["variants"]
    except EdgekdError as error:
        return str(error)
    for variant in variants.values():
        assert (variant["energy_j"] is None) == (variant["energy_reason"] is not None)
    return None


def test_the_whole_measurement_is_reported(folder: Path, tmp_path: Path) -> None:
    device = reported(folder, tmp_path, json.loads((folder / "measurement.json").read_text()))["devices"]["cpu"]
    int8 = device["variants"]["int8"]
    assert int8["energy_j"] == pytest.approx(0.01)
    assert int8["gpu_ns"] == {"p50": 5.5, "p90": 5.9, "p99": 5.99, "n": 2, "host_p50": 7.5}
    assert "gpu_ns" not in int8["facts"]
    assert any("onnxruntime ran in place of tensorrt" in remark for remark in device["verdict"]["remarks"])


def test_every_field_that_is_missing_is_named_or_has_a_default(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "measurement.json").read_text())
    for path in paths(content):
        if path[0] in ("files", "protocol"):
            continue
        refused = refusal(folder, tmp_path, changed(content, path, None, remove=True))
        if refused is not None:
            assert dotted(path) in refused or str(path[-1]) in refused, path
            assert "measurement.json" in refused


def test_a_field_of_the_wrong_kind_is_never_more_than_an_error_that_names_it(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "measurement.json").read_text())
    refused = 0
    for path in paths(content):
        for value in HOSTILE:
            told = refusal(folder, tmp_path, changed(content, path, value))
            if told is not None:
                refused += 1
                assert "measurement.json" in told or "leads out" in told, (path, value)
    assert refused > 200


REQUIRED = [name for name, field in Measurement.model_fields.items() if field.is_required()]


@pytest.mark.parametrize("field", REQUIRED)
def test_a_required_field_is_named_when_it_is_missing_or_wrong(folder: Path, tmp_path: Path, field: str) -> None:
    content = json.loads((folder / "measurement.json").read_text())
    for altered in (changed(content, (field,), None, remove=True), changed(content, (field,), {"a": [None]})):
        with pytest.raises(EdgekdError, match=field):
            reported(folder, tmp_path, altered)


def test_energy_json_of_the_wrong_kind_is_an_error_that_names_it(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "measurement.json").read_text())
    energy = json.loads((folder / "samples/energy.json").read_text())
    energy["bursts"] = [[1, 2]]
    refused = 0
    for path in paths(energy):
        for value in HOSTILE:
            text = json.dumps(changed(energy, path, value)).encode()
            told = refusal(folder, tmp_path, content, energy=text)
            if told is not None:
                refused += 1
                assert "energy.json" in told, (path, value)
    assert refused > 60


@pytest.mark.parametrize("field", [name for name, field in EnergyWindows.model_fields.items() if field.is_required()])
def test_a_required_field_of_energy_json_is_named(folder: Path, tmp_path: Path, field: str) -> None:
    content = json.loads((folder / "measurement.json").read_text())
    energy = json.loads((folder / "samples/energy.json").read_text())
    for altered in (changed(energy, (field,), None, remove=True), changed(energy, (field,), "x")):
        with pytest.raises(EdgekdError, match=rf"energy\.json is not a complete measurement:\s+{field}"):
            reported(folder, tmp_path, content, energy=json.dumps(altered).encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": [{"name": "a", "kind": "power"}] * 2, "total": ["a"]}, "same name"),
        ({"total": ["gpu"]}, "total names gpu; channels are package-0"),
        ({"total": ["package-0", "package-0"]}, "names a channel twice"),
        ({"total": []}, "needs a total"),
        (
            {"channels": [{"name": "package-0", "kind": "power"}, {"name": "b", "kind": "energy"}],
             "total": ["package-0", "b"]}, "all be power, or all energy",
        ),
    ],
)  # fmt: skip
def test_the_total_must_make_sense(folder: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = json.loads((folder / "measurement.json").read_text())
    energy = {**json.loads((folder / "samples/energy.json").read_text()), **change}
    with pytest.raises(EdgekdError, match=message):
        reported(folder, tmp_path, content, energy=json.dumps(energy).encode())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "time_ns must be int64"),
        ({"time_ns": np.arange(5)}, "values must be float64"),
        ({"time_ns": np.arange(5.0), "values": np.ones((5, 1))}, "time_ns must be int64"),
        ({"time_ns": np.arange(5), "values": np.ones((4, 1))}, r"here \(5, 1\)"),
        ({"time_ns": np.arange(5), "values": np.ones((5, 2))}, r"here \(5, 1\)"),
        ({"time_ns": np.arange(5), "values": np.ones(5)}, r"here \(5, 1\)"),
        ({"time_ns": np.arange(5), "values": np.ones((5, 1), np.int64)}, "must be float64"),
        ({"time_ns": np.arange(4).reshape(2, 2), "values": np.ones((2, 1))}, "time_ns must be int64"),
    ],
)
def test_readings_of_the_wrong_shape_are_refused(
    folder: Path, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    content = json.loads((folder / "measurement.json").read_text())
    np.savez(tmp_path / "power.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(EdgekdError, match=message):
        reported(folder, tmp_path, content, power=(tmp_path / "power.npz").read_bytes())


@pytest.mark.parametrize(
    ("times", "values"),
    [
        ([], []),
        ([0], [1.0]),
        ([0, 0, 1], [1.0, 2.0, 3.0]),
        ([-(2**63), 0, 2**63 - 1], [1.0, 2.0, 3.0]),
        (list(range(100)), [float("nan")] * 100),
        (list(range(100)), [1e308] * 100),
        ([2**62 + k for k in range(100)], [1.0] * 100),
    ],
)
def test_readings_that_make_no_sense_are_a_reason(
    folder: Path, tmp_path: Path, times: list[int], values: list[float]
) -> None:
    content = json.loads((folder / "measurement.json").read_text())
    np.savez(tmp_path / "power.npz", time_ns=np.array(times, np.int64), values=np.array(values)[:, None])
    variants = reported(folder, tmp_path, content, power=(tmp_path / "power.npz").read_bytes())["devices"]["cpu"][
        "variants"
    ]
    assert [variant["energy_j"] for variant in variants.values()] == [None, None]
    assert all(variant["energy_reason"] for variant in variants.values())


@pytest.mark.parametrize(
    "change",
    [
        {"latency_ns_0": np.ones((5, 10))},
        {"latency_ns_0": np.zeros((5, 10), np.int64)},
        {"latency_ns_0": np.full((5, 10), 2**64 - 1, np.uint64)},
        {"latency_ns_0": np.ones(5, np.int64)},
        {"latency_ns_0": np.ones((4, 10), np.int64)},
        {"warmup_steady": np.ones(7, bool)},
        {"warmup_steady": np.array(["a", "b", "c"])},
    ],
)
def test_latencies_that_are_none_are_refused(folder: Path, tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    content = json.loads((folder / "measurement.json").read_text())
    with np.load(folder / "samples/0.npz") as found:
        arrays = {name: found[name] for name in found.files}
    np.savez(tmp_path / "0.npz", **{**arrays, **change})  # type: ignore[arg-type]
    with pytest.raises(EdgekdError, match=r"0\.npz"):
        reported(folder, tmp_path, content, first=(tmp_path / "0.npz").read_bytes())


@pytest.mark.parametrize(
    "logits",
    [
        np.zeros(20), np.zeros((20, 0)), np.zeros((20, 3, 3)), np.full((20, 10), np.nan), np.zeros((3, 10)),
        np.zeros((0, 10)), np.ones((20, 10), bool),
    ],
)  # fmt: skip
def test_outputs_that_the_task_cannot_score_are_a_reason(folder: Path, tmp_path: Path, logits: np.ndarray) -> None:
    content = json.loads((folder / "measurement.json").read_text())
    reported(folder, tmp_path, content)
    target = tmp_path / "run/measurements/cpu/outputs/1.test.npz"
    target.unlink()
    np.savez(target, logits=logits)
    content["files"]["outputs/1.test.npz"] = hashlib.sha256(target.read_bytes()).hexdigest()
    variant = reported(folder, tmp_path, content)["devices"]["cpu"]["variants"]["int8"]
    assert (variant["accuracy"] is None) == ("accuracy" in variant["reasons"])
    assert variant["accuracy"] is None or 0 <= variant["accuracy"] <= 0.2


@pytest.mark.parametrize("array", [np.array(5), np.array(["a"] * 20), np.zeros(20, complex)])
def test_outputs_that_are_no_numbers_are_refused(folder: Path, tmp_path: Path, array: np.ndarray) -> None:
    content = json.loads((folder / "measurement.json").read_text())
    reported(folder, tmp_path, content)
    target = tmp_path / "run/measurements/cpu/outputs/1.test.npz"
    target.unlink()
    np.savez(target, logits=array)
    content["files"]["outputs/1.test.npz"] = hashlib.sha256(target.read_bytes()).hexdigest()
    with pytest.raises(EdgekdError, match=r"1\.test\.npz must hold numbers"):
        reported(folder, tmp_path, content)


def test_a_truncated_measurement_is_no_json(folder: Path, tmp_path: Path) -> None:
    text = (folder / "measurement.json").read_text()
    for share in (0.0, 0.3, 0.99):
        (tmp_path / "measurement.json").write_text(text[: int(share * len(text))])
        with pytest.raises(EdgekdError, match="cannot be read as JSON"):
            read_measurement(tmp_path)


def test_a_bit_that_flips_in_measurement_json_is_noticed(chain: Chain, tmp_path: Path) -> None:
    folder = shutil.copytree(chain.path / "measurements" / "cpu", tmp_path / "cpu")
    path, source = folder / "measurement.json", random.Random(0)
    kept, expected = path.read_bytes(), read_measurement(folder).content
    for _ in range(300):
        content = bytearray(kept)
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)
        path.write_bytes(content)
        with suppress(EdgekdError):
            assert read_measurement(folder).content == expected


def test_a_digit_of_run_json_that_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    rundir.write(tmp_path, RUN)
    assert read_run(tmp_path).content["gates"] == {"min_speedup": 2}
    path.write_text(path.read_text().replace('"min_speedup": 2', '"min_speedup": 3'))
    with pytest.raises(EdgekdError, match=r"run.json was altered after it was written"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"edgekd": None}, "edgekd"), ({"devices": {"cpu": 3}}, "devices.cpu"), ({"stages": [{}]}, "stages.0.name"),
     ({"variants": {"a": {"macs": "many"}}}, "variants.a.macs"), ({"gates": {"min_speedup": "x"}}, "gates.min_speedup"),
     ({"devices": {"cpu": {"error": {"kind": 4}}}}, "devices.cpu.error.kind")],
)  # fmt: skip
def test_run_json_that_is_no_run_is_told_field_by_field(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    rundir.write(tmp_path, {**RUN, **change})
    with pytest.raises(EdgekdError, match=r"run.json is not a complete run") as caught:
        read_run(tmp_path)
    assert f"  {told}" in str(caught.value)
