"""The chain: what is made, what is found again, what the report says, and that all of it can be computed anew."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tiny import ROOT, SHARED_DATA, shortened, tiny

from edgekd import Recipe, artifact, filing, pipeline, run
from edgekd import data as datasets
from edgekd.errors import UsageError
from edgekd.recipe import DEFAULT
from edgekd.report import build

VARIANTS = ("teacher", "student", "pruned", "int8-SCHEME")
STEPS = ["teacher", "targets", "distill", "prune", "quantize[int8-SCHEME]"]
STEPS += [f"{stage}[{variant}]" for stage in ("export", "validate") for variant in VARIANTS]


def _rows(result) -> dict[str, dict]:
    return {row["name"]: row for row in result.report["stages"]}


def _files(store: Path) -> dict[str, tuple[int, str]]:
    return {
        path.relative_to(store).as_posix(): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in (store / "artifacts").rglob("*")
        if path.is_file()
    }


def test_every_stage_runs_once_and_in_order(chain):
    scheme = chain.content["devices"]["cpu"]["scheme"]["label"]
    assert list(_rows(chain.result)) == [step.replace("SCHEME", scheme) for step in STEPS] + ["measure[cpu]"]
    assert not any(row["cached"] for row in chain.result.report["stages"])
    assert chain.result.exit_code == 0
    assert list(chain.result.report["devices"]["cpu"]["variants"]) == ["teacher", "student", "pruned", "int8"]


def test_a_second_run_only_measures(chain, store, unmeasured, tmp_path):
    before = _files(store)
    again = run(chain.recipe, out=tmp_path / "again", store=store)
    rows = _rows(again)
    assert [name for name, row in rows.items() if not row["cached"]] == ["measure[cpu]"]
    assert {name: row["artifact"] for name, row in rows.items()} == {
        name: row["artifact"] for name, row in _rows(chain.result).items()
    }
    assert _files(store) == before
    assert len(unmeasured) == 1
    assert not any((store / "partial").iterdir())


class _Sealed:
    """A split that nobody may look at."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"a stage looked at the test split: {name}")

    def __len__(self) -> int:
        raise AssertionError("a stage looked at the test split")


def test_a_fresh_store_gives_the_same_digests_and_no_stage_looks_at_the_test_split(
    chain, unmeasured, tmp_path, monkeypatch
):
    load = datasets.of
    monkeypatch.setattr(datasets, "of", lambda inputs: replace(load(inputs), test=_Sealed()))
    fresh = run(chain.recipe, out=tmp_path / "fresh", store=tmp_path / "store")
    rows = _rows(fresh)
    assert not any(row["cached"] for row in rows.values())
    assert {name: row["artifact"] for name, row in rows.items()} == {
        name: row["artifact"] for name, row in _rows(chain.result).items()
    }
    for variant in ("teacher", "student", "pruned", "int8"):
        files = [
            json.loads((path / "run.json").read_text())["devices"]["cpu"]["models"] for path in (fresh.path, chain.path)
        ]
        assert files[0][variant]["sha256"] == files[1][variant]["sha256"]


def test_a_corrupted_artifact_is_set_aside_and_made_again(chain, store, unmeasured, tmp_path):
    (damaged,) = (store / "artifacts").glob("distill-*")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    said: list[str] = []
    result = run(chain.recipe, out=tmp_path / "run", store=store, show=pipeline.Show(say=said.append))
    assert any(text.startswith(f"corrupted artifact {damaged.name}: model.safetensors") for text in said)
    assert [path.name.rpartition("-")[0] for path in (store / "set-aside").iterdir()] == [damaged.name]
    rows = _rows(result)
    assert [name for name, row in rows.items() if not row["cached"]] == ["distill", "measure[cpu]"]
    assert rows["distill"]["artifact"] == _rows(chain.result)["distill"]["artifact"]
    assert artifact.check(damaged) is None


# ---- every figure from the raw files


def _wilson(right: int, total: int) -> tuple[float, float]:
    interval = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    return interval.low, interval.high


