"""`edgekd validate`, from the command line to the files that it leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from validation.nets import CLASSES, SAMPLES, SHAPE, change, classifier, quantized, samples, save
from validation.zoo import _multi, _tokens

import edgekd as package
from edgekd import Result, acceptance, validate
from edgekd.errors import DeviceError, StageError, UsageError
from edgekd.recipe import Gates


@pytest.fixture
def files(workplace: Path) -> dict[str, Path]:
    """A reference, its quantized form, one of stale weights; samples whose labels are the reference's answers."""
    reference = save(classifier(), workplace / "reference.onnx")
    (workplace / "text.onnx").write_text("no model")
    images = samples(400)
    labels = _answers(images)
    np.savez(workplace / "data.npz", x=images, labels=labels)
    np.savez(workplace / "few.npz", x=images[:20], labels=labels[:20])
    return {
        "reference": reference,
        "int8": save(quantized(), workplace / "int8.onnx"),
        "stale": save(classifier(seed=9), workplace / "stale.onnx"),
    }


def _answers(images: np.ndarray) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator

    (logits,) = ReferenceEvaluator(classifier()).run(None, {"x": images})
    return np.asarray(logits).argmax(axis=1)


def _failing(content: Any, model: int = 0) -> set[str]:
    return {check["id"] for check in content["models"][model]["checks"] if check["fails"]}


def _check(content: Any, id: str, model: int = 0) -> dict[str, Any]:
    return next(check for check in content["models"][model]["checks"] if check["id"] == id)


# ---- the command


def test_a_sound_model_passes_and_every_form_is_written(edgekd, files):
    outcome = edgekd(
        "validate", "int8.onnx", "--against", "reference.onnx", "--data", "data.npz", "--max-drop-pp", "8",
        "--junit", "out.xml", "--markdown", "out.md", "--json", "out.json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.text
    assert "PASSED  int8.onnx  int8" in outcome.out
    assert "400 samples of data.npz" in outcome.out
    content = json.loads(Path("out.json").read_text())
    assert (content["status"], content["exit_code"], content["models"][0]["precision"]) == ("passed", 0, "int8")
    assert ET.parse("out.xml").getroot().attrib["failures"] == "0"
    assert Path("out.md").read_text().startswith("## ✅ edgekd validate")


def test_a_model_that_departs_fails_and_the_node_is_named(edgekd, files):
    outcome = edgekd("validate", "reference.onnx", "stale.onnx", "--against", "reference.onnx", "--bisect")
    assert outcome.code == 1, outcome.text
    assert re.search(r"PASSED  reference.onnx.*FAILED  stale.onnx", outcome.out, re.DOTALL)
    assert "64 RANDOM inputs, accuracy not measured" in outcome.out
    assert re.search(r"passed too: .*parity-sqnr", outcome.out)  # equal to the bit: infinite, which is no figure
    assert not re.search(r": *$", outcome.out, re.MULTILINE)
    assert "bisect: c1 (Conv) is the first that departs" in outcome.out


@pytest.mark.parametrize("ending", [("--json", "-"), ("--json",), ("--json", "--bisect")])
def test_json_to_the_standard_output_is_all_that_is_there(edgekd, files, ending):
    outcome = edgekd("validate", "reference.onnx", "--against", "reference.onnx", *ending)
    assert json.loads(outcome.out)["models"][0]["status"] == "passed"


def test_an_error_is_json_where_that_goes_to_the_standard_output(edgekd, files):
    outcome = edgekd("validate", "gone.onnx", "--against", "reference.onnx", "--json")
    assert (outcome.code, json.loads(outcome.out)["error"]["code"]) == (2, "E-VALIDATE")
    outcome = edgekd("validate", "gone.onnx", "--against", "reference.onnx", "--json", "out.json")
    assert (outcome.code, outcome.out) == (2, "")


def test_quiet_is_a_line_for_each_model_and_what_failed(edgekd, files):
    outcome = edgekd("validate", "reference.onnx", "stale.onnx", "--against", "reference.onnx", "--quiet")
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines] == ["PASSED", "FAILED", "x", "x", "x", "x"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gone.onnx", "--against", "reference.onnx"], "gone.onnx: there is no such file"),
        (["reference.onnx", "--against", "gone.onnx"], "--against gone.onnx: there is no such file, and no recipe"),
        (["reference.onnx", "--against", "text.onnx"], "the reference itself is broken: file: not an ONNX file"),
        (["reference.onnx", "--against", "reference.onnx", "--data", "digits"], "--data digits has samples"),
        (["reference.onnx", "--against", "reference.onnx", "--data", "gone.npz"], "gone.npz"),
        (["reference.onnx", "--against", "reference.onnx", "--tolerance", "fp8"], "no 'fp8'"),
        (["reference.onnx", "--against", "reference.onnx", "--tolerance", "sqnr=much"], "'much' is no number"),
        (["reference.onnx", "--against", "reference.onnx", "--device", "cpuu"], "no device 'cpuu'"),
        (["reference.onnx", "--against", "reference.onnx", "--junit", "no/where.xml"], "there is no folder no"),
        (["reference.onnx", "--against", "reference.onnx", "--json", "stale.onnx"], "would write over a model"),
        (["reference.onnx"], "Missing option '--against'"),
        (["--against", "reference.onnx"], "Missing argument"),
    ],
)
def test_wrong_input_is_told_before_any_work(edgekd, files, arguments, told):
    outcome = edgekd("validate", *arguments)
    assert outcome.code == 2, outcome.text
    assert told in outcome.err


