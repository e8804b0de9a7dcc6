"""What each command prints, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml
from tiny import tiny

from edgekd import Recipe, device, profiles
from edgekd import recipe as recipes


@pytest.fixture
def home(store, monkeypatch, workplace):
    """Return a copy of the tiny run's store, which the command line uses."""
    monkeypatch.setenv("EDGEKD_HOME", str(store))
    (workplace / "tiny.yaml").write_text(json.dumps({"version": 1, **tiny()}))
    return store


# ---- recipe, device


def test_recipe_list_names_each_with_its_first_line(edgekd):
    lines = edgekd("recipe", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == list(recipes.shipped_recipes())
    manuals = json.loads(edgekd("recipe", "list", "--json").out)
    for line in lines:
        name, _, first = line.partition(" ")
        assert first.strip() == manuals[name].splitlines()[0]


def test_recipe_show_prints_the_file_and_resolved_every_key(edgekd):
    assert edgekd("recipe", "show", "mnist-mlp").out == recipes.find("mnist-mlp").read_text()
    assert edgekd("recipe", "show").out == recipes.find("digits").read_text()
    content = yaml.safe_load(edgekd("recipe", "show", "--resolved", "--set", "student.width=24").out)
    assert content["student"]["width"] == 24
    del content["version"]
    assert Recipe.of(**content) == Recipe.load("digits", ["student.width=24"])
    assert "add --resolved" in edgekd("recipe", "show", "--set", "student.width=24").err


def test_recipe_copy_gives_a_file_to_change_and_runs(edgekd, workplace):
    assert edgekd("recipe", "copy", "digits").out == "digits.yaml\n"
    assert edgekd("recipe", "copy", "digits", "mine.yaml").out == "mine.yaml\n"
    assert (workplace / "mine.yaml").read_bytes() == recipes.find("digits").read_bytes()
    assert edgekd("recipe", "copy", "digits", "mine.yaml").code == 2
    assert edgekd("recipe", "check", "mine.yaml", "digits").out == "mine.yaml: ok\ndigits: ok\n"


def test_recipe_check_goes_on_after_a_wrong_one(edgekd, workplace):
    (workplace / "a.yaml").write_text("version: 1\ndata: digits\nteacher: {model: mlp, layers: 3}\ndistill: false\n")
    outcome = edgekd("recipe", "check", "a.yaml", "gone", "digits")
    assert outcome.code == 2
    assert outcome.out == "digits: ok\n"
    assert "a.yaml:3: teacher.layers: unknown key" in outcome.err
    assert "no recipe 'gone'" in outcome.err


def test_recipe_check_tells_all_that_is_wrong_with_a_search(edgekd, write_recipe):
    space = {"studnt.width": [8], "student.widths": [[8], [0]], "distill.alpha": {"low": 0.5, "high": 1.5}}
    path = write_recipe(search={"space": space})
    outcome = edgekd("recipe", "check", path)
    assert outcome.code == 2
    assert outcome.err.splitlines()[0].endswith(f"3 problems in {path}:")
    for problem in ("studnt.width: there is no 'studnt'", "student.widths=[0]: ", "distill.alpha=1.5: "):
        assert f"  search.space: {problem}" in outcome.err
    assert edgekd("recipe", "check", path, "--set", 'search.space={"distill.alpha": [0.5]}').out == f"{path}: ok\n"


def test_device_list_and_show(edgekd):
    assert list(json.loads(edgekd("device", "list", "--json").out)) == list(profiles.shipped_devices())
    assert [line.split()[0] for line in edgekd("device", "list").out.splitlines()] == list(profiles.shipped_devices())
    assert edgekd("device", "show", "cpu").out == profiles.shipped_devices()["cpu"].read_text()
    content = yaml.safe_load(edgekd("device", "show", "cpu", "--resolved").out)
    assert content.pop("scheme_here") == device.scheme(profiles.load_device("cpu").quantization).model_dump()
    assert device.Device(**content) == profiles.load_device("cpu")


def test_recipe_layers_lists_what_a_loss_on_features_may_name(edgekd, write_recipe, workplace):
    nets = {"width": 4, "blocks": [1, 1], "epochs": 1}
    recipe = write_recipe(teacher={"model": "resnet", **nets}, student={"model": "convnet", **nets}, prune=False)
    outcome = edgekd("recipe", "layers", recipe)
    assert outcome.code == 0
    found = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert [line for line in found if " " not in line] == ["teacher", "student"]
    for line in (
        "stages.1.0.conv1 Conv2d 4 x 6 x 6 -> 8 x 3 x 3",
        "stages.1 Sequential 4 x 6 x 6 -> 8 x 3 x 3",
        "head Linear 8 -> 3",
        "5 ReLU 8 x 3 x 3 -> 8 x 3 x 3",
    ):
        assert line in found
    listed = json.loads(edgekd("recipe", "layers", recipe, "--json").out)
    assert listed["teacher"][-1] == {"name": "head", "kind": "Linear", "shape": [3], "given": [8]}
    assert [len(listed[role]) for role in listed] == [
        found.index("student") - 1,
        len(found) - found.index("student") - 1,
    ]
    for layer in ("stages.1", "head:input"):  # each name that is listed can be used
        pair = {"student": "5", "teacher": layer}
        losses = json.dumps({"losses": [{"sp": {"layers": pair}}]})
        assert edgekd("pipeline", recipe, "--plan", "--set", f"distill={losses}").code == 0
    assert edgekd("recipe", "layers", recipe, "--set", "student.blocks=[1]", "--json").code == 0
    assert edgekd("recipe", "layers", "digit").code == 2
    assert not list((workplace.parent / "store").glob("artifacts/*"))


def test_recipe_layers_of_an_onnx_file_are_none(edgekd, write_recipe, chain):
    recipe = write_recipe(
        data={"source": "digits", "train_samples": 50}, teacher={"onnx": str(chain.path / "models" / "teacher.onnx")}
    )
    outcome = edgekd("recipe", "layers", recipe)
    assert outcome.out.splitlines()[:2] == ["teacher: an ONNX file, of which only the answers are known", "student"]


# ---- pipeline --plan


def test_plan_says_what_is_cached_and_what_will_run_and_why(edgekd, home):
    lines = edgekd("pipeline", "tiny.yaml", "--plan").out.splitlines()
    assert [line.split()[1] for line in lines] == ["cached"] * 13 + ["will"]
    lines = edgekd("pipeline", "tiny.yaml", "--plan", "--set", "prune.ratio=0.25").out.splitlines()
    assert re.fullmatch(r"prune +will run +changed: prune\.ratio: 0\.5 -> 0\.25", lines[3])
    assert re.fullmatch(r"measure\[cpu\] +will run +always measured anew", lines[-1])


def test_plan_as_json_and_without_any_work(edgekd, home):
    before = sorted(home.rglob("*"))
    rows = json.loads(edgekd("pipeline", "tiny.yaml", "--plan", "--json", "--set", "seed=5").out)
    assert {row["state"] for row in rows} == {"will run"}
    assert rows[0]["step"] == "teacher"
    assert sorted(home.rglob("*")) == before


# ---- report


def test_report_of_a_moved_run_is_the_same(edgekd, chain, tmp_path):
    moved = shutil.copytree(chain.path, tmp_path / "moved")
    (moved / "report.json").unlink()
    (moved / "report.html").unlink()
    outcome = edgekd("report", moved)
    assert outcome.code == 0
    assert f"report: {moved / 'report.html'}" in outcome.out
    assert "PASSED" in outcome.out
    for name in ("teacher", "student", "pruned", "int8"):
        assert name in outcome.out
    assert (moved / "report.json").read_bytes() == (chain.path / "report.json").read_bytes()
    assert json.loads(edgekd("report", moved, "--json").out) == json.loads((chain.path / "report.json").read_text())


def test_report_notices_a_sample_that_was_changed(edgekd, chain, tmp_path):
    moved = shutil.copytree(chain.path, tmp_path / "moved")
    outputs = moved / "measurements" / "cpu" / "outputs" / "student.test.npz"
    content = bytearray(outputs.read_bytes())
    content[len(content) // 2] ^= 1
    outputs.write_bytes(content)
    outcome = edgekd("report", moved)
    assert outcome.code == 3
    assert "student.test.npz was altered after it was measured" in outcome.err


# ---- cache


def _age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_cache_ls_lists_everything_with_its_size(edgekd, home):
    rows = json.loads(edgekd("cache", "ls", "--json").out)
    assert sorted(row["name"] for row in rows) == sorted(path.name for path in (home / "artifacts").iterdir())
    for row in rows:
        files = [path for path in (home / "artifacts" / row["name"]).rglob("*") if path.is_file()]
        assert row["size_bytes"] == sum(path.stat().st_size for path in files)
    *lines, total = edgekd("cache", "ls").out.splitlines()
    assert len(lines) == len(rows)
    assert total.startswith(f"{len(rows)} entries, {sum(row['size_bytes'] for row in rows) / 1e6:.1f} MB in ")


def test_cache_verify_finds_the_one_that_was_changed(edgekd, home):
    assert edgekd("cache", "verify").out == "13 artifacts checked, 0 corrupted\n"
    (damaged,) = (home / "artifacts").glob("prune-*")
    (damaged / "model.json").write_text("{}")
    outcome = edgekd("cache", "verify")
    assert (outcome.code, outcome.out) == (3, "13 artifacts checked, 1 corrupted\n")
    assert outcome.err == f"corrupted: {damaged.name}: model.json does not match its checksum\n"


def test_cache_gc_removes_what_nobody_used_and_what_was_set_aside(edgekd, home):
    teacher, prune = (next((home / "artifacts").glob(f"{name}-*")) for name in ("teacher", "prune"))
    _age(teacher, 40)
    (home / "set-aside" / "distill-0-1").mkdir(parents=True)
    (home / "partial" / "distill-1").mkdir()
    dry = edgekd("cache", "gc", "--dry-run")
    assert sorted(dry.out.splitlines()[:-1]) == [
        f"would remove artifact {teacher.name}",
        "would remove set-aside distill-0-1",
    ]
    assert teacher.is_dir()
    done = edgekd("cache", "gc")
    assert done.out == dry.out.replace("would remove", "removed")
    assert not teacher.exists()
    assert prune.is_dir()
    assert (home / "partial" / "distill-1").is_dir()
    assert not list((home / "set-aside").iterdir())
    edgekd("cache", "gc", "--older-than", "0")
    assert not [path for folder in ("artifacts", "partial") for path in (home / folder).iterdir()]


def test_cache_gc_leaves_what_somebody_works_on_or_has_just_used(edgekd, home, monkeypatch):
    from filelock import FileLock

    from edgekd import cleaning

    busy, used = (next((home / "artifacts").glob(f"{name}-*")) for name in ("teacher", "prune"))
    _age(busy, 40)
    _age(used, 40)
    listed = cleaning.removable

    def then_used(store, days):
        found = listed(store, days)
        os.utime(used)
        return found

    monkeypatch.setattr(cleaning, "removable", then_used)
    with FileLock(home / "locks" / f"{busy.name}.lock"):
        assert edgekd("cache", "gc").out == "0 entries, 0.0 MB\n"
    assert busy.is_dir()
    assert used.is_dir()


def test_a_used_artifact_is_young_again(edgekd, home):
    (teacher,) = (home / "artifacts").glob("teacher-*")
    _age(teacher, 40)
    edgekd("pipeline", "tiny.yaml", "--plan")
    assert "teacher" not in edgekd("cache", "gc", "--dry-run").out
