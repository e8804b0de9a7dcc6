from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from edgekd.errors import EdgekdError, UsageError
from edgekd.report import build

from .synthetic import CHAIN, INT8, PRUNED, STUDENT, TEACHER, Fake

Make = Callable[..., Path]

ISSUE_KEYS = {
    "accuracy", "accuracy_ci", "agreement_with_teacher", "parameters", "macs", "size_bytes", "latency_ns", "speedup",
    "speedup_ci", "throughput_per_s", "cold_start_ns", "peak_memory_bytes", "energy_j", "energy_reason",
}  # fmt: skip


def altered_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_every_promised_key_is_there(make_run: Make) -> None:
    report = build.build(make_run())
    assert report.keys() >= {"schema", "edgekd", "recipe", "run_id", "devices", "stages", "provenance"}
    device = report["devices"]["cpu"]
    assert device.keys() >= {"variants", "verdict", "state"}
    assert device["verdict"].keys() >= {"status", "gates", "recommended"}
    assert list(device["variants"]) == ["teacher", "student", "pruned", "int8"]
    for variant in device["variants"].values():
        assert variant.keys() >= ISSUE_KEYS
        assert variant["latency_ns"].keys() >= {"p50", "p90", "p99", "mean", "min", "n", "unstable"}


def test_accuracy_agreement_and_drop_are_those_of_the_outputs(make_run: Make) -> None:
    variants = build.build(make_run())["devices"]["cpu"]["variants"]
    # The first 10, 12, 14, 15 of 1000 are wrong; who is wrong on the same sample predicts the same.
    assert [v["accuracy"] for v in variants.values()] == [0.990, 0.988, 0.986, 0.985]
    assert [v["agreement_with_teacher"] for v in variants.values()] == [1.0, 0.998, 0.996, 0.995]
    assert [v["drop_pp"] for v in variants.values()] == pytest.approx([0.0, 0.2, 0.4, 0.5])
    assert variants["int8"]["validation"]["drop_pp"] == pytest.approx(1.0)
    expected = stats.binomtest(985, 1000).proportion_ci(method="wilson")
    assert variants["int8"]["accuracy_ci"] == pytest.approx([expected.low, expected.high])


def test_latency_is_recomputable_from_the_samples(make_run: Make) -> None:
    run = make_run(processes=3, rounds=15, wander=0.2)
    found = build.build(run)["devices"]["cpu"]["variants"]
    samples = [np.load(run / f"measurements/cpu/samples/{k}.npz") for k in range(3)]
    for index, name in enumerate(CHAIN):
        calls = np.concatenate([process[f"latency_ns_{index}"].ravel() for process in samples])
        latency = found[name]["latency_ns"]
        assert [latency[key] for key in ("p50", "p90", "p99")] == pytest.approx(np.percentile(calls, [50, 90, 99]))
        assert (latency["mean"], latency["min"], latency["n"]) == (pytest.approx(calls.mean()), calls.min(), calls.size)
        by_round = [
            np.median(process["latency_ns_0"], 1) / np.median(process[f"latency_ns_{index}"], 1) for process in samples
        ]
        assert found[name]["speedup"] == pytest.approx(np.median(np.concatenate(by_round)))


def test_known_speeds_come_out(make_run: Make) -> None:
    device = build.build(make_run(wander=0.9))["devices"]["cpu"]
    for name, times in (("student", 2.5), ("pruned", 10 / 3), ("int8", 5.0)):
        variant = device["variants"][name]
        assert variant["speedup"] == pytest.approx(times, rel=0.01)
        assert variant["speedup_ci"][0] <= times * 1.003
        assert variant["speedup_ci"][1] >= times * 0.997
    assert device["variants"]["teacher"]["speedup"] == 1.0
    assert device["noise_floor"]["of"] == "teacher"
    assert device["noise_floor"]["ci"][0] <= 1.0 <= device["noise_floor"]["ci"][1]
    assert device["noise_floor"]["floor"] < 0.02
    assert {(pair["faster"], pair["slower"]) for pair in device["comparisons"]} == {
        ("pruned", "student"), ("int8", "student"), ("int8", "pruned"),
    }  # fmt: skip


def test_identical_models_are_called_no_difference(make_run: Make) -> None:
    twin = replace(TEACHER, size=10)
    variants = build.build(make_run({"teacher": TEACHER, "twin": twin}, noise=0.1))["devices"]["cpu"]["variants"]
    assert variants["twin"]["no_difference"] is True


def test_the_written_files_are_the_report(make_run: Make) -> None:
    run = make_run(gates={"min_speedup": 2})
    report = build.write(run)
    text = (run / "report.json").read_text(encoding="utf-8")
    assert json.loads(text) == report == build.build(run)
    assert (run / "report.html").is_file()
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_a_copy_elsewhere_gives_the_same_files(make_run: Make, tmp_path: Path) -> None:
    run = make_run(gates={"min_speedup": 2})
    build.write(run)
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(run, copy)
    for name in ("report.json", "report.html"):
        (copy / name).unlink()
    build.write(copy)
    for name in ("report.json", "report.html"):
        assert (copy / name).read_bytes() == (run / name).read_bytes()


