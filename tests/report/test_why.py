"""Each planted fault is named, with its nodes and what it costs; a sound network gets no blame."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from faulty import INPUT, Network

from edgekd.agent import backends
from edgekd.graph.anatomy import dissect
from edgekd.report import build
from edgekd.report.html import render
from edgekd.report.why.causes import find
from edgekd.report.why.finding import Evidence, Finding
from edgekd.report.why.peak import roofline
from edgekd.report.why.profile import Ran, by_precision, profile, share
from edgekd.report.why.reading import gather

from .synthetic import Fake, write_run

MODERN = frozenset({"avx2", "avx512f", "avx512_vnni"})
CONVOLUTIONS = ("c1", "c2", "c3", "c4")


def evidence(folder: Path, backend: str = "onnxruntime", *, graph: bool = True, **plan: Any) -> Evidence:
    """Run a network in this process and return what is known of it, on a processor that has everything."""
    path = Network(**plan).save(folder / "network.onnx")
    values = np.random.default_rng(0).standard_normal(INPUT).astype(np.float32)
    facts = backends.load(backend).open(path, {}, {"x": INPUT}).facts({"x": values})
    state = {"architecture": "x86_64", "flags": sorted(MODERN)}
    content = {"backend": backend, "variants": {"m": {"facts": facts}}, "environment": {"before": state}}
    anatomy = dissect(onnx.load(path))
    integers = plan.get("quantized", True)
    return gather(content, "m", integers=integers, graph=anatomy if graph else None)


def causes(evidence: Evidence) -> dict[str, Finding]:
    found = {finding.cause: finding for finding in find(evidence)}
    assert all((one.time_share is None) == (one.reason is not None) for one in found.values())
    assert all(one.mend and one.text for one in found.values())
    return found


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("plan", [{}, {"quantized": False}, {"quantized": False, "batchnorm": True}])
def test_a_sound_network_gets_no_blame(tmp_path: Path, backend: str, plan: Any):
    pytest.importorskip(backend)
    assert causes(evidence(tmp_path, backend, **plan)) == {}


def test_signed_activations(tmp_path: Path):
    known = evidence(tmp_path, dtype=np.int8)
    found = causes(known)["signed-activations"]
    assert found.where == (*CONVOLUTIONS, "fc")
    assert 0 < found.time_share <= 1
    assert "activations: u8" in found.mend
    for other in (
        replace(known, architecture="aarch64", flags=frozenset({"asimddp"})),
        replace(known, flags=MODERN | {"avx_vnni_int8"}),
        replace(known, runtime="openvino"),
    ):
        assert "signed-activations" not in causes(other)


def test_additions_in_float(tmp_path: Path):
    found = causes(evidence(tmp_path, add=False))
    assert found["float-additions"].where == ("sum",)
    assert "quantize_add" in found["float-additions"].mend
    # The convolution that the sum is fused into runs as floats with it.
    assert found["no-integer-kernel"].where == ("c3",)
    assert found["float-additions"].time_share >= found["no-integer-kernel"].time_share > 0


def test_seventeen_channels(tmp_path: Path):
    found = causes(evidence(tmp_path, channels=17))
    assert list(found) == ["odd-channels"]
    assert found["odd-channels"].where == (*CONVOLUTIONS, "fc")
    assert "17" in found["odd-channels"].text
    assert found["odd-channels"].time_share > 0.3


def test_outliers_under_one_scale(tmp_path: Path):
    known = evidence(tmp_path, per_channel=False, outlier=30.0)
    found = causes(known)
    assert list(found) == ["weight-outliers"]
    assert found["weight-outliers"].where == ("c2",)
    assert (found["weight-outliers"].time_share, found["weight-outliers"].reason) == (
        None,
        "it costs accuracy, not time",
    )
    assert causes(evidence(tmp_path, outlier=30.0)) == {}  # a scale for each channel
    assert causes(evidence(tmp_path, per_channel=False)) == {}  # no outlier
    with_sqnr = causes(replace(known, sqnr_db={"c1": 33.0, "c2": 12.5, "c3": 14.0}))
    assert "SQNR of 12.5 dB" in with_sqnr["weight-outliers"].text
    assert with_sqnr["imprecise-layers"].where == ("c2", "c3")


def test_batchnorm_that_was_not_folded(tmp_path: Path):
    found = causes(evidence(tmp_path, batchnorm=True))
    assert found["unfolded-batchnorm"].where == tuple(f"{name}.bn" for name in CONVOLUTIONS)
    assert found["no-integer-kernel"].where == CONVOLUTIONS
    assert "c1.bn (BatchNormalization) stands between" in found["no-integer-kernel"].text
    assert found["unfolded-batchnorm"].time_share > found["no-integer-kernel"].time_share


@pytest.mark.parametrize(
    ("plan", "node", "told"),
    [
        ({"transposed": True}, "ct", "no kernel for this ConvTranspose on uint8"),
        ({"late": True}, "c4", "c4.sigmoid (Sigmoid) stands between"),
        ({"zero": 7}, "c1", "do not begin at zero"),
        ({"bias_scale": 2.0}, "c2", "the scale of its bias"),
    ],
)
def test_no_integer_kernel(tmp_path: Path, plan: Any, node: str, told: str):
    found = causes(evidence(tmp_path, **plan))["no-integer-kernel"]
    assert node in found.where
    assert told in found.text
    assert found.time_share > 0


def test_the_processor(tmp_path: Path):
    known = evidence(tmp_path, limit=127)
    assert causes(known) == {}
    old = causes(replace(known, flags=frozenset({"avx2"})))
    assert set(old) == {"missing-instructions", "saturating-sums"}
    assert old["missing-instructions"].time_share is None
    assert set(causes(replace(evidence(tmp_path), flags=frozenset({"avx2"})))) == {"missing-instructions"}
    arm = replace(known, architecture="aarch64", flags=frozenset({"asimd"}))
    assert set(causes(arm)) == {"missing-instructions"}
    assert causes(replace(arm, flags=frozenset({"asimd", "asimddp"}))) == {}
    assert causes(replace(known, architecture="", flags=frozenset())) == {}  # a GPU: the processor does not matter


def test_narrow_layers(tmp_path: Path):
    known = evidence(tmp_path, channels=16)
    assert list(causes(known)) == ["narrow-layers"]
    assert causes(replace(known, runtime="openvino")) == {}


def test_without_the_file_the_execution_tells_less_but_something(tmp_path: Path):
    assert causes(evidence(tmp_path, graph=False)) == {}
    found = causes(evidence(tmp_path, graph=False, batchnorm=True))
    assert {"no-integer-kernel", "unfolded-batchnorm", "conversions"} <= set(found)
    assert found["unfolded-batchnorm"].where == tuple(f"{name}.bn" for name in CONVOLUTIONS)


def test_a_relu_that_runs_by_itself():
    network = Network()
    anatomy = dissect(network.proto())
    layers = [ran("c1", "QLinearConv", "int8", 60), ran("c1.relu", "Relu", "float32", 40)]
    found = causes(Evidence("onnxruntime", "", frozenset(), tuple(layers), anatomy, True, {}))
    assert (found["missed-fusion"].where, found["missed-fusion"].time_share) == (("c1.relu",), 0.4)
    layers = [ran("c1", "QLinearConv", "int8", 60), ran("sum.relu", "Relu", "float32", 40)]
    assert causes(Evidence("onnxruntime", "", frozenset(), tuple(layers), anatomy, True, {})) == {}


def test_conversions_at_the_ends_are_no_fault():
    anatomy = dissect(Network().proto())
    inner = [ran(f"q{index}", "QuantizeLinear", "float32", 10) for index in range(3)]
    ends = [ran("c1", "QLinearConv", "int8", 70), ran("end", "DequantizeLinear", "int8", 0)]
    found = causes(Evidence("onnxruntime", "", frozenset(), (*inner, *ends), anatomy, True, {}))
    assert (found["conversions"].where, found["conversions"].time_share) == (("q1", "q2"), pytest.approx(0.2))
    assert causes(Evidence("onnxruntime", "", frozenset(), (inner[0], *ends), anatomy, True, {})) == {}


def ran(name: str, kind: str, precision: str, percent: float) -> Ran:
    return Ran(name, kind, precision, "Conv" in kind, None, (name,), percent * 1000.0, percent / 100)


def test_shares_are_of_medians():
    layers = [
        {"name": "a", "type": "Conv", "precision": "int8", "computes": True, "times_ns": [10, 30, 900]},
        {"name": "b", "type": "Add", "precision": "float32", "computes": False, "times_ns": [10]},
        {"name": "c_token_7", "type": "Conv", "precision": "float32", "computes": True, "times_ns": []},
    ]
    found = profile({"layers": layers})
    assert [(one.nodes, one.median_ns, one.share) for one in found] == [
        (("a",), 30, 0.75), (("b",), 10, 0.25), (("c",), None, 0.0),
    ]  # fmt: skip
    assert by_precision(found) == {
        "float32": {"layers": 1, "time_share": 0.0}, "int8": {"layers": 1, "time_share": 0.75},
    }  # fmt: skip
    untimed = profile({"layers": [{**layer, "times_ns": []} for layer in layers]})
    assert share(untimed) is None
    assert by_precision(untimed)["int8"] == {"layers": 1, "time_share": None}
    assert profile({"layers": None}) == ()


def test_the_peak_is_the_best_benchmark_of_a_precision():
    variants = {name: {"error": None, "facts": {"precision": {kind: 4}}} for name, kind in
                (("m", "int8"), ("f14", "float32"), ("f28", "float32"), ("i14", "int8"))}  # fmt: skip
    variants["i28"] = {"error": None, "facts": {"precision": {"float32": 3, "int8": 1}}}
    p50 = {"m": 100.0, "f14": 10.0, "f28": 80.0, "i14": 5.0, "i28": 5.0}
    counts = {"f14": 100, "f28": 400, "i14": 100, "i28": 400, "gone": 1}
    found = roofline(variants, p50, "m", 500, counts)
    assert found["peak_macs_per_s"] == {"float32": 10e9, "int8": 20e9}
    assert found["reached_macs_per_s"] == 5e9
    assert found["share"] == {"float32": 0.5, "int8": 0.25}
    assert found["reason"] == "i28: it ran in float32 and int8; gone: it was not measured"
    unknown = roofline(variants, p50, "m", None, {"f14": 100})
    assert unknown["share"] == {"float32": None}
    assert "a shape in it is open" in unknown["reason"]


def test_a_report_says_why_int8_is_slower(tmp_path: Path):
    layers = [
        {"name": "c1", "type": "FusedConv", "precision": "float32", "computes": True, "times_ns": [80, 80, 90]},
        {"name": "<q>", "type": "QuantizeLinear", "precision": "float32", "computes": False, "times_ns": [10]},
        {"name": "q2", "type": "QuantizeLinear", "precision": "float32", "computes": False, "times_ns": [10]},
    ]
    slow = {"latency_us": 300.0, "precision": {"float32": 1}, "layers": layers}
    variants = {"teacher": Fake(latency_us=1000.0), "student": Fake(latency_us=100.0), "int8": Fake(**slow)}
    run = write_run(tmp_path / "run", variants)
    report = build.build(run)
    found = report["devices"]["cpu"]["variants"]
    assert found["student"]["why"] == []
    why = found["int8"]["why"]
    assert [(one["cause"], one["time_share"]) for one in why] == [("no-integer-kernel", 0.8), ("conversions", 0.1)]
    assert found["int8"]["facts"]["layers"][0] == {"name": "c1", "type": "FusedConv", "precision": "float32"}
    page = render(report)
    assert "<h3>Why</h3>" in page
    assert "80 % of the layers" in page
    json.dumps(report, allow_nan=False)


def test_a_report_is_silent_where_int8_is_faster(tmp_path: Path):
    fast = Fake(latency_us=50.0, precision={"int8": 1})
    variants = {"teacher": Fake(latency_us=1000.0), "student": Fake(latency_us=100.0), "int8": fast}
    report = build.build(write_run(tmp_path / "run", variants))
    assert report["devices"]["cpu"]["variants"]["int8"]["why"] == []
    assert "<h3>Why</h3>" not in render(report)
