"""`bench`: any ONNX files side by side, from Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import QUICK

from edgekd import bench
from edgekd.benchmark import random_inputs
from edgekd.dispatch.measurement import Outcome
from edgekd.errors import UsageError
from edgekd.graph.lint import GraphFacts, Port
from edgekd.recipe import Gates
from edgekd.stages.measure import Options

MEASURING = Options(**QUICK)
RNG = np.random.default_rng(0)


def _linear(path: Path, weights: np.ndarray, *, external: bool = False) -> Path:
    """Write y = x W as ONNX, its weights beside it if `external`."""
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weights.shape[0]]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weights.shape[1]]),
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path, save_as_external_data=external, size_threshold=0, location=f"{path.stem}.bin")
    return path


@pytest.fixture
def measured(monkeypatch):
    """Let every measurement fail at once; return what was to be measured."""
    jobs = []

    def take_all(dispatch, orders, places):
        jobs.extend(orders)
        return {
            order.name: Outcome({"kind": "failed", "message": "not in this test"}, 0, order.models) for order in orders
        }

    monkeypatch.setattr("edgekd.benchmark.measurement.take_all", take_all)
    return jobs


def test_two_files_on_real_data_against_a_third(tmp_path):
    """The second file has the first one's classes shuffled, so its accuracy and agreement are known without a run."""
    weights = np.eye(4, 3, dtype=np.float32)
    labels = np.arange(40) % 3
    x = (np.eye(4, dtype=np.float32)[labels] + 0.1 * RNG.standard_normal((40, 4))).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x[:20] + 1, y_train=labels[:20], x_test=x, y_test=labels)
    result = bench(
        [_linear(tmp_path / "same.onnx", weights), _linear(tmp_path / "shuffled.onnx", weights[:, [1, 2, 0]])],
        against=_linear(tmp_path / "big.onnx", weights),
        data=str(tmp_path / "data.npz"),
        gates=Gates(max_drop_pp=0),
        measuring=MEASURING,
        out=tmp_path / "run",
        store=tmp_path / "store",
    )
    variants = result.report["devices"]["cpu"]["variants"]
    assert list(variants) == ["reference", "same", "shuffled"]
    found = {name: (row["accuracy"], row["agreement_with_teacher"], row["drop_pp"]) for name, row in variants.items()}
    assert found == {"reference": (1, 1, 0), "same": (1, 1, 0), "shuffled": (0, 0, 100)}
    assert all(row["macs"] == row["parameters"] == 12 for row in variants.values())
    assert result.report["devices"]["cpu"]["verdict"]["recommended"] in ("same", "reference")
    assert (result.exit_code, result.report["inputs"], result.report["kind"]) == (0, "data", "bench")


def test_random_inputs_are_called_so_and_nothing_is_judged_by_them(tmp_path, measured):
    result = bench(
        [_linear(tmp_path / "a.onnx", np.ones((4, 3), np.float32))], out=tmp_path / "run", store=tmp_path / "s"
    )
    assert result.report["inputs"] == "random"
    assert not (tmp_path / "run" / "labels.npz").exists()
    assert measured[0].splits == {}
    assert measured[0].latency["x"].shape == (1, 4)
    assert result.exit_code == 1, "the device was there and gave no measurement"


def test_names_are_plain_and_never_lost(tmp_path, measured):
    weights = np.ones((4, 3), np.float32)
    (tmp_path / "b").mkdir()
    files = [
        _linear(tmp_path / name, weights)
        for name in ("a.onnx", "b/a.onnx", "my net (2).onnx", "reference.onnx", "....onnx")
    ]
    result = bench(files, against=files[0], out=tmp_path / "run", store=tmp_path / "s")
    names = ["reference", "a", "a-2", "my_net_2", "reference-2", "unnamed"]
    assert list(result.report["devices"]["cpu"]["variants"]) == list(measured[0].models) == names


def test_weights_beside_a_file_are_taken_along(tmp_path, measured):
    weights = RNG.standard_normal((40, 30)).astype(np.float32)
    path = _linear(tmp_path / "a.onnx", weights, external=True)
    assert path.stat().st_size < weights.nbytes
    result = bench([path], out=tmp_path / "run", store=tmp_path / "s")
    copy = result.path / "models" / "a.onnx"
    (stored,) = onnx.load(copy).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(stored), weights)
    assert result.report["devices"]["cpu"]["variants"]["a"]["size_bytes"] == copy.stat().st_size > weights.nbytes


def test_a_recipes_task_and_seed_are_those_of_its_data(chain, tmp_path, measured, workplace, write_recipe):
    recipe = write_recipe(seed=3)
    model = _linear(tmp_path / "a.onnx", np.ones((36, 3), np.float32))
    with pytest.raises(UsageError, match=r"samples float32\[1, 6, 6\]; the model takes x float32\['batch', 36\]"):
        bench([model], data=str(recipe), store=tmp_path / "s")
    own = bench([chain.path / "models" / "student.onnx"], data="digits", out=tmp_path / "run", store=tmp_path / "s")
    assert own.report["task"] == "classification"
    assert measured[0].splits["test"]["input"].shape == (449, 1, 8, 8)
    assert set(np.load(tmp_path / "run" / "labels.npz")) == {"test", "validation"}


def test_more_samples_at_once_than_there_are(chain, tmp_path):
    with pytest.raises(UsageError, match="--batch-size 500: the test split of digits has 449 samples"):
        bench([chain.path / "models" / "student.onnx"], data="digits", measuring=Options(batch_size=500))


def test_no_file(tmp_path):
    with pytest.raises(UsageError, match=r"no model was named: edgekd bench MODEL\.onnx"):
        bench([])


def _facts(*ports: Port) -> GraphFacts:
    """Return what is known of a network of which only the inputs matter."""
    return GraphFacts(**{**dict.fromkeys(GraphFacts.__dataclass_fields__), "inputs": ports})


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("float32", -9, 9), ("float16", -9, 9), ("int64", 0, 1), ("bool", 0, 1)]
)
def test_random_inputs_have_the_type_and_shape_of_the_network(dtype, low, high):
    found = random_inputs(_facts(Port("a", ("n", 3, 2), dtype), Port("b", (4, 5), dtype)), 4)
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "a": ((4, 3, 2), dtype),
        "b": ((4, 5), dtype),
    }
    assert all(low <= array.min() <= array.max() <= high for array in found.values())
    again = random_inputs(_facts(Port("a", ("n", 3, 2), dtype), Port("b", (4, 5), dtype)), 4)
    assert all(np.array_equal(found[name], again[name]) for name in found)


@pytest.mark.parametrize(
    ("port", "told"), [(Port("a", ("n", "t"), "int64"), "free dimensions"), (Port("a", ("n", 2), "object"), "object")]
)
def test_inputs_that_cannot_be_made_up(port, told):
    with pytest.raises(UsageError, match=told):
        random_inputs(_facts(port), 1)
