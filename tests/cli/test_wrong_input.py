"""Whatever a user gets wrong is told on one screen, with what was asked, what exists and what to do; no traceback."""

from __future__ import annotations

import errno
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from edgekd import artifact, cli, pipeline, rundir

ROOT = Path(__file__).resolve().parents[2]
NETS = """
import numpy as np
from torch import nn

def net(width=16):
    return nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.ReLU(), nn.Linear(width, 3))

def seven():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 7))

def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(35, 3))

def constant():
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(3))

def raises():
    raise RuntimeError("no network today")

def leaves():
    raise SystemExit(7)

def nothing():
    return None

class Pair(nn.Module):
    def forward(self, x):
        return x, x

def pair():
    return Pair()

def splits():
    rows = np.zeros((9, 36), np.float32) + np.arange(9)[:, None]
    return (rows, np.arange(9) % 3), (rows[:3] + 1, np.arange(3)), (rows[:3] + 2, np.arange(3))

def number():
    return 3

def negative():
    train, validation, test = splits()
    return (train[0], train[1] - 1), validation, test

def unfinished():
    train, validation, test = splits()
    train[0][5, 3] = np.nan
    return train, validation, test

def wanting(folder):
    return splits()

def task():
    return 3
"""


# ---- names and options


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pipelin"], ["No such command 'pipelin'", "Did you mean 'pipeline'"]),
        (["pipeline", "digits", "--devices", "cpu"], ["No such option '--devices'", "--device"]),
        (["pipeline", "digits", "mnist-mlp"], ["unexpected extra argument"]),
        (["pipeline", "digit"], ["'digit'", 'did you mean "digits"', "mnist-mlp", ".yaml"]),
        (["pipeline", "gone.yaml"], ["gone.yaml", "no such file", "digits"]),
        (["pipeline", "digits", "--device", "cpuu"], ["'cpuu'", 'did you mean "cpu"', "openvino"]),
        (["pipeline", "digits", "--device", "gone.yaml"], ["gone.yaml", "no such file", "cpu"]),
        (["pipeline", "digits", "--device", "cpu", "--device", "cpu"], ["two devices are called 'cpu'"]),
        (["pipeline", "digits", "--set", "student"], ["--set student", "KEY=VALUE"]),
        (["pipeline", "digits", "--set", "student.widht=8"], ["student.widht", 'did you mean "width"', "known:"]),
        (["pipeline", "digits", "--set", "seed=half"], ['seed: "half"', "whole number"]),
        (["pipeline", "digits", "--set", "distill.alpha=2"], ["distill.alpha: 2", "at most 1"]),
        (["pipeline", "digits", "--set", "distill.temperature=0"], ["distill.temperature: 0", "greater than 0"]),
        (["pipeline", "digits", "--set", "distill.losses=[kd]"], ["temperature and alpha are the short form", "null"]),
        (["pipeline", "digits", "--set", "distill.alpha=.inf"], ["distill.alpha: Infinity", "finite"]),
        (["pipeline", "digits", "--set", "distill.fusion=median"], ['"median"', '"mean", "weighted", "entropy"']),
        (["pipeline", "digits", "--set", "teacher=auto"], ["teacher: auto chooses among several"]),
        (["pipeline", "digits", "--set", "targets={top: 3, keep: alway}"], ["targets.keep", 'did you mean "always"']),
        (["pipeline", "digits", "--set", "teacher={onnx: gone.onnx}"], ["teacher.onnx: gone.onnx", "no such file"]),
        (["pipeline", "digits", "--accelerate-config", "gone.yaml"], ["--accelerate-config gone.yaml", "no such file"]),
        (["pipeline", "digits", "--set", "prune.importance=taylr"], ['"taylr"', 'did you mean "taylor"']),
        (["pipeline", "digits", "--set", "prune={ratio: 0}"], ["prune: ", "there is nothing to prune", "prune: false"]),
        (
            ["pipeline", "digits", "--set", "prune.sparsity={n: 4, m: 2}"],
            ["prune.sparsity: ", "n must be smaller than m"],
        ),
        (["pipeline", "digits", "--set", "teacher.model=konvnet"], ["'konvnet'", 'did you mean "convnet"', "resnet"]),
        (["pipeline", "digits", "--set", "teacher.widths=[8]"], ['no argument "widths"', 'did you mean "width"']),
        (["pipeline", "digits", "--set", "task=regression"], ["no task 'regression'", "classification"]),
        (["pipeline", "digits", "--set", "student=null"], ["student is missing", "distill: false"]),
        (["pipeline", "digits", "--set", "measure=false"], ["export and measure cannot be switched off"]),
        (["pipeline", "digits", "--set", "data.source=digitz"], ['"digitz"', 'did you mean "digits"', ".npz"]),
        (["pipeline", "digits", "--set", "data.source=gone.npz"], ["gone.npz", "no such file"]),
        (["pipeline", "digits", "--set", "data.source=./gone/"], ["gone", "no such folder"]),
        (["pipeline", "digits", "--set", "data.train_samples=9999"], ["9999 training samples", "there are 1348"]),
        (["pipeline", "digits", "--set", "data.validation=9999"], ["9999", "of 1348"]),
        (["pipeline", "digits", "--set", "measure.batch_size=9999"], ["9999 samples", "the test split has 449"]),
        (["pipeline", "digits", "--set", "teacher.weights=gone.pt"], ["teacher.weights: gone.pt", "no such file"]),
        (["recipe", "show", "digit"], ['did you mean "digits"']),
        (["recipe", "copy", "digit"], ['did you mean "digits"']),
        (["recipe", "check", "digits", "--set", "sed=1"], ['did you mean "seed"']),
        (["device", "show", "opnvino"], ['did you mean "openvino"']),
        (["report", "gone"], ["gone is not a run", "run.json"]),
        (["bench"], ["Missing argument 'MODELS...'"]),
        (["bench", "gone.onnx"], ["gone.onnx", "no such file"]),
        (["bench", "gone.onnx", "--batch-size", "0"], ["'--batch-size'", "x>=1"]),
        (["cache", "ls"], ["there is no store", "EDGEKD_HOME"]),
    ],
    ids=lambda value: " ".join(value) if value[0] in cli.COMMANDS else "",
)
def test_before_any_work(edgekd, arguments, told):
    outcome = edgekd(*arguments)
    assert outcome.code == 2
    assert [part for part in told if part not in outcome.err] == []
    assert not list(Path(os.environ["EDGEKD_HOME"]).glob("*/*"))