def test_what_is_not_finite_becomes_null(make_run: Make) -> None:
    run = make_run()
    altered_json(run / "run.json", lambda c: c["stages"][0].update(facts={"loss": float("nan"), "all": [float("inf")]}))
    report = build.write(run)
    assert report["stages"][0]["facts"] == {"loss": None, "all": [None]}
    json.dumps(report, allow_nan=False)


GATES = {"max_drop_pp": 1.0, "min_speedup": 4}


def test_exit_codes(make_run: Make) -> None:
    unreachable = {"jetson": {"kind": "unreachable", "message": "no route"}}
    pending = {"jetson": {"kind": "pending", "message": "run the bundle"}}
    failed = {"jetson": {"kind": "failed", "message": "the agent stopped"}}
    both = ("cpu", "jetson")

    def code(name: str, **options: Any) -> int:
        return build.exit_code(build.build(make_run(name=name, rounds=5, **options)))

    assert code("passed", gates=GATES) == 0
    assert code("no gates") == 0
    assert code("failed", gates={"min_speedup": 50}) == 1
    assert code("not measured", gates={"require_energy": True}) == 1
    assert code("unreachable", gates=GATES, devices=both, errors=unreachable) == 4
    assert code("pending", gates=GATES, devices=both, errors=pending) == 4
    assert code("device failed", gates=GATES, devices=both, errors=failed) == 1
    assert code("failed and pending", gates={"min_speedup": 50}, devices=both, errors=pending) == 1


def test_what_was_measured_in_place_of_a_device_decides_nothing(make_run: Make) -> None:
    """The run asked for the other device, which is still to be measured."""
    errors = {"jetson": {"kind": "pending", "message": "run the bundle"}}
    run = make_run(gates={"min_speedup": 50}, devices=("cpu", "jetson"), errors=errors)
    content = json.loads((run / "run.json").read_text())
    assert build.exit_code(build.build(run)) == 1
    content["devices"]["cpu"]["in_place_of"] = "jetson"
    (run / "run.json").write_text(json.dumps(content))
    report = build.build(run)
    assert (build.exit_code(report), report["status"]) == (4, "not_measured")
    assert report["devices"]["cpu"]["verdict"]["status"] == "failed"


def test_what_a_reader_should_know_of_the_files_is_a_remark(make_run: Make) -> None:
    run = make_run(gates=GATES)
    content = json.loads((run / "run.json").read_text())
    content["devices"]["cpu"]["builds"] = ["int8: in float16: w was cut to 65504"]
    (run / "run.json").write_text(json.dumps(content))
    remarks = build.build(run)["devices"]["cpu"]["verdict"]["remarks"]
    assert "int8: in float16: w was cut to 65504" in remarks


def test_one_device_without_measurement_leaves_the_other_whole(make_run: Make) -> None:
    errors = {"jetson": {"kind": "unreachable", "message": "ssh: no route to host"}}
    report = build.build(make_run(gates=GATES, devices=("cpu", "jetson"), errors=errors))
    assert report["devices"]["cpu"]["verdict"]["status"] == "passed"
    missing = report["devices"]["jetson"]
    assert missing["verdict"]["status"] == "not_measured"
    assert [gate["reason"] for gate in missing["verdict"]["gates"]] == ["unreachable: ssh: no route to host"] * 2
    variant = missing["variants"]["int8"]
    assert (variant["latency_ns"], variant["accuracy"], variant["size_bytes"]) == (None, None, 30_000)
    assert variant["reasons"]["latency_ns"] == variant["reasons"]["accuracy"] == "ssh: no route to host"
    assert variant["energy_reason"] == "ssh: no route to host"


def test_a_vanished_measurement_is_not_measured(make_run: Make) -> None:
    run = make_run(gates=GATES)
    shutil.rmtree(run / "measurements")
    report = build.build(run)
    assert report["devices"]["cpu"]["verdict"]["status"] == "not_measured"
    assert build.exit_code(report) == 1


def test_a_variant_that_failed_on_the_device_is_shown_with_its_error(make_run: Make) -> None:
    broken = replace(INT8, error="Could not find an implementation for ConvInteger(10)")
    report = build.build(make_run({**CHAIN, "int8": broken}, gates={"min_speedup": 3}))
    variant = report["devices"]["cpu"]["variants"]["int8"]
    assert variant["error"] == broken.error
    assert variant["latency_ns"] is variant["accuracy"] is variant["speedup"] is None
    assert set(variant["reasons"].values()) == {broken.error}
    assert report["devices"]["cpu"]["verdict"]["recommended"] == "pruned"


def test_energy_comes_with_its_interval_or_with_its_reason(make_run: Make) -> None:
    metered = {"teacher": replace(TEACHER, joules=0.02), "student": replace(STUDENT, joules=0.008)}
    variants = build.build(make_run(metered, name="metered"))["devices"]["cpu"]["variants"]
    assert variants["student"]["energy_j"] == pytest.approx(0.008)
    assert variants["student"]["energy_j_ci"] == pytest.approx([0.008, 0.008])
    assert variants["student"]["energy_detail"]["dynamic_j"] == pytest.approx(0.008 - 4 * 30 / 10_000)
    assert variants["student"]["energy_reason"] is None
    bare = build.build(make_run(name="bare"))["devices"]["cpu"]["variants"]["student"]
    assert (bare["energy_j"], bare["energy_reason"]) == (None, "no readable RAPL domain")