def test_accuracy_and_agreement_are_those_of_the_raw_outputs(chain):
    folder = chain.path / "measurements" / "cpu"
    labels = np.load(chain.path / "labels.npz")["test"]
    teacher = np.load(folder / "outputs" / "teacher.test.npz")["logits"].argmax(1)
    for name, figures in chain.result.report["devices"]["cpu"]["variants"].items():
        answers = np.load(folder / "outputs" / f"{name}.test.npz")["logits"].argmax(1)
        right = int((answers == labels).sum())
        assert figures["accuracy"] == right / len(labels)
        assert figures["accuracy_ci"] == pytest.approx(_wilson(right, len(labels)), abs=1e-9)
        assert figures["agreement_with_teacher"] == np.mean(answers == teacher)
        assert figures["drop_pp"] == pytest.approx(
            100 * np.mean((teacher == labels) * 1.0 - (answers == labels)), abs=1e-9
        )


def test_latency_and_speed_up_are_those_of_the_raw_samples(chain):
    folder = chain.path / "measurements" / "cpu"
    timed = json.loads((folder / "measurement.json").read_text())["latency"]
    processes = [np.load(folder / file) for file in timed["processes"]]
    columns = timed["columns"]
    assert columns == ["teacher", "student", "pruned", "int8", "teacher#control"]
    rounds = {
        name: np.concatenate([np.median(process[f"latency_ns_{index}"], axis=1) for process in processes])
        for index, name in enumerate(columns)
    }
    for index, name in enumerate(columns[:-1]):
        figures = chain.result.report["devices"]["cpu"]["variants"][name]
        calls = np.concatenate([process[f"latency_ns_{index}"].ravel() for process in processes])
        latency = figures["latency_ns"]
        for key, percent in (("p50", 50), ("p90", 90), ("p99", 99)):
            assert latency[key] == pytest.approx(np.quantile(calls, percent / 100, method="linear"), rel=1e-9)
        assert (latency["min"], latency["n"]) == (calls.min(), len(calls))
        assert latency["mean"] == pytest.approx(calls.mean(), rel=1e-9)
        if name != "teacher":
            assert figures["speedup"] == pytest.approx(np.median(rounds["teacher"] / rounds[name]), rel=1e-9)
            low, high = figures["speedup_ci"]
            assert low <= figures["speedup"] <= high


def test_sizes_and_counts_are_those_of_the_files(chain):
    measured = json.loads((chain.path / "measurements" / "cpu" / "measurement.json").read_text())
    for name, figures in chain.result.report["devices"]["cpu"]["variants"].items():
        entry = chain.content["devices"]["cpu"]["models"][name]
        content = (chain.path / entry["file"]).read_bytes()
        assert figures["size_bytes"] == len(content)
        assert figures["model"]["sha256"] == hashlib.sha256(content).hexdigest()
        assert figures["parameters"] == chain.content["variants"][name]["parameters"]
        found = measured["variants"][name]
        assert figures["cold_start_ns"] == found["cold_start_ns"]
        assert figures["peak_memory_bytes"] == found["peak_memory_bytes"]
        assert figures["throughput_per_s"] == pytest.approx(
            found["throughput"]["inferences"] / found["throughput"]["seconds"], rel=1e-9
        )
        if figures["energy_j"] is None:
            assert figures["energy_reason"]


def test_parameters_and_macs_are_the_closed_form(chain):
    variants = chain.result.report["devices"]["cpu"]["variants"]

    def network(*widths: int) -> tuple[int, int]:
        """3x3 convolutions without bias of 8x8, then halved images, each with its normalisation; a linear layer."""
        parameters, macs, inputs, side = 0, 0, 1, 8
        for index, width in enumerate(widths):
            side = side // 2 if index else side
            parameters += 9 * inputs * width + 2 * width
            macs += 9 * inputs * width * side**2
            inputs = width
        return parameters + (inputs + 1) * 10, macs + inputs * 10

    for name, widths in {"teacher": (16, 32), "student": (16,), "pruned": (8,), "int8": (8,)}.items():
        assert (variants[name]["parameters"], variants[name]["macs"]) == network(*widths)