def test_all_problems_of_a_recipe_at_once_each_with_its_line(edgekd, workplace):
    (workplace / "mine.yaml").write_text(
        "version: 1\ndata: digits\nteacher: {model: convnet, epochs: -1}\nstudnt: {model: mlp}\nseed: one\ngates:\n"
        "  max_drop: 1\n"
    )
    outcome = edgekd("pipeline", "mine.yaml", "--set", "prune.ratio=1")
    assert outcome.code == 2
    assert outcome.err.startswith("error[E-YAML]: 5 problems in mine.yaml:\n")
    for line in (
        "mine.yaml:3: teacher.epochs: -1 is not allowed: must be greater than 0",
        'mine.yaml:4: studnt: unknown key; did you mean "student"?',
        'mine.yaml:5: seed: "one" is not allowed: must be a whole number',
        'mine.yaml:7: gates.max_drop: unknown key; did you mean "max_drop_pp"?',
        "--set prune.ratio=1: prune.ratio: 1 is not allowed: must be less than 1",
    ):
        assert line in outcome.err


def test_problems_of_networks_task_data_and_devices_are_told_together(edgekd, workplace):
    (workplace / "box.yaml").write_text("version: 1\nbackend: onnxrt\n")
    outcome = edgekd(
        "pipeline", "digits", "--device", "box.yaml", "--set", "teacher.model=x", "--set", "student.weights=y.pt",
        "--set", "task=z", "--set", "data.source=q.npz",
    )  # fmt: skip
    assert outcome.code == 2
    for part in ("teacher.model", "student.weights: y.pt", "no task 'z'", "device box: no backend 'onnxrt'", "q.npz"):
        assert part in outcome.err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("backend: onnxruntme", ["no backend 'onnxruntme'", 'did you mean "onnxruntime"']),
        ("options: {thread: 2}", ["no option thread", "providers, threads"]),
        ("options: {threads: two}", ["option threads", "'two'"]),
        ("options: {threads: 4096}", ["4096 threads do not fit"]),
        ("options: {providers: [TPUExecutionProvider]}", ["TPUExecutionProvider", "CPUExecutionProvider"]),
        ("power: {meter: wattmeter}", ["no power meter 'wattmeter'", "rapl"]),
        ("cores: [4096]", ["cores [4096]", "may use"]),
        ("cores: []", ["cores", "at least 1"]),
        ("max_opset: 9", ["max_opset: 9", "at least 13"]),
        ("quantization: {activations: s9}", ['"s9"', '"u8"']),
        ("version: 2", ["version: 2", "1"]),
    ],
)
def test_a_device_that_cannot_be_measured_here(edgekd, workplace, line, told):
    content = {"version": 1, "backend": "onnxruntime"} | yaml.safe_load(line)
    (workplace / "box.yaml").write_text(yaml.safe_dump(content))
    outcome = edgekd("pipeline", "digits", "--device", "box.yaml", "--plan")
    assert outcome.code == 2
    assert [part for part in told if part not in outcome.err] == []