def test_problems_of_several_files_are_told_together(files):
    with pytest.raises(UsageError, match=r"(?s)a\.onnx.*b\.onnx.*no 'x'"):
        validate(["a.onnx", "b.onnx"], "reference.onnx", tolerances=["x"])


# ---- accuracy


def test_accuracy_is_compared_sample_by_sample(files):
    """The labels are the reference's own answers, so what is lost is exactly what disagrees."""
    found = _check(
        validate([files["int8"]], files["reference"], data="data.npz", max_drop_pp=8.0).content, "accuracy-drop"
    )
    top1 = _check(validate([files["int8"]], files["reference"], data="data.npz").content, "parity-top1")
    assert found["value"] == pytest.approx(100 * (1 - top1["value"]))
    assert (found["status"], found["limit"]) == ("passed", 8.0)


def test_a_drop_is_passed_failed_or_inconclusive(files):
    def status(model: str, data: str, limit: float) -> str:
        return _check(
            validate([files[model]], files["reference"], data=data, max_drop_pp=limit).content, "accuracy-drop"
        )["status"]

    assert status("stale", "data.npz", 1.0) == "failed"
    assert status("reference", "data.npz", 1.0) == "passed"
    assert status("reference", "few.npz", 1.0) == "inconclusive"  # too few for any drop
    assert status("reference", "few.npz", 60.0) == "inconclusive"


def test_samples_limit_what_is_looked_at(files):
    content = validate([files["reference"]], files["reference"], data="data.npz", samples=50).content
    assert content["samples"] == 50
    assert _check(content, "finite")["message"] == "all of 50 samples"


def test_labels_that_do_not_fit_are_told(files, workplace):
    np.savez(workplace / "wrong.npz", x=samples(), labels=np.zeros((SAMPLES, 3, 2)))
    with pytest.raises(UsageError, match=r"its labels .* do not fit y"):
        validate([files["reference"]], files["reference"], data="wrong.npz")


# ---- data


def test_a_folder_of_arrays_is_read_as_it_is_used(files, workplace):
    (workplace / "samples").mkdir()
    np.save(workplace / "samples" / "x.npy", samples(70).astype(np.float64))
    np.save(workplace / "samples" / "labels.npy", np.zeros(70, np.int64))
    content = validate([files["int8"]], files["reference"], data="samples").content
    assert (content["samples"], content["labels"], _failing(content)) == (70, True, set())


def test_several_inputs_come_from_one_file(workplace):
    path = save(_multi(), workplace / "multi.onnx")
    generator = np.random.default_rng(0)
    arrays = {
        "image": generator.standard_normal((9, *SHAPE)),
        "extra": generator.standard_normal((9, 4)),
        "scale": np.ones(1),
    }
    np.savez(workplace / "multi.npz", **arrays)
    assert validate([path], path, data="multi.npz").content["samples"] == 9
    np.savez(workplace / "uneven.npz", **{**arrays, "extra": arrays["extra"][:8]})
    with pytest.raises(UsageError, match="the same number of samples"):
        validate([path], path, data="uneven.npz")
    with pytest.raises(UsageError, match="image, extra, scale"):
        validate([path], path, data="digits")


def test_a_data_set_gives_its_test_split(workplace):
    images = np.random.default_rng(0).standard_normal((60, *SHAPE)).astype(np.float32)
    labels = np.arange(60) % CLASSES
    np.savez(workplace / "set.npz", x_train=images[:30], y_train=labels[:30], x_test=images[30:], y_test=labels[30:])
    path = save(classifier(), workplace / "model.onnx")
    content = validate([path], path, data="set.npz").content
    assert (content["samples"], content["labels"]) == (30, True)


