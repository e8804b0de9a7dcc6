"""From a recipe to its steps: which there are, what each needs, and whose answers are kept."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tiny import tiny

from edgekd import Recipe, checks, steps
from edgekd.device import Device, Quantization
from edgekd.errors import UsageError
from edgekd.stage import Stage
from edgekd.stages import declared
from edgekd.stages.quantize import Options as Quantizing
from edgekd.terms import losses

BOX = {"box": Device(version=1, backend="onnxruntime", quantization=Quantization(activations="u8", reduce_range=False))}
NET = {"model": "mlp", "widths": [8], "epochs": 3}
TWO = {"big": {**NET, "widths": [16]}, "small": NET}
CROP = {"crop": 1}


def recipe(**changes: Any) -> Recipe:
    """Return a recipe without what comes after the student."""
    short = {"teacher": NET, "student": NET, "prune": False, "quantize": False, "validate": False}
    return Recipe.of(**tiny(**(short | changes)))


def laid_out(**changes: Any) -> dict[str, tuple[str, dict[str, str]]]:
    """Return {label: (variant, needs)} of the steps but the exports."""
    made = steps.steps(recipe(**changes), BOX)
    return {step.label: (step.variant, dict(step.needs)) for step in made if step.name != "export"}


def exported(**changes: Any) -> dict[str, str]:
    """Return {variant: the step that made what is exported}, in order."""
    made = steps.steps(recipe(**changes), BOX)
    return {step.variant: step.needs["model"] for step in made if step.name == "export"}


# ---- who needs whom


def test_one_teacher():
    assert laid_out() == {
        "teacher": ("teacher", {}),
        "targets": ("", {"teacher": "teacher"}),
        "distill": ("student", {"teacher": "teacher", "targets": "targets"}),
    }
    assert exported() == {"teacher": "teacher", "student": "distill"}


def test_the_whole_chain_in_the_order_of_the_work():
    made = steps.steps(Recipe.of(**tiny()), BOX)
    assert [step.label for step in made] == [
        "teacher", "targets", "distill", "prune", "quantize[int8-u8]",
        *(f"export[{variant}]" for variant in ("teacher", "student", "pruned", "int8-u8")),
        *(f"validate[{variant}]" for variant in ("teacher", "student", "pruned", "int8-u8")),
    ]  # fmt: skip
    known: set[str] = set()
    for step in made:
        assert set(step.needs.values()) <= known, step.label
        assert step.label not in known
        known.add(step.label)


def test_each_mode_quantizes_the_same_network_and_makes_a_variant():
    several = recipe(quantize={"mode": ["ptq", "qat"], "epochs": 3, "samples": 64})
    made = {step.label: step for step in steps.steps(several, BOX)}
    calibrated, trained = made["quantize[int8-u8]"], made["quantize[qat-u8]"]
    assert calibrated.needs == {"model": "distill"}
    assert trained.needs == {"model": "distill", "teacher": "teacher", "targets": "targets"}
    assert calibrated.block(several, "quantize") == Quantizing(mode="ptq", samples=64)
    assert trained.block(several, "quantize") == Quantizing(mode="qat", epochs=3, samples=64)
    assert steps.variants(BOX["box"], list(made.values())) == {
        "teacher": "teacher", "student": "student", "int8": "int8-u8", "qat": "qat-u8",
    }  # fmt: skip


def test_the_seed_of_a_search_is_calibrated_and_not_trained_with_integers():
    several = recipe(quantize={"mode": ["ptq", "qat", "mixed"]}, prune=False, budget={"min_speedup": 2})
    assert [one.variant for one in steps.steps(several, BOX) if one.name == "quantize"] == ["int8-u8"]


@pytest.mark.parametrize(
    ("gates", "own", "expected"),
    [({}, {}, None), ({"max_drop_pp": 0.3}, {}, 0.3), ({"max_drop_pp": 0.3}, {"max_drop_pp": 2}, 2)],
)
def test_mixed_precision_holds_the_gate_unless_it_has_a_limit_of_its_own(gates, own, expected):
    several = recipe(quantize={"mode": ["ptq", "mixed"], **own}, gates=gates)
    made = {one.variant: one.block(several, "quantize") for one in steps.steps(several, BOX) if one.name == "quantize"}
    assert (made["mixed-u8"].max_drop_pp, made["int8-u8"].max_drop_pp) == (expected, None)


def test_dynamic_networks_are_made_for_devices_that_have_them():
    quantization = BOX["box"].quantization
    devices = {
        "has": BOX["box"].model_copy(update={"quantization": quantization.model_copy(update={"dynamic": True})}),
        "lacks": BOX["box"],
    }
    several = recipe(quantize={"mode": ["ptq", "dynamic"], "samples": 64})
    made = steps.steps(several, devices)
    found = {name: list(steps.variants(device, made)) for name, device in devices.items()}
    assert found == {
        "has": ["teacher", "student", "int8", "dynamic"], "lacks": ["teacher", "student", "int8"],
    }  # fmt: skip
    (step,) = (one for one in made if one.label == "quantize[dynamic-u8]")
    assert step.block(several, "quantize") == Quantizing(mode="dynamic")  # no samples: nothing is calibrated
    assert "dynamic-u8" not in {one.variant for one in steps.steps(several, BOX)}
    assert (steps.left_out(several, devices["lacks"]), steps.left_out(several, devices["has"])) == (("dynamic",), ())
    (remark,) = steps.remarks(several, devices["lacks"])
    assert remark.startswith("dynamic: not made for this device")
    assert not list(checks.device_problems(several, devices))
    (problem,) = checks.device_problems(recipe(quantize={"mode": "dynamic"}), devices)
    assert problem.startswith("quantize.mode: dynamic: lacks (onnxruntime) does not quantize activations at run time")


def test_low_rank_comes_between_pruning_and_quantization():
    made = {step.label: step for step in steps.steps(Recipe.of(**tiny(factorize=True)), BOX)}
    assert [label for label in made if "[" not in label or label.startswith("quantize")] == [
        "teacher", "targets", "distill", "prune", "factorize", "quantize[int8-u8]",
    ]  # fmt: skip
    assert made["factorize"].needs == {"model": "prune", "teacher": "teacher", "targets": "targets"}
    assert made["quantize[int8-u8]"].needs == {"model": "factorize"}
    assert list(exported(factorize={})) == ["teacher", "student", "factorized"]


def test_pruning_goes_on_with_the_students_teachers_and_what_is_kept_of_them():
    made = {step.label: step for step in steps.steps(recipe(teacher=None, teachers=TWO, prune={}), BOX)}
    assert made["prune"].needs == {"model": "distill", **made["distill"].needs}
    assert made["prune"].needs.keys() == {"model", "teacher/big", "teacher/small", "targets/big", "targets/small"}


def test_several_teachers_teach_together_and_are_all_exported():
    several = {"teacher": None, "teachers": TWO, "distill": {"fusion": "entropy"}}
    assert laid_out(**several) == {
        "teacher[big]": ("teacher-big", {}),
        "teacher[small]": ("teacher-small", {}),
        "targets[big]": ("", {"teacher": "teacher[big]"}),
        "targets[small]": ("", {"teacher": "teacher[small]"}),
        "distill": (
            "student",
            {
                "teacher/big": "teacher[big]",
                "teacher/small": "teacher[small]",
                "targets/big": "targets[big]",
                "targets/small": "targets[small]",
            },
        ),
    }
    assert list(exported(**several)) == ["teacher-big", "teacher-small", "student"]
    assert steps.reference(recipe(**several)) == "teacher-big"
    made = {step.label: step for step in steps.steps(recipe(**several), BOX)}
    widths = [made[f"teacher[{name}]"].block(recipe(**several), "teacher").widths for name in TWO]
    assert widths == [(16,), (8,)]


def test_of_candidates_only_the_chosen_one_goes_on():
    chosen = {"teacher": "auto", "teachers": TWO}
    assert laid_out(**chosen) == {
        "teacher[big]": ("teacher-big", {}),
        "teacher[small]": ("teacher-small", {}),
        "choose": ("teacher", {"teacher/big": "teacher[big]", "teacher/small": "teacher[small]"}),
        "targets": ("", {"teacher": "choose"}),
        "distill": ("student", {"teacher": "choose", "targets": "targets"}),
    }
    assert exported(**chosen) == {"teacher": "choose", "student": "distill"}
    assert steps.reference(recipe(**chosen)) == "teacher"


def test_assistants_are_a_chain():
    helping = {"assistants": [{**NET, "widths": [14]}, {**NET, "widths": [12], "augment": CROP}]}
    assert laid_out(**helping) == {
        "teacher": ("teacher", {}),
        "targets[assistant-1]": ("", {"teacher": "teacher"}),
        "distill[assistant-1]": ("assistant-1", {"teacher": "teacher", "targets": "targets[assistant-1]"}),
        "distill[assistant-2]": ("assistant-2", {"teacher": "distill[assistant-1]"}),  # its views are always new
        "targets": ("", {"teacher": "distill[assistant-2]"}),
        "distill": ("student", {"teacher": "distill[assistant-2]", "targets": "targets"}),
    }
    assert exported(**helping) == {"teacher": "teacher", "student": "distill"}
    whole = recipe(**helping)
    made = {step.label: step for step in steps.steps(whole, BOX)}
    learning = [label for label in made if label.startswith("distill")]
    assert [made[label].block(whole, "student").widths for label in learning] == [(14,), (12,), (8,)]


def test_assistants_of_several_teachers():
    made = laid_out(teacher=None, teachers=TWO, assistants=[NET])
    assert set(made) >= {"targets[big, assistant-1]", "targets[small, assistant-1]", "targets"}
    assert made["distill[assistant-1]"][1]["targets/big"] == "targets[big, assistant-1]"
    assert made["distill"][1] == {"teacher": "distill[assistant-1]", "targets": "targets"}


def test_the_baseline_is_a_variant_that_needs_nobody():
    with_baseline = laid_out(baseline=True, prune={})
    assert with_baseline["baseline"] == ("baseline", {})
    assert with_baseline["prune"][1]["model"] == "distill"
    assert list(exported(baseline=True)) == ["teacher", "baseline", "student"]
    assert "baseline" not in laid_out()


def test_a_teacher_that_is_an_onnx_file_is_a_teacher():
    assert laid_out(teacher={"onnx": "t.onnx"}) == laid_out()


def test_without_a_student_nothing_is_kept():
    made = laid_out(distill=False, student=None, prune={})
    assert made == {"teacher": ("teacher", {}), "prune": ("pruned", {"model": "teacher", "teacher": "teacher"})}


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({}, "distill"),
        ({"prune": {}, "quantize": {}}, "distill"),
        ({"assistants": [NET], "baseline": True}, "distill"),
        ({"distill": False, "student": None, "prune": {}}, "teacher"),
    ],
)
def test_the_training_steps_end_with_the_student(changes, last):
    made = steps.training_steps(recipe(**changes))
    assert made[-1].label == last
    assert not {step.name for step in made} & {"prune", "quantize", "export", "validate"}


def test_every_stage_that_needs_something_finds_it():
    """What a stage consumes is what the chain can give."""
    roles = {role for stage, _ in declared().values() for role in stage.consumes}
    assert roles == {"teacher", "teachers", "targets", "model", "onnx"}
    assert all(isinstance(stage, Stage) for stage, _ in declared().values())


# ---- whether the teacher's answers are kept


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"student": {**NET, "epochs": 1}}, False),  # each is asked for once
        ({"student": {**NET, "augment": CROP}}, False),  # a new view in each epoch
        ({"student": {**NET, "augment": {**CROP, "views": 2}}}, True),
        ({"student": {**NET, "augment": {**CROP, "views": 3}}}, False),  # as many views as epochs
        ({"student": {**NET, "augment": {"views": 2}}}, True),  # nothing random: one view
        ({"student": {**NET, "augment": {"mixup": 0.2, "views": 1}}}, False),
        ({"student": {**NET, "augment": {**CROP, "cutmix": 1, "views": 1}}}, False),
        ({"distill": {"losses": ["kd", "dist", "dkd"]}}, True),
        ({"distill": {"losses": ["kd", "attention"]}}, False),
        ({"distill": {"alpha": 0}}, False),
        ({"distill": {"losses": []}}, False),
        ({"targets": False}, False),
        ({"targets": {"keep": "always"}}, True),
        ({"targets": {"keep": "always"}, "student": {**NET, "epochs": 1}}, True),
        ({"targets": {"top": 3}}, True),
    ],
)
def test_the_answers_are_kept_where_it_pays(changes, kept):
    made = laid_out(**changes)
    assert ("targets" in made) == kept
    assert ("targets" in made["distill"][1]) == kept


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"student": {**NET, "augment": CROP}}, "augment makes a new view in every epoch; set augment.views"),
        ({"student": {**NET, "augment": {"mixup": 1}}}, "mixup and cutmix mix whatever a batch holds"),
        ({"student": {**NET, "augment": {"cutmix": 1}}}, "mixup and cutmix mix whatever a batch holds"),
        ({"distill": {"losses": ["kd", "attention"]}}, "attention needs the teacher's features, which are not kept"),
        ({"distill": {"alpha": 0}}, "no loss asks a teacher"),
        ({"assistants": [{**NET, "augment": CROP}]}, "of the assistant-1's teacher cannot be kept"),
    ],
)
@pytest.mark.parametrize("targets", [{"keep": "always"}, {"top": 2}])
def test_what_cannot_be_kept_is_told_when_it_is_asked_for(changes, told, targets):
    with pytest.raises(UsageError) as error:
        checks.check(recipe(**changes, targets=targets), {}, None)
    assert str(error.value).startswith("targets: the answers of the ")
    assert told in str(error.value)
    checks.check(recipe(**changes), {}, None)
    checks.check(recipe(**changes, targets=False), {}, None)


def test_the_largest_answers_are_kept_for_one_temperature():
    several = {"losses": ["kd", {"dist": {"temperature": 1}}]}
    checks.check(recipe(distill=several, targets={"keep": "always"}), {}, None)
    with pytest.raises(UsageError, match="the losses have several temperatures"):
        checks.check(recipe(distill=several, targets={"top": 2}), {}, None)
    assert steps.temperatures(recipe(distill=several)) == {1.0, 4.0}
    assert steps.temperatures(recipe(distill={"losses": ["logit_mse", "attention"]})) == {1.0}


@pytest.mark.parametrize("loss", ["logit_mse", "standardized_kd", {"kd": {"standardize": True}}])
def test_a_loss_on_all_logits_does_not_go_with_the_largest_ones(loss):
    checks.check(recipe(distill={"losses": [loss]}, targets={"keep": "always"}), {}, None)
    with pytest.raises(UsageError, match=r"looks at all logits, of which targets\.top keeps the largest"):
        checks.check(recipe(distill={"losses": [loss]}, targets={"top": 2}), {}, None)
    assert set(losses()) >= steps.NEED_ALL


def test_a_loss_on_labels_does_not_go_with_mixed_batches():
    mixed = {**NET, "augment": {"mixup": 0.2}}
    with pytest.raises(UsageError, match="dkd needs one label per sample; remove student's mixup"):
        checks.check(recipe(distill={"losses": ["dkd"]}, student=mixed), {}, None)
    checks.check(recipe(distill={"losses": ["kd"]}, student=mixed), {}, None)


# ---- a teacher that is an ONNX file


def save(path, inputs: int = 1, outputs: int = 1) -> None:
    ports = [helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, ["n", 4]) for index in range(inputs)]
    results = [helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, ["n", 4]) for index in range(outputs)]
    chain = [port.name for port in ports] + [result.name for result in results]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in pairwise(chain) if b.startswith("y")]
    graph = helper.make_graph(nodes, "g", ports, results)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_a_black_box_is_looked_at_before_any_work(tmp_path):
    save(tmp_path / "two.onnx", inputs=2)
    save(tmp_path / "both.onnx", outputs=2)
    (tmp_path / "text.onnx").write_text("not a network")
    for name, told in {
        "gone": "teacher.onnx: {}: there is no such file",
        "two": "teacher.onnx: {} has 2 inputs; a teacher has one",
        "both": "teacher.onnx: {} has 2 outputs; a teacher has one",
        "text": "teacher.onnx: {}: not an ONNX file",
    }.items():
        path = tmp_path / f"{name}.onnx"
        with pytest.raises(UsageError) as error:
            checks.check(recipe(teacher={"onnx": str(path)}), {}, None)
        assert told.format(path) in str(error.value)


def test_what_a_black_box_cannot_give_is_not_asked_for(tmp_path):
    save(tmp_path / "one.onnx")
    box = {"onnx": str(tmp_path / "one.onnx")}
    checks.check(recipe(teacher=box), {}, None)
    with pytest.raises(UsageError, match="attention asks for features, and teacher is an ONNX file"):
        checks.check(recipe(teacher=box, distill={"losses": ["kd", "attention"]}), {}, None)
    for changes in ({"prune": {}}, {"factorize": {}}, {"quantize": {}}):
        with pytest.raises(UsageError, match="the teacher is an ONNX file, which is taken as it is"):
            checks.check(recipe(teacher=box, distill=False, student=None, **changes), {}, None)
    checks.check(recipe(teacher=box, distill=False, student=None), {}, None)
    with pytest.raises(UsageError, match="remove epochs, width"):
        recipe(teacher={**box, "width": 8, "epochs": 2})
    with pytest.raises(UsageError, match="either a `model` or an `onnx` file"):
        recipe(teacher={**box, "model": "mlp"})


# ---- which teachers there are


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": None}, "teacher is missing"),
        ({"teachers": TWO}, "name one teacher, or several"),
        ({"teacher": "auto"}, "teacher: auto chooses among several"),
        ({"teacher": "auto", "teachers": {"big": NET}}, "teacher: auto chooses among several"),
        ({"teacher": None, "teachers": {"Big One": NET}}, "Big One"),
        ({"teacher": None, "teachers": TWO, "distill": False, "student": None}, "distill: false compresses one"),
        ({"assistants": [NET], "distill": False, "student": None}, "remove assistants"),
        ({"baseline": True, "distill": False, "student": None}, "remove baseline"),
        (
            {"teacher": None, "teachers": TWO, "distill": {"fusion": "weighted", "shares": {"big": 1, "smal": 2}}},
            "distill.shares: one part for each of big, small",
        ),
    ],
)
def test_teachers_that_do_not_go_together(changes, told):
    with pytest.raises(UsageError) as error:
        recipe(**changes)
    assert told in str(error.value)


# ---- quantization with training needs what training needs


def test_quantization_that_trains_needs_teachers_and_depends_on_the_machine_and_calibration_does_not():
    plain, trained = (
        next(step for step in steps.steps(recipe(quantize=options), BOX) if step.name == "quantize")
        for options in ({}, {"mode": "qat"})
    )
    assert dict(plain.needs) == {"model": "distill"}
    assert dict(trained.needs) == {"model": "distill", "teacher": "teacher", "targets": "targets"}
    assert (plain.stage.trains, trained.stage.trains) == (False, True)
    assert (plain.stage.reads, trained.stage.reads) == ((), ("teacher", "student", "distill"))
    assert (plain.variant, trained.variant) == ("int8-u8", "qat-u8")
    assert plain.context == trained.context


def test_4_bit_weights_are_refused_for_a_runtime_that_does_not_read_them_before_any_work():
    old, new = ({"here": Device(version=1, backend="onnxruntime", max_opset=opset)} for opset in (20, 21))
    small = recipe(quantize={"weights_bits": 4})
    (problem,) = checks.device_problems(small, old)
    assert "here (onnxruntime): 4-bit weights need ONNX opset 21, and the runtime reads up to 20" in problem
    assert not list(checks.device_problems(small, new))
    assert not list(checks.device_problems(recipe(quantize={}), old))