def test_layers_that_are_not_there_are_told_before_any_training(edgekd):
    outcome = edgekd("pipeline", "digits", "--set", "prune.exclude=[steem, head]")
    assert outcome.code == 3
    for told in ("no layer 'steem' to exclude", "no layer 'head' to exclude"):
        assert told in outcome.err
    assert not list((Path(os.environ["EDGEKD_HOME"]) / "artifacts").iterdir())


# ---- where results go


@pytest.mark.parametrize("plan", [[], ["--plan"]])
@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("file", "is a file"),
        ("file/below", "is a file"),
        ("full", "not empty and is no earlier run"),
        ("/proc/edgekd", "cannot be written"),
    ],
)
def test_out(edgekd, workplace, plan, out, told):
    (workplace / "file").write_text("")
    (workplace / "full").mkdir()
    (workplace / "full" / "thesis.txt").write_text("years of work")
    outcome = edgekd("pipeline", "digits", "--out", out, *plan)
    assert outcome.code == 2
    assert f"--out {out}" in outcome.err
    assert told in outcome.err
    assert "name a folder" in outcome.err or "name another folder" in outcome.err


@pytest.mark.parametrize("home", ["file", "file/below", "/proc/edgekd"])
def test_a_store_that_cannot_be_written(edgekd, workplace, monkeypatch, home):
    (workplace / "file").write_text("")
    monkeypatch.setenv("EDGEKD_HOME", home)
    outcome = edgekd("pipeline", "digits", "--plan")
    assert outcome.code == 2
    assert f"the store {home} cannot be written" in outcome.err
    assert "EDGEKD_HOME" in outcome.err


def test_a_disk_with_too_little_space(edgekd, monkeypatch):
    monkeypatch.setattr(pipeline, "SMALLEST_FREE_BYTES", 2**80)
    outcome = edgekd("pipeline", "digits", "--plan")
    assert outcome.code == 2
    assert "free in the store" in outcome.err