def test_energy_that_contradicts_itself_is_refused(make_run: Make) -> None:
    run = make_run({"teacher": replace(TEACHER, joules=0.02), "student": STUDENT})
    variants = build.build(run)["devices"]["cpu"]["variants"]
    assert variants["teacher"]["energy_j"] == pytest.approx(0.02)
    assert variants["student"]["energy_reason"] == "no window was recorded"


def test_without_labels_agreement_is_still_measured(make_run: Make) -> None:
    random = {"kind": "bench", "inputs": "random", "recipe": None}
    variants = build.build(make_run(labels=False, samples={"test": 100}, run=random))["devices"]["cpu"]["variants"]
    assert variants["int8"]["accuracy"] is variants["int8"]["drop_pp"] is None
    assert variants["int8"]["agreement_with_teacher"] == 0.95
    assert variants["int8"]["reasons"]["accuracy"] == "the inputs are random: there are no labels"


def test_without_a_reference_there_is_no_speedup(make_run: Make) -> None:
    run = make_run({"a": STUDENT, "b": PRUNED}, reference=None, run={"kind": "bench", "recipe": None})
    device = build.build(run)["devices"]["cpu"]
    assert device["variants"]["a"]["speedup"] is None
    assert device["variants"]["a"]["reasons"]["speedup"] == "no reference was timed beside it"
    assert device["verdict"]["recommended"] == "b"
    assert device["comparisons"][0]["ratio"] == pytest.approx(4 / 3, rel=0.01)


def test_labels_that_do_not_belong_to_the_outputs_score_nothing(make_run: Make) -> None:
    run = make_run()
    np.savez(run / "labels.npz", test=np.zeros(7, np.int64), validation=np.zeros(500, np.int64))
    variant = build.build(run)["devices"]["cpu"]["variants"]["student"]
    assert (variant["accuracy"], variant["agreement_with_teacher"]) == (None, 0.998)
    assert variant["reasons"]["accuracy"] == "1000 outputs for 7 labels: they do not belong together"


def test_nothing_timed_is_said_and_accuracy_stays(make_run: Make) -> None:
    untimed = {name: replace(fake, latency_us=None) for name, fake in CHAIN.items()}
    report = build.build(make_run(untimed, gates={"max_drop_pp": 1.0}, latency_reason="the job has no latency inputs"))
    variant = report["devices"]["cpu"]["variants"]["int8"]
    assert (variant["latency_ns"], variant["accuracy"]) == (None, 0.985)
    assert variant["reasons"]["latency_ns"] == "the job has no latency inputs"
    assert report["devices"]["cpu"]["verdict"]["recommended"] == "int8"


@pytest.mark.parametrize("name", ["outputs/1.test.npz", "samples/1.npz", "samples/energy.json", "samples/power.npz"])
@pytest.mark.parametrize("how", ["altered", "removed"])
def test_a_measurement_that_is_not_what_was_measured_is_refused(make_run: Make, name: str, how: str) -> None:
    run = make_run({"teacher": TEACHER, "int8": replace(INT8, joules=1.0)}, rounds=5)
    path = run / "measurements/cpu" / name
    if how == "removed":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(EdgekdError) as caught:
        build.build(run)
    assert str(path) in str(caught.value)


def test_a_file_that_leads_out_of_the_measurement_is_refused(make_run: Make) -> None:
    run = make_run(rounds=5)
    outside = {"../../../run.json": "0" * 64}
    altered_json(run / "measurements/cpu/measurement.json", lambda c: c["files"].update(outside))
    with pytest.raises(EdgekdError, match="leads out"):
        build.build(run)


def test_a_file_without_digest_is_refused(make_run: Make) -> None:
    run = make_run(rounds=5)
    altered_json(run / "measurements/cpu/measurement.json", lambda c: c["files"].pop("samples/0.npz"))
    with pytest.raises(EdgekdError, match=r"samples/0\.npz"):
        build.build(run)


def test_other_versions_are_refused_plainly(make_run: Make, tmp_path: Path) -> None:
    run = make_run(rounds=5, name="old", run={"schema": 0, "edgekd": "0.0.1"})
    with pytest.raises(UsageError, match=r"schema 0; this edgekd reads schema 1.*edgekd 0\.0\.1"):
        build.build(run)
    with pytest.raises(EdgekdError, match="protocol 7"):
        build.build(make_run(rounds=5, name="agent", protocol=7))
    with pytest.raises(UsageError, match="is not a run"):
        build.build(tmp_path)


def test_a_fake_without_outputs_has_no_accuracy(make_run: Make) -> None:
    variants = {"teacher": Fake(100.0), "student": Fake(50.0)}
    variant = build.build(make_run(variants, samples={}, labels=False))["devices"]["cpu"]["variants"]["student"]
    assert variant["reasons"]["accuracy"] == "the device gave no outputs of it"
