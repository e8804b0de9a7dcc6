"""The node that was planted is the one that is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from edgekd.validation.bisect import Bisection, bisect
from edgekd.validation.files import open_model
from validation.nets import (
    SHAPE,
    Graph,
    attribute,
    change,
    classifier,
    copy,
    node,
    operator,
    quantized,
    samples,
    save,
    without,
)
from validation.zoo import _half, _other_scale, _signed_for_unsigned, _swapped, _wrong_axis

INTEGERS, FLOATS, HALF = 10.0, 60.0, 35.0


def _bisect(folder: Path, model: ModelProto, reference: ModelProto, limit_db: float) -> Bisection:
    opened = [open_model(save(one, folder / f"{name}.onnx"))[0] for name, one in (("a", model), ("b", reference))]
    fed = {"x": samples(4)}
    assert opened[0] is not None
    assert opened[1] is not None
    return bisect(*opened, fed, fed, limit_db)


def _subtracted() -> ModelProto:
    return operator(classifier(), "sum", "Sub")


def _residual() -> ModelProto:
    """The residual branch taken from before the activation."""
    made = classifier()
    node(made.graph, "sum").input[1] = "c1"
    return made


def _half_wrong() -> ModelProto:
    return change(_half(), "c2.w", lambda array: array * np.float16(1.1))


BN = "batchnorm"
PLANTED: dict[str, tuple[Callable[[], ModelProto], str, Callable[[], ModelProto], float]] = {
    "stale weights of one layer": (lambda: change(classifier(), "c2.w", lambda a: a[::-1]), "c2", classifier, FLOATS),
    "a bias left out": (lambda: change(classifier(), "c1.b", np.zeros_like), "c1", classifier, FLOATS),
    "one weight": (lambda: change(classifier(), "c2.w", lambda a: a + (a == a.max())), "c2", classifier, FLOATS),
    "padding": (lambda: attribute(classifier(), "c2", pads=[2, 2, 0, 0]), "c2", classifier, FLOATS),
    "an activation": (lambda: operator(classifier(), "r2", "Tanh"), "r2", classifier, FLOATS),
    "a slope": (lambda: operator(classifier(), "r1", "LeakyRelu", alpha=0.1), "r1", classifier, FLOATS),
    "a missing activation": (lambda: without(classifier(), "r2"), "pool", classifier, FLOATS),
    "a sign": (_subtracted, "sum", classifier, FLOATS),
    "a branch": (_residual, "sum", classifier, FLOATS),
    "a pooling": (lambda: operator(classifier(), "pool", "MaxPool", kernel_shape=[4, 4], strides=[4, 4]), "pool",
                  classifier, FLOATS),
    "the order of classes": (lambda: change(classifier(), "fc.w", lambda a: a[::-1]), "y", classifier, FLOATS),
    "statistics of a BatchNormalization": (
        lambda: change(classifier(batchnorm=True), "c2.bn.var", lambda a: a * 2), "c2.bn",
        lambda: classifier(batchnorm=True), FLOATS,
    ),
    "scales of channels": (_swapped, "y", classifier, INTEGERS),
    "integers read as signed": (_signed_for_unsigned, "c1", classifier, INTEGERS),
    "float16": (_half_wrong, "c2", classifier, HALF),
    "an axis of scales": (_wrong_axis, "c2", classifier, 25.0),
    "a DQ that does not undo its Q": (_other_scale, "c2", classifier, 15.0),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_the_planted_node_is_named(name: str, tmp_path: Path):
    make, planted, reference, limit_db = PLANTED[name]
    found = _bisect(tmp_path, make(), reference(), limit_db)
    assert found.node == planted, found.message
    assert found.path[-1].node == planted
    assert found.path[-1].own_db is None or found.path[-1].own_db < limit_db
    assert all(step.own_db is None or step.own_db >= limit_db for step in found.path[:-1])
    assert planted in found.message


def test_nothing_departs_in_a_sound_quantized_model(tmp_path: Path):
    found = _bisect(tmp_path, quantized(), classifier(), INTEGERS)
    assert (found.node, found.path) == (None, ())
    assert found.compared == 8  # all of them
    assert "departs" in found.message


def test_the_path_leads_from_the_input_along_the_worst_branch(tmp_path: Path):
    found = _bisect(tmp_path, change(classifier(), "fc.b", lambda a: a + 1), classifier(), FLOATS)
    assert [step.node for step in found.path] == ["c1", "r1", "c2", "sum", "r2", "pool", "flat", "y"]


def test_a_batchnorm_that_was_folded_belongs_to_its_layer(tmp_path: Path):
    reference = classifier(batchnorm=True)
    folded = _folded(reference)
    assert _bisect(tmp_path, folded, reference, FLOATS).node is None
    wrong = change(folded, "c2.w", lambda array: array * 1.2)
    assert _bisect(tmp_path, wrong, reference, FLOATS).node == "c2"


def test_errors_that_add_up_are_no_single_node(tmp_path: Path):
    """Each layer is off by a little more than nothing: none is below 25 dB by itself, the end is."""
    model, noise = classifier(), np.random.default_rng(0).standard_normal
    for name in ("c1.w", "c2.w", "fc.w"):
        model = change(model, name, lambda a: a + 0.055 * a.std() * noise(a.shape).astype(np.float32))
    found = _bisect(tmp_path, model, classifier(), 23.5)
    assert found.node is None
    assert "add up" in found.message


def test_other_networks_have_no_counterparts(tmp_path: Path):
    graph = Graph()
    graph.node("Sin", "y", "x")
    model = graph.model([("x", ["N", *SHAPE])], [("y", ["N", *SHAPE])])
    assert "no node of the model has a counterpart" in _bisect(tmp_path, model, classifier(), FLOATS).message


def _folded(model: ModelProto) -> ModelProto:
    """BatchNormalization folded into the convolutions, by the textbook."""
    values = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    made = copy(model)
    for name in ("c1", "c2"):
        scale, bias, mean, var = (values[f"{name}.bn.{kind}"] for kind in ("scale", "bias", "mean", "var"))
        factor = scale / np.sqrt(var + 1e-5)
        made = without(made, f"{name}.bn")
        made = change(made, f"{name}.w", lambda a, f=factor: (a * f[:, None, None, None]).astype(np.float32))
        made = change(made, f"{name}.b", lambda a, f=factor, b=bias, m=mean: ((a - m) * f + b).astype(np.float32))
    return made