def test_a_disk_that_fills_up_while_a_stage_works(edgekd, write_recipe, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(artifact, "_seal", full)
    outcome = edgekd("pipeline", write_recipe())
    assert outcome.code == 3
    assert "teacher: no space left in the store" in outcome.err
    assert "edgekd cache gc" in outcome.err
    assert not any((Path(os.environ["EDGEKD_HOME"]) / "partial").iterdir())


def test_a_disk_that_fills_up_while_the_run_is_written(edgekd, write_recipe, unmeasured, workplace, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(rundir, "write", full)
    changes = {"distill": False, "prune": False, "quantize": False, "validate": False}
    outcome = edgekd("pipeline", write_recipe(**changes), "--out", "run")
    assert outcome.code == 3
    assert "no space left in" in outcome.err
    assert sorted(path.name for path in workplace.iterdir()) == ["small.npz", "small.yaml"]


# ---- data


def _idx(array: np.ndarray, cut: int | None = None) -> bytes:
    return struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()[:cut]


def test_data_that_is_neither_there_nor_to_be_had(edgekd, workplace, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    outcome = edgekd("pipeline", "mnist-mlp", "--data-dir", "nowhere", "--plan")
    assert outcome.code == 2
    for part in ("mnist is not in nowhere", "no route to host", "train-images-idx3-ubyte", "mnist.npz", "EDGEKD_DATA"):
        assert part in outcome.err


def test_a_truncated_idx_file(edgekd, workplace):
    arrays = {"train": np.zeros((6, 28, 28), np.uint8), "t10k": np.zeros((2, 28, 28), np.uint8)}
    for name, images in arrays.items():
        (workplace / f"{name}-images-idx3-ubyte").write_bytes(_idx(images, cut=1000 if name == "t10k" else None))
        (workplace / f"{name}-labels-idx1-ubyte").write_bytes(_idx(np.zeros(len(images), np.uint8)))
    outcome = edgekd("pipeline", "mnist-mlp", "--data-dir", ".", "--plan")
    assert outcome.code == 2
    assert "t10k-images-idx3-ubyte: is truncated" in outcome.err
    assert "expected 1568 bytes of values, found 1000" in outcome.err


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _relabel(path: Path) -> None:
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, "y_test": arrays["y_test"] + 1})


def _drop(path: Path) -> None:
    arrays = dict(np.load(path))
    np.savez(path, **{name: array for name, array in arrays.items() if name != "y_test"})


def _pickle(path: Path) -> None:
    np.savez(path, **{**dict(np.load(path)), "y_test": np.array([{}], dtype=object)})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_cut, "is no npz file, or is truncated"),
        (_relabel, "test: labels out of range: found 3 with 3 classes"),
        (_drop, "has no array y_test"),
        (_pickle, "pickled Python objects"),
    ],
)
def test_a_damaged_npz(edgekd, write_recipe, damage, told):
    recipe = write_recipe()
    damage(recipe.with_name("small.npz"))
    outcome = edgekd("pipeline", recipe)
    assert outcome.code == 2
    assert "small.npz" in outcome.err
    assert told in outcome.err


# ---- the user's own code


@pytest.mark.parametrize(
    ("function", "code", "told"),
    [
        ("nett", 2, ['has no "nett"', 'did you mean "net"']),
        ("raises", 3, ["RuntimeError: no network today", ".py:18"]),
        ("leaves", 3, ["SystemExit: 7"]),
        ("nothing", 3, ["returned NoneType", "torch.nn.Module"]),
        ("pair", 3, ["student: the network returned tuple for 2 inputs", "(2, classes)"]),
        ("seven", 3, ["student: the network has 7 outputs, the data have 3 classes"]),
        ("narrow", 3, ["student: the network fails on inputs of shape (2, 1, 6, 6)"]),
        ("constant", 3, ["student: the network has no parameter to train"]),
    ],
)
def test_a_network_of_the_users_before_anything_is_trained(edgekd, write_recipe, module, function, code, told):
    outcome = edgekd("pipeline", write_recipe(student={"model": f"{module(NETS)}:{function}", "epochs": 1}))
    assert outcome.code == code
    assert [part for part in told if part not in outcome.err] == []
    assert "teacher" not in outcome.out


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone.nets:net", 'there is no module "gone"'),
        ("nets.net", '"package.module:function"'),
        ("nets/mine.py:net", '"nets.mine:net"'),
    ],
)
def test_a_function_that_cannot_be_found(edgekd, write_recipe, name, told):
    outcome = edgekd("pipeline", write_recipe(teacher={"model": name}))
    assert outcome.code == 2
    assert "teacher.model" in outcome.err
    assert told in outcome.err


def test_arguments_that_a_network_does_not_take(edgekd, write_recipe, module):
    model = {"model": f"{module(NETS)}:net", "args": {"widht": 8}}
    outcome = edgekd("pipeline", write_recipe(teacher=model))
    assert outcome.code == 2
    assert 'has no argument "widht"; did you mean "width"? (arguments: width=16)' in outcome.err


@pytest.mark.parametrize(
    ("function", "code", "told"),
    [
        ("gone", 2, 'has no "gone"'),
        ("wanting", 2, 'needs the argument "folder"'),
        ("number", 3, "returned int; it must return (train, validation, test)"),
        ("negative", 2, "labels out of range: found -1"),
        ("unfinished", 2, "the inputs of sample 5 have values that are not finite"),
        ("raises", 3, "RuntimeError: no network today"),
    ],
)
def test_a_data_function_of_the_users(edgekd, write_recipe, module, function, code, told):
    outcome = edgekd("pipeline", write_recipe(data=f"{module(NETS)}:{function}"))
    assert outcome.code == code
    assert told in outcome.err