def test_a_moved_run_gives_the_same_report(chain, tmp_path):
    moved = shutil.copytree(chain.path, tmp_path / "moved")
    written = (moved / "report.json").read_bytes()
    for name in ("report.json", "report.html"):
        (moved / name).unlink()
    assert json.dumps(build.write(moved)) == json.dumps(json.loads(written))
    assert (moved / "report.json").read_bytes() == written
    assert (moved / "report.html").stat().st_size > 10_000


def test_the_report_has_what_schema_1_promises(chain):
    report = json.loads((chain.path / "report.json").read_text())
    assert {"schema", "edgekd", "recipe", "run_id", "devices", "stages", "provenance"} <= report.keys()
    assert (report["schema"], report["recipe"]) == (1, "tiny")
    device = report["devices"]["cpu"]
    assert {"variants", "verdict", "state"} <= device.keys()
    promised = {
        "accuracy", "accuracy_ci", "agreement_with_teacher", "parameters", "macs", "size_bytes", "latency_ns",
        "speedup", "speedup_ci", "throughput_per_s", "cold_start_ns", "peak_memory_bytes", "energy_j", "energy_reason",
    }  # fmt: skip
    for figures in device["variants"].values():
        assert promised <= figures.keys()
        assert {"p50", "p90", "p99", "mean", "min", "n", "unstable"} <= figures["latency_ns"].keys()
        assert all(math.isfinite(value) for value in figures.values() if isinstance(value, int | float))
    assert {"status", "gates", "recommended"} <= device["verdict"].keys()
    for row in report["stages"]:
        assert {"name", "artifact", "cached", "seconds", "facts"} <= row.keys()
    assert report["provenance"]["data"]["counts"] == {"train": 300, "validation": 100, "test": 120}


# ---- recipes with less


@pytest.mark.parametrize(
    ("changes", "variants"),
    [
        ({"prune": False}, ["teacher", "student", "int8"]),
        ({"quantize": False}, ["teacher", "student", "pruned"]),
        ({"distill": False, "student": None}, ["teacher", "pruned", "int8"]),
        ({"distill": False, "student": None, "prune": False, "quantize": False, "validate": False}, ["teacher"]),
    ],
)
def test_stages_that_are_switched_off(store, unmeasured, tmp_path, changes, variants):
    result = run(Recipe.of(**tiny(**changes)), out=tmp_path / "run", store=store)
    assert list(result.report["devices"]["cpu"]["variants"]) == variants
    assert sorted(path.stem.partition("-")[0] for path in (tmp_path / "run" / "models").iterdir()) == sorted(variants)
    switched_off = {name for name, value in changes.items() if value is False}
    assert not switched_off & {name.partition("[")[0] for name in _rows(result)}
    # A device that was there and gave nothing: the gates were not measured.
    assert (result.report["status"], result.exit_code) == ("not_measured", 1)
    assert result.report["devices"]["cpu"]["error"]["message"] == "no measurement in this test"


def test_a_gate_that_fails_gives_exit_code_1_and_says_by_how_much(chain, store, tmp_path):
    recipe = Recipe.of(**tiny(gates={"max_size_mb": 1e-6, "max_drop_pp": 100}))
    result = run(recipe, devices=["openvino"], out=tmp_path / "run", store=store)
    verdict = result.report["devices"]["openvino"]["verdict"]
    assert (result.exit_code, verdict["status"]) == (1, "failed")
    gates = {gate["name"]: gate for gate in verdict["gates"]}
    assert gates["max_drop_pp"]["status"] == "passed"
    assert gates["max_size_mb"]["status"] == "failed"
    assert gates["max_size_mb"]["value"] > 1e-6
    assert all(row["cached"] for row in result.report["stages"][:-1])


# ---- where a run goes


