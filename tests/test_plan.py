"""What a change of the recipe or of the user's code makes again, and what it says about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny import tiny

from edgekd import Recipe, artifact, checks, pipeline, plan, steps
from edgekd.agent.sealing import digest_of
from edgekd.device import Device, Quantization
from edgekd.errors import UsageError

TEACHER = {"teacher", "export[teacher]", "validate[teacher]"}
TARGETS = {"targets"}
STUDENT = {"distill", "export[student]", "validate[student]"}
PRUNED = {"prune", "export[pruned]", "validate[pruned]"}
BASELINE = {"baseline", "export[baseline]", "validate[baseline]"}
INT8 = {"quantize[int8-S]", "export[int8-S]", "validate[int8-S]"}
VALIDATED = {f"validate[{variant}]" for variant in ("teacher", "student", "pruned", "int8-S")}
EXPORTED = {label.replace("validate", "export") for label in VALIDATED} | VALIDATED
ALL = TEACHER | TARGETS | STUDENT | PRUNED | INT8


def _planned(store: Path, content: dict, devices=("cpu",)) -> dict[str, plan.Planned]:
    prepared = pipeline.prepare(Recipe.of(**content), devices, store=store)
    return {one.step.label: one for one in pipeline.plan(prepared)}


def _changed(content: dict, key: str, value: object) -> dict:
    """Return a recipe with `key.key` changed."""
    changed = json.loads(json.dumps(content))
    *path, last = key.split(".")
    target = changed
    for name in path:
        target = target.setdefault(name, {})
    target[last] = value
    return changed


@pytest.mark.parametrize(
    ("key", "value", "again"),
    [
        ("measure.processes", 2, set()),
        ("gates.max_drop_pp", 1.0, set()),
        ("validate.samples", 50, VALIDATED),
        ("export.output_name", "scores", EXPORTED),
        ("name", "other", EXPORTED),  # the ONNX file says which recipe made it
        ("quantize.samples", 32, INT8),
        ("prune.ratio", 0.25, PRUNED | INT8),
        ("prune.epochs", 2, PRUNED | INT8),
        ("distill.temperature", 2, STUDENT | PRUNED | INT8),
        ("student.epochs", 3, STUDENT | PRUNED | INT8),
        ("baseline", {}, BASELINE),
        ("targets", None, STUDENT | PRUNED | INT8),
        ("targets.top", 9, TARGETS | STUDENT | PRUNED | INT8),
        ("student.width", 24, STUDENT | PRUNED | INT8),
        ("student.augment.erase", 2, STUDENT | PRUNED | INT8),  # a new view in each epoch: none is kept
        ("teacher.epochs", 4, ALL),
        ("data.train_samples", 390, ALL),
        ("seed", 1, ALL),
    ],
)
def test_a_change_makes_again_what_depends_on_it_and_nothing_else(chain, key, value, again):
    scheme = chain.content["devices"]["cpu"]["scheme"]["label"]
    planned = _planned(chain.store, _changed(tiny(), key, value))
    there = (ALL | again) - (TARGETS if key == "targets" or "augment" in key else set())
    assert planned.keys() == {label.replace("-S]", f"-{scheme}]") for label in there}
    found = {label for label, one in planned.items() if one.artifact is None}
    assert found == {label.replace("-S]", f"-{scheme}]") for label in again}
    assert all(bool(one.reason) == (one.artifact is None) for one in planned.values())


@pytest.mark.parametrize(
    ("key", "value", "step", "reason"),
    [
        ("prune.ratio", 0.25, "prune", "changed: prune.ratio: 0.5 -> 0.25"),
        ("prune.ratio", 0.25, "export[pruned]", "needs prune, which will run"),
        ("teacher.width", 24, "teacher", "changed: teacher.width: 16 -> 24"),
        ("export.output_name", "scores", "export[student]", "changed: export.output_name: logits -> scores"),
    ],
)
def test_the_reason_names_what_changed(chain, key, value, step, reason):
    assert _planned(chain.store, _changed(tiny(), key, value))[step].reason == reason


def test_in_an_empty_store_everything_is_new(tmp_path):
    planned = _planned(tmp_path / "store", tiny())
    assert all(one.artifact is None for one in planned.values())
    assert planned["teacher"].reason == "never made"
    assert planned["distill"].reason == "needs teacher, targets, which will run"


def test_an_interrupted_training_is_told(chain, store):
    content = _changed(tiny(), "teacher.epochs", 9)
    prepared = pipeline.prepare(Recipe.of(**content), ["cpu"], store=store)
    shop, step = prepared.shop, prepared.steps[0]
    key = digest_of(plan.parts(step, prepared.recipe, shop.data, {}, shop.compute))
    (store / "partial" / artifact.folder_name("teacher", key) / artifact.CHECKPOINT).mkdir(parents=True)
    assert _planned(store, content)["teacher"].reason == "was interrupted; goes on from its checkpoint"


def test_another_device_retrains_nothing(chain):
    planned = _planned(chain.store, tiny(), devices=["cpu", "openvino"])
    assert all(one.artifact for one in planned.values())


def test_a_device_of_another_scheme_only_quantizes_for_itself(chain, tmp_path):
    (tmp_path / "board.yaml").write_text(
        "version: 1\nextends: cpu\nquantization: {activations: s8, symmetric: true, reduce_range: false}\n"
    )
    planned = _planned(chain.store, tiny(), devices=["cpu", str(tmp_path / "board.yaml")])
    again = {label for label, one in planned.items() if one.artifact is None}
    assert again == {"quantize[int8-s8-symmetric]", "export[int8-s8-symmetric]", "validate[int8-s8-symmetric]"}


def test_another_mode_and_its_options_leave_the_calibrated_network_as_it_is(chain):
    content = _changed(tiny(), "quantize.mode", ["ptq", "qat"])
    for epochs in (3, 4):
        planned = _planned(chain.store, _changed(content, "quantize.epochs", epochs))
        again = {label.partition("-")[0] for label, one in planned.items() if one.artifact is None}
        assert again == {"quantize[qat", "export[qat", "validate[qat"}


def test_each_device_measures_the_int8_of_its_own_scheme():
    devices = {
        "a": Device(version=1, backend="onnxruntime", quantization=Quantization(activations="u8", reduce_range=False)),
        "b": Device(
            version=1,
            backend="onnxruntime",
            quantization=Quantization(activations="s8", symmetric=True, reduce_range=False),
        ),
    }
    made = steps.steps(Recipe.of(**tiny()), devices)
    found = {name: steps.variants(device, made)["int8"] for name, device in devices.items()}
    assert found == {"a": "int8-u8", "b": "int8-s8-symmetric"}
    assert list(steps.variants(devices["a"], made)) == ["teacher", "student", "pruned", "int8"]


def test_the_lowest_opset_of_the_devices_is_exported():
    devices = {
        "new": Device(version=1, backend="onnxruntime", max_opset=20),
        "old": Device(version=1, backend="onnxruntime", max_opset=17),
    }
    exports = [step for step in steps.steps(Recipe.of(**tiny()), devices) if step.name == "export"]
    assert {step.context["max_opset"] for step in exports} == {17}


@pytest.mark.parametrize(
    ("change", "models"),
    [
        ({}, {"prune": "distill", "quantize": "prune"}),
        ({"prune": False}, {"quantize": "distill"}),
        ({"distill": False, "student": None}, {"prune": "teacher", "quantize": "prune"}),
        ({"distill": False, "student": None, "prune": False}, {"quantize": "teacher"}),
    ],
)
def test_a_stage_works_on_the_newest_network(change, models):
    devices = {"cpu": Device(version=1, backend="onnxruntime")}
    made = steps.steps(Recipe.of(**tiny(**change)), devices)
    assert {step.name: step.needs["model"] for step in made if step.name in ("prune", "quantize")} == models


# ---- the user's own code is part of the key of what runs it


NET = "from torch import nn\nfrom {helper} import WIDTH\ndef net():\n    return nn.Linear(36, WIDTH)\n"


def _keys(recipe: Recipe, store: Path) -> dict[str, str]:
    """Return the keys of the first steps, where the inputs of a step stay what they are."""
    prepared = pipeline.prepare(recipe, ["cpu"], store=store)
    keys, known = {}, {}
    for step in prepared.steps:
        inputs = {role: known[label] for role, label in step.needs.items()}
        parts = plan.parts(step, recipe, prepared.shop.data, inputs, prepared.shop.compute)
        keys[step.label] = digest_of(parts)
        known[step.label] = artifact.Artifact(store, step.name, "", "same", {}, parts)
    return keys


def test_a_changed_module_changes_what_runs_it(write_recipe, module, workplace, tmp_path):
    helpers = [module("WIDTH = 3\n"), module("WIDTH = 3\n")]
    nets = [module(NET.format(helper=helper)) for helper in helpers]
    recipe = write_recipe(teacher={"model": f"{nets[0]}:net"}, student={"model": f"{nets[1]}:net"}, prune=False)
    before = _keys(Recipe.load(str(recipe)), tmp_path)
    (workplace / f"{helpers[1]}.py").write_text("WIDTH = 3  # of the student\n")
    after = _keys(Recipe.load(str(recipe)), tmp_path)
    assert {label for label in before if before[label] == after[label]} == TEACHER | TARGETS
    (workplace / f"{helpers[0]}.py").write_text("WIDTH = 3  # of the teacher\n")
    assert not set(_keys(Recipe.load(str(recipe)), tmp_path).items()) & set(after.items())


def test_a_weights_file_is_known_by_its_content(write_recipe, workplace, tmp_path):
    def keys(name: str, content: bytes) -> dict[str, str]:
        (workplace / name).write_bytes(content)
        return _keys(Recipe.load(str(write_recipe(teacher={"model": "mlp", "weights": name}))), tmp_path)

    first = keys("a.safetensors", b"1")
    assert keys("b.safetensors", b"1") == first
    assert keys("a.safetensors", b"2")["teacher"] != first["teacher"]


def test_the_number_of_threads_is_part_of_what_is_trained(chain, monkeypatch):
    monkeypatch.setattr(plan, "threads", lambda: 4096)
    planned = _planned(chain.store, tiny())
    assert planned["teacher"].artifact is None
    assert planned["teacher"].reason.startswith("changed: compute.threads: ")
    assert planned["teacher"].reason.endswith(" -> 4096")


# ---- what is trained together, and where


def test_the_processes_of_a_training_are_those_that_torchrun_says(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "a.yaml").write_text("x")
    found = plan.computing("cpu", tmp_path / "a.yaml")
    assert (found.rank, found.processes) == (1, 2)
    assert found.accelerate == artifact.file_digest(tmp_path / "a.yaml")
    alone = plan.Compute("cpu").parts()
    assert alone.keys() == {"kind", "threads"}  # what was trained by one process stays what it is
    assert plan.Compute("cpu", 0, 2).parts() == alone | {"processes": 2}
    assert plan.Compute("cpu", 1, 2).parts() == plan.Compute("cpu", 0, 2).parts()
    assert plan.Compute("cpu", 0, 1, "digest").parts() == alone | {"accelerate": "digest"}


@pytest.mark.parametrize(("asked", "found"), [("cpu", "cpu"), ("cuda", "cuda")])
def test_the_kind_of_processor_is_the_one_that_is_asked_for(asked, found):
    assert plan.computing(asked) == plan.Compute(found)


def test_everything_wrong_is_told_at_once(workplace):
    recipe = Recipe.of(**tiny(teacher={"model": "a"}, student={"model": "b:c"}, task="d", data="e"))
    with pytest.raises(UsageError) as error:
        checks.check(recipe, ["device box: no backend 'f'"], None)
    for part in (
        "teacher.model: no network 'a'",
        "student.model: b:c",
        "no task 'd'",
        "device box: no backend 'f'",
        '"e"',
    ):
        assert part in str(error.value)


# ---- what a teacher said is kept once


def _key(step_name: str, content: dict, store: Path, teacher: str = "a") -> str:
    """Return the key of a step, where its teacher is the same network."""
    prepared = pipeline.prepare(Recipe.of(**content), ["cpu"], store=store)
    shop, step = prepared.shop, next(step for step in prepared.steps if step.name == step_name)
    found = artifact.Artifact(store, "teacher", "", teacher, {}, {"plugins": {}})
    return digest_of(plan.parts(step, prepared.recipe, shop.data, dict.fromkeys(step.needs, found), shop.compute))


VIEWS = _changed(tiny(), "student.augment", {"crop": 1, "views": 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("student.width", 24),
        ("student.epochs", 7),
        ("student.batch_size", 16),
        ("distill.temperature", 2),
        ("distill.fusion", "entropy"),
        ("prune", None),
    ],
)
def test_students_share_what_is_kept_of_their_teacher(tmp_path, key, value):
    changed = _changed(VIEWS, key, value)
    assert _key("targets", changed, tmp_path) == _key("targets", VIEWS, tmp_path)
    if key != "prune":
        assert _key("distill", changed, tmp_path) != _key("distill", VIEWS, tmp_path)


def test_seeds_share_what_is_kept_where_the_datas_seed_is_pinned(tmp_path):
    pinned = _changed(VIEWS, "data.seed", 0)
    assert _key("targets", _changed(pinned, "seed", 1), tmp_path) == _key("targets", pinned, tmp_path)
    assert _key("distill", _changed(pinned, "seed", 1), tmp_path) != _key("distill", pinned, tmp_path)
    assert _key("targets", pinned, tmp_path) == _key("targets", VIEWS, tmp_path)
    assert _key("targets", _changed(VIEWS, "seed", 1), tmp_path) != _key("targets", VIEWS, tmp_path)
    assert _key("targets", _changed(VIEWS, "data.seed", 1), tmp_path) != _key("targets", VIEWS, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("student.augment.crop", 2),
        ("student.augment.flip", True),
        ("targets.top", 3),
        ("data.train_samples", 390),
    ],
)
def test_other_views_are_kept_apart(tmp_path, key, value):
    assert _key("targets", _changed(VIEWS, key, value), tmp_path) != _key("targets", VIEWS, tmp_path)


def test_what_another_teacher_said_is_not_used(tmp_path):
    assert _key("targets", VIEWS, tmp_path, "b") != _key("targets", VIEWS, tmp_path, "a")


def test_the_largest_answers_are_kept_for_a_temperature(tmp_path):
    top = _changed(VIEWS, "targets.top", 3)
    hot = _changed(top, "distill.temperature", 2)
    assert _key("targets", hot, tmp_path) != _key("targets", top, tmp_path)


def test_an_onnx_teacher_is_known_by_its_content_and_that_of_the_files_beside_it(workplace, tmp_path):
    def key(name: str, value: float, *, beside: bool = True) -> str:
        weights = onnx.numpy_helper.from_array(np.full((64, 10), value, np.float32), "w")
        ports = [
            onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["b", s]) for n, s in (("x", 64), ("y", 10))
        ]
        node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ports[:1], ports[1:], [weights]))
        (workplace / "weights.bin").unlink(missing_ok=True)
        onnx.save(model, workplace / name, save_as_external_data=beside, location="weights.bin", size_threshold=0)
        return _key("teacher", tiny(teacher={"onnx": name}), tmp_path)

    first = key("a.onnx", 1.0)
    assert key("b.onnx", 1.0) == first
    assert key("b.onnx", 2.0) != first
    assert key("c.onnx", 1.0, beside=False) not in (first, key("c.onnx", 2.0, beside=False))