def test_a_task_of_the_users_that_is_none(edgekd, write_recipe, module):
    outcome = edgekd("pipeline", write_recipe(task=f"{module(NETS)}:task"))
    assert outcome.code == 3
    assert "returned int; it must return an edgekd.tasks.Task" in outcome.err


# ---- losses, teachers, and what they need of each other


def _losses(*written: object, **more: object) -> list[str]:
    """Return the arguments that give a recipe these losses; JSON is YAML."""
    return ["--set", f"distill={json.dumps({'losses': written, **more})}"]


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ("kdd", ["distill.losses.0", "there is no loss 'kdd'", 'did you mean "kd"?', "attention", "rkd_angle"]),
        ({"attentoin": {}}, ["distill.losses.0.attentoin: unknown key", 'did you mean "attention"?', "crd"]),
        (
            {"kd": {"temprature": 3}},
            ["losses.0.kd.temprature: unknown key", 'did you mean "temperature"?', "direction"],
        ),
        ({"kd": {"temperature": 0}}, ["distill.losses.0.kd.temperature: 0 is not allowed: must be greater than 0"]),
        ({"kd": {"temperature": -1}}, ["distill.losses.0.kd.temperature: -1 is not allowed", "greater than 0"]),
        ({"kd": {}, "dkd": {}}, ["distill.losses.0: a term is one loss with its options, such as {kd: {temp"]),
    ],
)
def test_a_term_that_is_none(edgekd, loss, told):
    outcome = edgekd("pipeline", "digits", *_losses(loss))
    assert outcome.code == 2
    assert [part for part in told if part not in outcome.err] == []
    assert not list(Path(os.environ["EDGEKD_HOME"]).glob("*/*"))


@pytest.mark.parametrize("plan", [[], ["--plan"]])
@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (
            {"attention": {"layers": {"student": "stages.1", "teacher": "hed"}}},
            ["the teacher has no layer 'hed'", "edgekd recipe layers"],
        ),
        (
            {"hint": {"layers": {"student": "stage.1", "teacher": "stages.1"}}},
            ["the student has no layer 'stage.1'", 'did you mean "stages.1"?'],
        ),
        (
            {"hint": {"layers": {"student": "head:input", "teacher": "5"}}},
            ["hint on student head:input, teacher 5", "no adapter", "(8,)", "(8, 3, 3)"],
        ),
        ({"vid": {"layers": {"student": "head", "teacher": "5"}}}, ["vid on student head, teacher 5", "two maps"]),
    ],
)
def test_layers_are_looked_for_when_the_run_is_planned(edgekd, write_recipe, loss, told, plan):
    nets = {"width": 4, "blocks": [1, 1], "epochs": 1}
    recipe = write_recipe(teacher={"model": "convnet", **nets}, student={"model": "resnet", **nets})
    outcome = edgekd("pipeline", recipe, *_losses(loss), *plan)
    assert outcome.code == 3
    assert outcome.err.startswith("error[E-DISTILL]: distill.losses: ")
    assert [part for part in told if part not in outcome.err] == []
    assert outcome.out == ""
    assert not any((Path(os.environ["EDGEKD_HOME"]) / "artifacts").iterdir())


def test_a_loss_that_no_map_can_be_given(edgekd, write_recipe):
    outcome = edgekd("pipeline", write_recipe(), *_losses("kd", "attention"), "--plan")
    assert outcome.code == 3
    assert "distill.losses: student: attention needs" in outcome.err


def test_an_onnx_teacher_of_other_classes(edgekd, write_recipe, workplace):
    _save(workplace / "seven.onnx", np.ones((6, 7), np.float32), image=True)
    outcome = edgekd("pipeline", write_recipe(teacher={"onnx": "seven.onnx"}))
    assert outcome.code == 3
    assert "teacher: the network has 7 outputs, the data have 3 classes" in outcome.err


