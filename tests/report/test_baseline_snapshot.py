from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.errors import EdgekdError, UsageError
from edgekd.report import build
from edgekd.report.baseline import snapshot, taking
from edgekd.report.baseline.figures import KINDS, parse_tolerances

from .synthetic import BASELINE, CHAIN, TEACHER, outputs_and_labels

Make = Callable[..., Path]


@pytest.fixture
def measured(make_run: Make) -> Path:
    joules = {name: replace(fake, joules=0.004 / (k + 1)) for k, (name, fake) in enumerate(CHAIN.items())}
    return make_run({**joules, "baseline": BASELINE})


def test_the_figures_are_those_of_the_report(measured: Path) -> None:
    found = taking.take(measured)
    report = build.build(measured)["devices"]["cpu"]
    device = found.devices["cpu"]
    assert list(device.variants) == ["teacher", "student", "pruned", "int8"]  # nobody uses the one without a teacher
    assert set(device.variants["teacher"]) == {"accuracy", "size"}  # the others are 1 by definition
    for name in ("student", "pruned", "int8"):
        own, variant = device.variants[name], report["variants"][name]
        assert set(own) == set(KINDS)
        for figure, key in (("accuracy", "accuracy"), ("agreement", "agreement_with_teacher"), ("speedup", "speedup")):
            assert own[figure].value == pytest.approx(variant[key], rel=1e-5)
            assert own[figure].ci == pytest.approx(variant[key.replace("_with_teacher", "") + "_ci"], rel=1e-5)
        assert own["size"].value == variant["size_bytes"]
        assert own["energy"].value == pytest.approx(variant["energy_detail"]["ratio_to_reference"], rel=1e-5)
    assert device.noise_floor == pytest.approx(report["noise_floor"]["floor"], rel=1e-5)
    assert device.recommended == report["verdict"]["recommended"]


def test_no_absolute_time_or_energy_is_kept(measured: Path) -> None:
    text = snapshot.text(taking.take(measured))
    assert not [word for word in ("p50", "latency", "energy_j", "joule", "ms", "_ns") if f'"{word}' in text]


def test_each_sample_is_kept_as_right_or_wrong(measured: Path) -> None:
    found = taking.take(measured)
    expected = np.ones(1000)
    expected[:15] = 0  # the first 15 are wrong
    assert np.array_equal(found.scores("cpu", "int8", "accuracy"), expected)
    outputs = [outputs_and_labels(1000, wrong)[0].argmax(1) for wrong in (10, 15)]
    assert np.array_equal(found.scores("cpu", "int8", "agreement"), outputs[0] == outputs[1])
    assert found.scores("cpu", "teacher", "agreement") is None


def test_a_baseline_is_read_back_as_it_was_written(measured: Path, tmp_path: Path) -> None:
    found = taking.take(measured)
    snapshot.write(found, tmp_path / "b.json")
    assert snapshot.read(tmp_path / "b.json") == found
    lines = (tmp_path / "b.json").read_text().splitlines()
    assert '        "int8": {' in lines
    assert '          "size": {"value": 30000},' in lines  # a figure is a line, for review
    snapshot.write(found, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_run_without_labels_keeps_what_there_is(make_run: Make, tmp_path: Path) -> None:
    found = taking.take(make_run(labels=False))
    assert found.data.labels is None
    assert set(found.devices["cpu"].variants["int8"]) == {"agreement", "size", "speedup"}
    snapshot.write(found, tmp_path / "b.json")
    assert snapshot.read(tmp_path / "b.json") == found


@pytest.mark.parametrize(
    "error", [{"kind": "pending", "message": "the bundle waits"}, {"kind": "failed", "message": "x"}]
)
def test_a_run_that_is_not_whole_is_no_baseline(make_run: Make, error: dict[str, str]) -> None:
    found = taking.take(make_run(errors={"cpu": error}))
    assert found.devices["cpu"].pending == (error["kind"] == "pending")
    with pytest.raises(UsageError, match=f"cpu was not measured in this run .*{error['message']}"):
        taking.write_checked(found)


def test_simulated_figures_are_no_baseline(make_run: Make) -> None:
    runtime = {"name": "tensorrt", "version": "10", "simulated": "a stand-in"}
    with pytest.raises(UsageError, match="simulated: a stand-in"):
        taking.write_checked(taking.take(make_run(runtime=runtime)))


def test_a_variant_that_failed_is_told_with_its_reason(make_run: Make) -> None:
    found = taking.take(make_run({**CHAIN, "odd": replace(TEACHER, error="no kernel")}))
    assert found.devices["cpu"].failed == {"odd": "no kernel"}


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run"):
        taking.take(tmp_path)


# ---- files that are not as they must be


def _content() -> dict[str, Any]:
    return {
        "baseline": 1, "edgekd": "0", "run": "r", "kind": "bench", "task": "classification", "data": {"samples": 16},
        "devices": {"cpu": {"variants": {"a": {"accuracy": {"value": 0.5}}}}},
        "right": {"cpu": {"a": {"accuracy": base64.b64encode(b"ab").decode()}}},
    }  # fmt: skip


def _put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_put("baseline", value=2), "baseline of version 2; this edgekd reads version 1"),
        (lambda content: content.pop("baseline"), "is no baseline: edgekd baseline write"),
        (_put("devices", value={}), "devices"),
        (_put("devices", "cpu", "variants", "a", "accuracy", "value", value="0.5"), "value"),
        (_put("devices", "cpu", "variants", "a", "accuracy", "value", value=-1), "value"),
        (_put("devices", "cpu", "variants", "a", "speed", value={"value": 1}), "speed"),
        (_put("devices", "cpu", "more", value=1), "more"),
        (_put("right", "cpu", "a", "accuracy", value="YWJj"), "not one bit per sample"),
        (_put("right", "cpu", "a", "accuracy", value="%"), "not one bit per sample"),
        (_put("data", "samples", value=None), "not one bit per sample"),
        (_put("tolerances", value={"speed": 1}), "tolerances"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, change, message: str) -> None:
    content = _content()
    (tmp_path / "b.json").write_text(json.dumps(content))
    assert snapshot.read(tmp_path / "b.json").task == "classification"
    change(content)
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message) as told:
        snapshot.read(tmp_path / "b.json")
    assert "b.json" in str(told.value)


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such baseline; make one"):
        snapshot.read(tmp_path / "b.json")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(EdgekdError, match="cannot be read as JSON"):
        snapshot.read(tmp_path / "b.json")


def test_what_a_new_baseline_would_replace(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    assert snapshot.read_old(path) is None
    path.write_text(json.dumps(_content() | {"baseline": 0}))
    assert snapshot.read_old(path) is None  # of another version: nothing is lost that could be read
    path.write_text(json.dumps(_content()))
    assert snapshot.read_old(path) is not None
    path.write_text('{"name": "package"}')
    with pytest.raises(UsageError, match="is no baseline"):
        snapshot.read_old(path)


def test_tolerances() -> None:
    assert parse_tolerances(["accuracy=0.5", "speedup = 10%", "agreement=.5pp"]) == {
        "accuracy": 0.5, "speedup": 10.0, "agreement": 0.5,
    }  # fmt: skip
    for text in ("accuracy", "acuracy=1", "accuracy=-1", "accuracy=1%", "size=1pp", "size=nan", "size=1e999", "size="):
        with pytest.raises(UsageError, match=f"--tolerance {text}"):
            parse_tolerances([text])