def test_no_pickle_is_read(workplace):
    path = save(classifier(), workplace / "model.onnx")
    np.savez(workplace / "pickled.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UsageError, match="pickled"):
        validate([path], path, data="pickled.npz")


# ---- a recipe as reference


def test_a_recipes_teacher_comes_from_the_store(edgekd, chain, home_recipe):
    teacher = chain.result.path / "models" / "teacher.onnx"
    outcome = edgekd("validate", str(teacher), "--against", "tiny.yaml", "--data", "tiny.yaml", "--max-drop-pp", "5")
    assert outcome.code == 0, outcome.text
    assert "against tiny.yaml" in outcome.out


def test_another_network_than_the_teacher_has_no_limits_but_those_on_accuracy(edgekd, chain, home_recipe):
    student = chain.result.path / "models" / "student.onnx"
    outcome = edgekd("validate", str(student), "--against", "tiny.yaml", "--data", "tiny.yaml", "--json", "out.json")
    assert outcome.code == 0, outcome.text
    assert "another network than its reference" in outcome.out
    assert _check(json.loads(Path("out.json").read_text()), "parity-sqnr")["status"] == "skipped"


def test_a_teacher_that_was_never_made_is_told(edgekd, files, workplace, write_recipe):
    outcome = edgekd("validate", "reference.onnx", "--against", str(write_recipe()))
    assert outcome.code == 2, outcome.text
    assert re.search(r"its teacher is not in the store .* \(never made\): run edgekd pipeline", outcome.err)


@pytest.fixture
def home_recipe(chain, monkeypatch, workplace) -> None:
    from tiny import tiny

    monkeypatch.setenv("EDGEKD_HOME", str(chain.store))
    (workplace / "tiny.yaml").write_text(json.dumps({"version": 1, **tiny()}))


# ---- devices and latency


def test_a_device_limits_the_opset_and_its_runtime_answers(files):
    content = validate([files["int8"]], files["reference"], device="cpu").content
    assert (content["device"], content["runtime"]) == ("cpu", "onnxruntime")
    assert _check(content, "opset")["limit"] == 21


def test_a_runtime_that_is_elsewhere_is_not_measured(files):
    content = validate([files["reference"]], files["reference"], device="jetson").content
    session = _check(content, "session")
    assert (session["status"], session["fails"]) == ("not_measured", False)
    assert "ONNX Runtime answers in its place" in session["message"]


def test_the_backend_of_a_device_answers(files):
    pytest.importorskip("openvino")
    content = validate([files["reference"]], files["reference"], device="openvino").content
    assert content["runtime"] == "openvino"
    assert _failing(content) == set()


def _measured(status: str | None, **figures: Any) -> Any:
    """Return a stand-in for `bench`: a report of one device with these figures of the model."""
    variant = {"latency_ns": {"p50": 1e6, "p99": 3e6, "p50_ci": [9e5, 1.1e6]}, "reasons": {}, "speedup": 2.0,
               "speedup_ci": [1.9, 2.1], "energy_reason": None, **figures}  # fmt: skip
    error = None if status is None else {"kind": status, "message": "it is off"}
    device = {"error": error, "variants": {} if error else {"reference": variant, "int8": variant}}

    report = {"reference": "reference", "devices": {"cpu": device}}
    return lambda *_, **__: Result(Path(), report, 0)


def test_gates_on_latency_are_judged_by_the_ordinary_measurement(files, monkeypatch):
    monkeypatch.setattr(acceptance, "bench", _measured(None))
    content = validate([files["int8"]], files["reference"], gates=Gates(min_speedup=1.5, max_p99_ms=2.0)).content
    found = {check["subject"]: check for check in content["models"][0]["checks"] if check["id"] == "latency"}
    assert (found["min_speedup"]["status"], found["min_speedup"]["value"]) == ("passed", 2.0)
    assert (found["max_p99_ms"]["status"], found["max_p99_ms"]["value"]) == ("failed", 3.0)


@pytest.mark.parametrize(("kind", "code"), [("unreachable", 1), ("pending", 1), ("failed", 1)])
def test_latency_that_was_not_measured_fails(files, monkeypatch, kind, code):
    monkeypatch.setattr(acceptance, "bench", _measured(kind))
    found = validate([files["int8"]], files["reference"], gates=Gates(max_p50_ms=2.0))
    assert found.exit_code == code
    assert _check(found.content, "latency")["message"] == "it is off"


def test_a_broken_model_is_not_measured(files, monkeypatch):
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(acceptance, "bench", never)
    content = validate(["text.onnx"], files["reference"], gates=Gates(max_p50_ms=2.0)).content
    assert _failing(content) == {"file"}
    assert _check(content, "latency")["status"] == "skipped"


# ---- tolerances


def test_tolerances_are_what_is_asked(files):
    def failing(*tolerances: str) -> set[str]:
        return _failing(validate([files["int8"]], files["reference"], tolerances=tolerances).content)

    assert failing() == set()
    assert failing("fp32") == {"parity-max", "parity-mean", "parity-sqnr"}
    assert failing("sqnr=90") == {"parity-sqnr"}
    assert failing("fp32", "sqnr=5,max=1,mean=1,cosine=0.5") == set()
    assert _failing(validate([files["stale"]], files["reference"], tolerances=["off"]).content) == set()


def test_a_token_model_runs_on_real_tokens(workplace):
    path = save(_tokens(), workplace / "tokens.onnx")
    generator = np.random.default_rng(0)
    np.savez(workplace / "tokens.npz", ids=generator.integers(0, 16, (40, 12)), mask=np.ones((40, 12), np.int64))
    assert _failing(validate([path], path, data="tokens.npz").content) == set()


def test_the_public_name_is_this_function():
    assert package.validate is acceptance.validate
    assert {DeviceError.exit_code, StageError.exit_code, UsageError.exit_code} == {2, 3, 4}


def test_one_changed_weight_in_a_thousand_is_seen(files, workplace):
    def edit(array: np.ndarray) -> np.ndarray:
        array.flat[7] += 0.2
        return array

    path = save(change(classifier(), "fc.w", edit), workplace / "one.onnx")
    assert "parity-max" in _failing(validate([path], files["reference"]).content)