def test_an_onnx_teacher_is_not_asked_for_features(edgekd, write_recipe, workplace):
    _save(workplace / "three.onnx", np.ones((6, 3), np.float32), image=True)
    outcome = edgekd("pipeline", write_recipe(teacher={"onnx": "three.onnx"}), *_losses("kd", "attention"), "--plan")
    assert outcome.code == 2
    assert "distill.losses: attention asks for features, and teacher is an ONNX file" in outcome.err
    assert "kd, dkd, dist" in outcome.err


def test_an_onnx_teacher_alone_is_not_pruned(edgekd, write_recipe, workplace):
    _save(workplace / "three.onnx", np.ones((6, 3), np.float32), image=True)
    changes = {"distill": False, "student": None}
    outcome = edgekd("pipeline", write_recipe(teacher={"onnx": "three.onnx"}, **changes))
    assert outcome.code == 2
    assert "set prune: false and quantize: false" in outcome.err


def test_weights_that_do_not_fit_the_network_are_named(edgekd, write_recipe, workplace):
    from safetensors.torch import save_file

    from edgekd.models.mlp import build

    state = build(input_shape=(1, 6, 6), classes=3, widths=[8]).state_dict()
    state["extra.bias"] = state.pop("3.bias")
    save_file(state, workplace / "other.safetensors")
    outcome = edgekd("pipeline", write_recipe(teacher={"model": "mlp", "widths": [16], "weights": "other.safetensors"}))
    assert outcome.code == 3
    for part in ("other.safetensors do not fit the network", "3.bias", "extra.bias", "1.weight", "[8, 36]", "[16, 36]"):
        assert part in outcome.err


def test_too_little_of_the_teachers_answers(edgekd, write_recipe):
    student = {"model": "mlp", "widths": [16], "epochs": 2, "batch_size": 8}
    outcome = edgekd("pipeline", write_recipe(student=student, targets={"top": 1}))
    assert outcome.code == 3
    for part in ("targets.top: the 1 largest of 3 answers hold 0.", "at temperature 4", "at least 0.95", "keep more"):
        assert part in outcome.err
    names = [path.name.partition("-")[0] for path in (Path(os.environ["EDGEKD_HOME"]) / "artifacts").iterdir()]
    assert names == ["teacher"]  # and it is not lost


@pytest.mark.parametrize(
    ("augment", "told"),
    [({"crop": 1}, "set augment.views"), ({"crop": 1, "views": 1, "mixup": 0.2}, "mixup and cutmix mix whatever")],
)
def test_answers_that_cannot_be_kept(edgekd, write_recipe, augment, told):
    student = {"model": "mlp", "widths": [16], "epochs": 2, "augment": augment}
    outcome = edgekd("pipeline", write_recipe(student=student, targets={"keep": "always"}))
    assert outcome.code == 2
    assert "targets: the answers of the student's teacher cannot be kept" in outcome.err
    assert told in outcome.err


# ---- numbers that are none


def test_the_term_of_the_loss_that_is_not_a_number_is_named(edgekd, write_recipe):
    outcome = edgekd("pipeline", write_recipe(), *_losses("dist", {"kd": {"weight": 1e300}}))
    assert outcome.code == 3
    assert "the term kd became inf in epoch 1, step 1" in outcome.err
    assert "dist" not in outcome.err
    assert "learning_rate" in outcome.err


def test_a_loss_that_is_not_a_number(edgekd, write_recipe):
    teacher = {"model": "mlp", "epochs": 30, "batch_size": 2, "optimizer": "sgd", "learning_rate": 10}
    outcome = edgekd("pipeline", write_recipe(teacher=teacher))
    assert outcome.code == 3
    assert "the term labels became" in outcome.err
    assert "learning_rate" in outcome.err


def test_weights_that_are_not_numbers(edgekd, write_recipe, workplace):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from edgekd.models.mlp import build

    state = build(input_shape=(1, 6, 6), classes=3, widths=[8]).state_dict()
    state["1.weight"] = torch.full_like(state["1.weight"], float("nan"))
    save_file(state, workplace / "teacher.safetensors")
    teacher = {"model": "mlp", "widths": [8], "weights": "teacher.safetensors"}
    outcome = edgekd("pipeline", write_recipe(teacher=teacher))
    assert outcome.code == 3
    assert "not finite" in outcome.err