def test_a_run_takes_the_place_of_an_earlier_one_and_leaves_nothing_else(chain, store, unmeasured, tmp_path):
    target = shutil.copytree(chain.path, tmp_path / "runs" / "mine")
    (target / "old").write_text("")
    run(chain.recipe, out=target, store=store)
    assert sorted(path.name for path in target.parent.iterdir()) == ["mine"]
    assert not (target / "old").exists()


def test_a_failed_run_leaves_the_earlier_one(chain, store, tmp_path, monkeypatch):
    target = shutil.copytree(chain.path, tmp_path / "runs" / "mine")

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(filing.measurement, "take_all", fail)
    with pytest.raises(KeyboardInterrupt):
        run(chain.recipe, out=target, store=store)
    assert sorted(path.name for path in target.parent.iterdir()) == ["mine"]
    assert (target / "report.json").read_bytes() == (chain.path / "report.json").read_bytes()


def test_a_run_without_a_place_goes_into_the_store_under_a_plain_name(store, unmeasured):
    changes = {
        "name": "../a b",
        "distill": False,
        "student": None,
        "prune": False,
        "quantize": False,
        "validate": False,
    }
    result = run(Recipe.of(**tiny(**changes)), store=store)
    assert result.path.parent == store / "runs"
    assert result.path.name == result.report["run_id"]
    assert "-a_b-" in result.path.name


# ---- the recipes that ship, in a short form


RECIPES = sorted((ROOT / "pipelines").rglob("*.yaml"))


def test_there_are_recipes():
    assert len(RECIPES) >= 3


def _short(name: str, edgekd) -> dict:
    """Run a shipped recipe on few samples and return its report."""
    data, data_dir = Recipe.load(name).data.source, Path(os.environ.get("EDGEKD_DATA", SHARED_DATA))
    if data != "digits" and not (data_dir / data).is_dir():  # which come with scikit-learn
        pytest.skip(f"{data} is not in {data_dir}")
    overrides = [part for change in shortened(name) for part in ("--set", change)]
    outcome = edgekd("pipeline", name, "--out", "run", "--data-dir", data_dir, "--json", *overrides)
    assert outcome.code in (0, 1), outcome.text  # the gates are not for a network trained so short
    report = json.loads(outcome.out)
    assert report == json.loads(Path("run/report.json").read_text())
    assert report["gates"] == Recipe.load(name).gates.model_dump(exclude_none=True, exclude_defaults=True)
    return report


SHIPPED = {
    "digits-qat": ["teacher", "student", "int8", "qat"],
    "fashion-mnist-study": ["teacher", "baseline", "student", "int8"],
    "fashion-mnist-two-teachers": ["teacher-residual", "teacher-plain", "student", "int8"],
    "mnist-mlp": ["teacher", "student", "pruned", "int8", "dynamic"],
    "mnist-mlp-4bit": ["teacher", "student", "int8", "qat"],
    "mnist-omitted-digit": ["teacher", "baseline", "student", "int8"],
}
"""The variants of recipes that have others than most."""


# That with a budget runs in tests/search/test_budget.py, on digits.
@pytest.mark.parametrize("path", [path for path in RECIPES if "budget" not in path.stem], ids=lambda path: path.stem)
def test_a_shipped_recipe_runs_in_a_short_form(path, chain, edgekd):
    report = chain.result.report if path.stem == DEFAULT else _short(path.stem, edgekd)
    device = report["devices"]["cpu"]
    assert device["error"] is None
    assert list(device["variants"]) == SHIPPED.get(path.stem, ["teacher", "student", "pruned", "int8"])
    assert all(figures["latency_ns"]["p50"] > 0 for figures in device["variants"].values())
    if path.stem == "mnist-mlp":
        found = [device["variants"][name]["parameters"] for name in ("teacher", "student")]
        assert found == [535_818, 109_386]


def test_nothing_to_measure_on(chain):
    with pytest.raises(UsageError, match=r"no device was named .*cpu"):
        run(chain.recipe, devices=[])
