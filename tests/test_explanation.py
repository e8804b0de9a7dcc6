"""`edgekd explain`, from the command line to a device and back."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty import INPUT, Network

from edgekd import explain, explanation
from edgekd.cli import explain as command
from edgekd.dispatch import job
from edgekd.errors import DeviceError, StageError
from edgekd.profiles import Handling


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    plan = {"batchnorm": True, "channels": 17}
    np.savez(folder / "inputs.npz", x=np.random.default_rng(1).standard_normal((5, *INPUT[1:])).astype(np.float32))
    (folder / "text.onnx").write_text("no model")
    return {
        "model": str(Network(**plan).save(folder / "model.onnx")),
        "float": str(Network(**plan, quantized=False).save(folder / "float.onnx")),
        "other": str(Network(quantized=False).save(folder / "other.onnx")),
        "inputs": str(folder / "inputs.npz"),
        "text": str(folder / "text.onnx"),
    }


@pytest.fixture(scope="module")
def found(files: dict[str, str]) -> dict[str, Any]:
    """Explain once, for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "QUICK", replace(job.QUICK, warmup_seconds=0.01, throughput_seconds=0.0))
        shortest = {"seconds": 0.02, "inferences": 20}
        patch.setattr(explanation, "_MEASURING", explanation._MEASURING.model_copy(update=shortest))
        return explain(files["model"], against=files["float"], data=files["inputs"])


def test_planted_faults_are_explained(found: dict[str, Any], files: dict[str, str]):
    assert {"unfolded-batchnorm", "odd-channels", "no-integer-kernel"} <= {one["cause"] for one in found["findings"]}
    shares = [one["time_share"] for one in found["findings"] if one["time_share"] is not None]
    assert shares == sorted(shares, reverse=True)
    assert all(0 < share <= 1 for share in shares)
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)
    assert found["latency"]["speedup"] is not None
    assert found["latency"]["p50_ns"] > 0
    assert list(found["sqnr_db"]) == ["c1", "c2", "c3", "c4", "fc"]
    assert found["inputs"] == files["inputs"]
    assert set(found["roofline"]["peak_macs_per_s"]) == {"float32", "int8"}
    assert all(share > 0 for share in found["roofline"]["share"].values())


def test_the_command_prints_json_or_tables(
    edgekd: Any, found: dict[str, Any], files: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    asked: list[Any] = []

    def explained(model: Path, device: str, **options: Any) -> dict[str, Any]:
        asked.append((str(model), device, options["against"], options["data"], options["handling"].at))
        return found

    monkeypatch.setattr(command, "explain", explained)
    outcome = edgekd("explain", files["model"], "--json", "--device", "openvino", "--at", "openvino=me@host")
    assert outcome.code == 0, outcome.text
    assert json.loads(outcome.out) == json.loads(json.dumps(found))
    outcome = edgekd("explain", files["model"], "--against", files["float"], "--data", "digits")
    assert outcome.code == 0, outcome.text
    for text in ("GMAC/s", "slowest", "unfolded-batchnorm", "Where: c1.bn", "Mend: fold BatchNorm", "its float origin"):
        assert text in outcome.out
    assert asked == [
        (files["model"], "openvino", None, None, ("openvino=me@host",)),
        (files["model"], "cpu", Path(files["float"]), "digits", ()),
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gone.onnx"], "there is no such file"),
        (["{text}"], "not an ONNX file"),
        (["{model}", "--against", "{other}"], "has other layers than"),
        (["{model}", "--device", "cpuu"], "no device 'cpuu'"),
        (["{model}", "--data", "digits"], "--data digits has samples"),
        (["{model}", "--batch-size", "9", "--data", "{inputs}"], "--batch-size 9: .*inputs.npz has 5 samples"),
        (["{model}", "--at", "jetson=user@host"], "no device 'jetson' is measured"),
        ([], "Missing argument"),
    ],
)
def test_wrong_input_is_told_before_any_work(
    edgekd: Any, unmeasured: list[Path], files: dict[str, str], arguments: list[str], told: str
):
    outcome = edgekd("explain", *(argument.format(**files) for argument in arguments))
    assert outcome.code == 2, outcome.text
    assert re.search(told, outcome.err), outcome.err
    assert unmeasured == []


def test_a_device_that_is_elsewhere_needs_an_address(files: dict[str, str]):
    with pytest.raises(DeviceError, match="--at jetson=user@host"):
        explain(files["model"], "jetson", handling=Handling())


def test_a_measurement_that_fails_is_a_failed_stage(files: dict[str, str], unmeasured: list[Path]):
    with pytest.raises(StageError, match="cpu: no measurement in this test"):
        explain(files["model"])
    assert len(unmeasured) == 1