def test_weights_that_are_not_those_of_the_network(edgekd, write_recipe, workplace):
    (workplace / "teacher.safetensors").write_bytes(b"weights")
    outcome = edgekd("pipeline", write_recipe(teacher={"model": "mlp", "weights": "teacher.safetensors"}))
    assert outcome.code == 3
    assert "teacher.safetensors" in outcome.err


# ---- ONNX files


def _save(
    path: Path,
    weights: np.ndarray,
    batch: int | str = "batch",
    features: int | str | None = None,
    *,
    image: bool = False,
) -> None:
    """Write y = x w; of an image (1, 6, 6) x is the sum of its rows."""
    shape = [1, 6, 6] if image else [features or weights.shape[0]]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, weights.shape[1]]),
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if image:
        nodes = [
            helper.make_node("ReduceMean", ["x"], ["rows"], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", ["rows", "w"], ["y"]),
        ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_files_that_cannot_be_benched_are_all_told(edgekd, workplace):
    weights = np.ones((4, 3), np.float32)
    _save(workplace / "good.onnx", weights)
    _save(workplace / "nan.onnx", np.where(weights == 1, np.nan, weights).astype(np.float32))
    _save(workplace / "four.onnx", weights, batch=4)
    _save(workplace / "wide.onnx", np.ones((5, 3), np.float32))
    (workplace / "text.onnx").write_text("not a network")
    (workplace / "empty.onnx").write_text("")
    (workplace / "cut.onnx").write_bytes((workplace / "good.onnx").read_bytes()[:40])
    names = ["good", "nan", "four", "wide", "text", "empty", "cut", "gone"]
    outcome = edgekd("bench", *(f"{name}.onnx" for name in names))
    assert outcome.code == 2
    for part in (
        "nan.onnx: weights hold NaN or infinity (w)",
        "four.onnx: input x [4, 4] takes 4 samples: --batch-size 4",
        "wide: its inputs x float32['batch', 5] differ from those of good",
        "text.onnx: not an ONNX file",
        "empty.onnx: the file is empty",
        "cut.onnx: not a",
        "gone.onnx: there is no such file",
    ):
        assert part in outcome.err
    assert not Path(os.environ["EDGEKD_HOME"]).exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "free dimensions"),
        (["--data", "digits"], "samples float32[1, 8, 8]; the model takes x float32['batch', 'n']"),
        (["--data", "digitz"], 'did you mean "digits"'),
        (["--data", "gone.yaml"], "no such file"),
        (["--device", "gpu"], "no device 'gpu'"),
    ],
)
def test_inputs_that_a_file_does_not_take(edgekd, workplace, arguments, told):
    _save(workplace / "free.onnx", np.ones((4, 3), np.float32), features="n")
    outcome = edgekd("bench", "free.onnx", *arguments)
    assert outcome.code == 2
    assert told in outcome.err


# ---- what is not installed


def test_a_runtime_that_is_not_installed(edgekd, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "edgekd.agent.backends.openvino", raising=False)
    outcome = edgekd("pipeline", "digits", "--device", "openvino", "--plan")
    assert outcome.code == 2
    assert "pip install 'edgekd[openvino]'" in outcome.err


def test_a_framework_that_is_not_installed(edgekd, write_recipe, monkeypatch):
    monkeypatch.setattr("edgekd.plan._version", lambda name: "absent" if name == "accelerate" else "1")
    recipe = write_recipe()
    assert edgekd("pipeline", recipe, "--plan").code == 0
    outcome = edgekd("pipeline", recipe)
    assert outcome.code == 2
    assert "accelerate not installed" in outcome.err
    assert "pip install 'edgekd[train]'" in outcome.err


# ---- in a process of its own: the exit code, nothing on standard output, everything on standard error


@pytest.mark.parametrize(
    ("arguments", "code"), [(["pipeline", "nothing"], 2), (["pipeline", "raising.yaml"], 3), (["report", "nothing"], 2)]
)
def test_exit_codes(workplace, module, arguments, code):
    name = module("def net():\n    raise ValueError('on purpose')\n")
    content = {"version": 1, "data": "digits", "teacher": {"model": f"{name}:net"}, "student": {"model": "mlp"}}
    (workplace / "raising.yaml").write_text(json.dumps(content))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert done.stdout == ""
    assert re.match(r"error\[E-[A-Z]+\]: ", done.stderr)
    assert "Traceback" not in done.stderr
