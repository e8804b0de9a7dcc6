from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import StageError
from edgekd.graph.parity import FLOAT_TOLERANCE, INT8_TOLERANCE, check, compare, run_onnx


def test_figures_are_those_of_the_definitions() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]])
    actual = np.array([[3.0, 4.5], [0.0, 5.0]])
    seen = compare({"y": reference}, {"y": actual})["y"]
    assert (seen.max_abs, seen.mean_abs, seen.peak, seen.n) == (0.5, 0.125, 5.0, 2)
    assert seen.sqnr_db == pytest.approx(10 * np.log10(50 / 0.25))
    assert seen.top1_agreement == 1.0


def test_top1_is_taken_along_the_last_axis() -> None:
    reference = np.array([[1.0, 2.0], [3.0, 1.0], [0.0, 1.0], [5.0, 4.0]])
    actual = reference.copy()
    actual[1] = [1.0, 3.0]
    assert compare({"y": reference}, {"y": actual})["y"].top1_agreement == 0.75


def test_equal_answers_are_infinitely_close() -> None:
    y = np.arange(6.0).reshape(2, 3)
    seen = compare({"y": y}, {"y": y})
    assert seen["y"].sqnr_db == inf
    assert check(seen, FLOAT_TOLERANCE) == check(seen, INT8_TOLERANCE) == []


@given(st.floats(-60, -10), st.integers(0, 2**32 - 1))
def test_sqnr_is_the_noise_that_was_added(level_db: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(50, 10))
    noise = rng.normal(size=reference.shape)
    noise *= np.sqrt(10 ** (level_db / 10) * (reference**2).sum() / (noise**2).sum())
    assert compare({"y": reference}, {"y": reference + noise})["y"].sqnr_db == pytest.approx(-level_db, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_out_of_every_tolerance(bad: float) -> None:
    reference = np.ones((4, 3))
    actual = reference.copy()
    actual[2, 1] = bad
    assert check(compare({"y": reference}, {"y": actual}), INT8_TOLERANCE)


def test_each_problem_is_a_sentence_with_its_limit() -> None:
    reference = np.eye(4)
    problems = check(compare({"y": reference}, {"y": np.roll(reference, 1, axis=1)}), FLOAT_TOLERANCE)
    assert len(problems) == 3
    assert problems[0] == "y: SQNR -3.0 dB, at least 60 dB expected"
    assert "0.00% of 4 samples" in problems[1]
    assert "largest difference 1, at most 0.001 of the peak 1" in problems[2]


def test_other_outputs_or_shapes_are_errors() -> None:
    y = np.ones((2, 3))
    with pytest.raises(StageError, match="the outputs are z; the network's are y"):
        compare({"y": y}, {"z": y})
    with pytest.raises(StageError, match=r"shape \[2, 4\]; the network's is \[2, 3\]"):
        compare({"y": y}, {"y": np.ones((2, 4))})


def test_a_model_is_run_in_batches_and_put_together(tmp_path: Path) -> None:
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("a", "b", "sum", "twice")
    ]
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Add", ["a", "a"], ["twice"])]
    graph = helper.make_graph(nodes, "g", ports[:2], ports[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    a, b = np.random.default_rng(0).normal(size=(2, 10, 3)).astype(np.float32)
    found = run_onnx(tmp_path / "m.onnx", {"a": a, "b": b}, batch=4)
    np.testing.assert_array_equal(found["sum"], a + b)
    np.testing.assert_array_equal(found["twice"], a + a)


def test_integers_are_summed_as_the_file_says_and_not_as_this_processor_would(tmp_path: Path) -> None:
    """127 * 127 + 127 * 127 does not fit the 16 bits in which x86 processors without VNNI sum products of bytes."""
    pair = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "one", "zero"], ["wd"]),
        helper.make_node("MatMul", ["d", "wd"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.full((8, 3), 127, np.int8), "w"),
        numpy_helper.from_array(np.float32(1), "one"),
        numpy_helper.from_array(np.int8(0), "zero"),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("x", 8), ("y", 3))
    ]
    graph = helper.make_graph(pair, "g", ports[:1], ports[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    found = run_onnx(tmp_path / "m.onnx", {"x": np.full((2, 8), 127, np.float32)}, batch=2)
    np.testing.assert_array_equal(found["y"], np.full((2, 3), 8 * 127 * 127))
