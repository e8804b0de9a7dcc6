"""The profile of ONNX Runtime as layers with their times."""

from __future__ import annotations

from typing import Any

from edgekd.agent.kernels import read_layers


def kernel(name: str, op: str, index: int, dur: int, *types: str) -> dict[str, Any]:
    arguments = {
        "op_name": op,
        "node_index": str(index),
        "provider": "CPUExecutionProvider",
        "input_type_shape": [{kind: [1]} for kind in types],
    }
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": dur, "args": arguments}


RUN = {"cat": "Session", "name": "model_run", "dur": 9}


def test_the_first_run_is_left_out_and_a_loop_counts_all_its_turns() -> None:
    noise = {"cat": "Node", "name": "c_fence_before", "dur": 1, "args": {}}
    events = [{"cat": "Session", "name": "session_initialization", "dur": 5}]
    for first, second in ((90, 80), (5, 2), (7, 3)):
        events += [
            noise,
            kernel("c", "QLinearConv", 0, first, "uint8"),
            kernel("add", "Add", 1, second, "float"),
            kernel("add", "Add", 1, second, "float"),
            kernel("add", "Add", 2, 1, "int64"),
            RUN,
        ]
    layers = read_layers(events)
    assert [(layer["name"], layer["type"], layer["times_ns"]) for layer in layers] == [
        ("c", "QLinearConv", [5000, 7000]),
        ("add", "Add", [4000, 6000]),
        ("add", "Add", [1000, 1000]),
    ]
    assert [(layer["precision"], layer["input"], layer["computes"]) for layer in layers] == [
        ("int8", "uint8", True),
        ("float32", "float32", False),
        ("int64", "int64", False),
    ]
