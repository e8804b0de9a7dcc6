from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from compress.nets import NETWORKS, build
from onnxscript import TracedOnnxFunction
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.compress import quantization
from edgekd.device import Scheme
from edgekd.errors import StageError
from edgekd.graph import export as exporting
from edgekd.graph.export import ExportFacts, export_onnx
from edgekd.graph.lint import inspect
from edgekd.graph.parity import FLOAT_TOLERANCE, INT8_TOLERANCE, check, compare, run_onnx

U8 = Scheme(activations="u8")
SYMMETRIC = Scheme(activations="s8", symmetric=True)
METADATA = {"recipe": "test", "classes": '["a", "b"]'}


def export(
    model: nn.Module, x: Tensor, path: Path, *, outputs: int = 1, opset: int = 20, layers: int | None = None
) -> ExportFacts:
    return export_onnx(
        model,
        (x[:1],),
        path,
        input_names=["image"],
        output_names=["logits", "features"][:outputs],
        metadata=METADATA,
        max_opset=opset,
        quantized_layers=layers,
    )


def prepare(model: nn.Module, x: Tensor, scheme: Scheme = U8) -> GraphModule:
    prepared = quantization.prepare(model, (x[:2],), scheme)
    quantization.calibrate(prepared, x.split(16))
    return prepared


@dataclass(frozen=True)
class Exported:
    model: nn.Module
    converted: GraphModule
    x: Tensor
    layers: list[str]
    path: Path
    facts: ExportFacts

    def answers(self, model: nn.Module) -> dict[str, np.ndarray]:
        with torch.no_grad():
            given = model(self.x)
        values = given if isinstance(given, tuple) else (given,)
        return {name: value.numpy() for name, value in zip(["logits", "features"], values, strict=False)}


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model, x, layers = build(request.param)
    converted = quantization.convert(prepare(model, x))
    path = tmp_path_factory.mktemp("export") / "int8.onnx"
    facts = export(converted, x, path, outputs=1 + (request.param == "two outputs"), layers=len(layers))
    return Exported(model, converted, x, layers, path, facts)


def test_the_file_computes_what_the_quantized_network_computes(exported: Exported) -> None:
    actual = run_onnx(exported.path, {"image": exported.x.numpy()}, batch=13)
    parity = compare(exported.answers(exported.converted), actual)
    assert check(parity, INT8_TOLERANCE) == []
    assert all(seen.sqnr_db > 50 for seen in parity.values())  # equal but for values on the edge between two integers
    against_float = compare(exported.answers(exported.model), actual)
    assert all(seen.sqnr_db > 30 for seen in against_float.values())


def test_every_layer_runs_on_integers_in_onnx_runtime(exported: Exported, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(exported.path, options, providers=["CPUExecutionProvider"])
    ran = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert sum(name in ("QLinearConv", "QGemm") for name in ran) == len(exported.layers)
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Add", "GlobalAveragePool"} & set(ran)


def test_layers_keep_their_names_and_weights_are_stored_in_8_bits(exported: Exported) -> None:
    proto = onnx.load(exported.path)
    layers = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
    assert sorted(node.name for node in layers) == sorted(exported.layers)
    sizes = {tensor.name: (tensor.data_type, len(tensor.raw_data)) for tensor in proto.graph.initializer}
    modules = dict(exported.model.named_modules())
    for name in exported.layers:
        assert sizes[f"{name}.weight_integers"] == (onnx.TensorProto.INT8, modules[name].weight.numel())
    assert not any(kind == onnx.TensorProto.FLOAT and "weight_integers" in name for name, (kind, _) in sizes.items())


def test_the_file_says_what_was_given_and_nothing_else(exported: Exported) -> None:
    proto = onnx.load(exported.path)
    assert {entry.key: entry.value for entry in proto.metadata_props} == METADATA
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert not proto.graph.value_info
    seen = inspect(exported.path)
    assert seen.inputs[0].name == "image"
    assert {port.shape[0] for port in (*seen.inputs, *seen.outputs)} == {"batch"}
    assert (seen.opset, seen.size_bytes) == (exported.facts.opset, exported.facts.size_bytes)
    assert seen.quantized_layers == exported.facts.quantized_layers == len(exported.layers)


def test_a_float_network_is_exported_with_batchnorm_folded_and_its_modes_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, x, layers = build("residual")
    model.train()
    facts = export(model, x, tmp_path / "float.onnx")
    assert model.training
    assert capfd.readouterr() == ("", "")
    seen = inspect(tmp_path / "float.onnx")
    assert "BatchNormalization" not in seen.nodes
    assert (seen.layers, seen.quantized_layers, facts.quantized_layers) == (len(layers), 0, 0)
    with torch.no_grad():
        reference = {"logits": model.eval()(x).numpy()}
    parity = compare(reference, run_onnx(tmp_path / "float.onnx", {"image": x.numpy()}, batch=64))
    assert check(parity, FLOAT_TOLERANCE) == []
    assert parity["logits"].sqnr_db > 100


REPLAY = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from compress.nets import build
from edgekd.compress import quantization
from edgekd.device import Scheme
from graph.test_export import export
model, x, layers = build("residual")
prepared = quantization.prepare(model, (x[:2],), Scheme(activations="u8"))
quantization.load_observed_state(prepared, load_file(sys.argv[1]))
export(quantization.convert(prepared), x, Path(sys.argv[2]), layers=len(layers))
"""


def test_a_replay_in_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    model, x, layers = build("residual")
    prepared = prepare(model, x)
    save_file(quantization.observed_state(prepared), tmp_path / "state.safetensors")
    converted = quantization.convert(prepared)
    export(converted, x, tmp_path / "first.onnx", layers=len(layers))
    export(converted, x, tmp_path / "second.onnx", layers=len(layers))
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]), "PYTHONHASHSEED": "77"}
    arguments = [tmp_path / "state.safetensors", tmp_path / "third.onnx"]
    subprocess.run([sys.executable, "-c", REPLAY, *arguments], env=environment, check=True, timeout=300)
    first = (tmp_path / "first.onnx").read_bytes()
    assert (tmp_path / "second.onnx").read_bytes() == first
    assert (tmp_path / "third.onnx").read_bytes() == first


def test_the_source_of_translations_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[TracedOnnxFunction] = []
    whole = TracedOnnxFunction.function_ir

    def counted(function: TracedOnnxFunction) -> object:
        read.append(function)
        return whole.fget(function)

    monkeypatch.setattr(TracedOnnxFunction, "function_ir", property(counted))
    model = nn.Linear(3, 2)
    for path in (tmp_path / "first.onnx", tmp_path / "second.onnx"):
        export(model, torch.zeros(2, 3), path)
    assert len(read) == len(set(read)) > 100
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


def test_the_exporter_is_left_as_it_was_also_by_two_failures_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, at_work, most = vars(TracedOnnxFunction)["function_ir"], [], []

    def fail(*_: object, **__: object) -> None:
        at_work.append(vars(TracedOnnxFunction)["function_ir"])
        most.append(len(at_work))
        time.sleep(0.05)
        assert at_work.pop() is not whole
        raise torch.onnx.errors.OnnxExporterError("no kernel")

    monkeypatch.setattr(torch.onnx, "export", fail)
    monkeypatch.setattr(exporting, "capture", lambda model, _: model)
    monkeypatch.setattr(exporting, "decomposed_where_needed", lambda program: program)
    with ThreadPoolExecutor() as pool:
        found = [pool.submit(exporting._to_proto, nn.Linear(3, 2), (), (), (), None) for _ in range(3)]
    assert all(str(one.exception()) == "Linear cannot be exported to ONNX: no kernel" for one in found)
    assert most == [1, 1, 1]
    assert vars(TracedOnnxFunction)["function_ir"] is whole


def test_a_release_of_onnxscript_that_reads_no_source_exports_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(TracedOnnxFunction, "function_ir")
    with exporting._translations_read_once():
        assert "function_ir" not in vars(TracedOnnxFunction)


def test_the_layout_of_weights_and_inputs_does_not_show(tmp_path: Path) -> None:
    model, x, layers = build("residual")
    export(quantization.convert(prepare(model, x)), x, tmp_path / "plain.onnx", layers=len(layers))
    model = model.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    export(quantization.convert(prepare(model, x)), x, tmp_path / "last.onnx", layers=len(layers))
    assert inspect(tmp_path / "last.onnx").nodes == inspect(tmp_path / "plain.onnx").nodes
    assert model.stem[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_one_channel_is_one_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    images = torch.randn(8, 6, 6, 1).permute(0, 3, 1, 2)  # strides of channels last, and contiguous at the same time
    facts = export(quantization.convert(prepare(model, images)), images, tmp_path / "m.onnx", layers=2)
    assert "Gather" not in inspect(tmp_path / "m.onnx").nodes
    assert facts.quantized_layers == 2


def test_an_older_opset_computes_the_same(tmp_path: Path) -> None:
    model, x, layers = build("mobile")
    converted = quantization.convert(prepare(model, x, SYMMETRIC))
    answers = {}
    for opset in (20, 17):
        facts = export(converted, x, tmp_path / f"{opset}.onnx", opset=opset, layers=len(layers))
        assert facts.opset == opset
        answers[opset] = run_onnx(tmp_path / f"{opset}.onnx", {"image": x.numpy()}, batch=64)
    np.testing.assert_array_equal(answers[17]["logits"], answers[20]["logits"])


def test_an_opset_too_old_is_an_error_that_names_both(tmp_path: Path) -> None:
    model, x, _ = build("mlp")
    with pytest.raises(StageError, match=r"needs ONNX opset 20 .* opset 9.*max_opset"):
        export(model, x, tmp_path / "old.onnx", opset=9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    model, x, _ = build("mlp")
    with torch.no_grad():
        model[3].weight[0, 0] = value
    with pytest.raises(StageError, match=r"NaN or infinity in 3\.weight"):
        export(model, x, tmp_path / "bad.onnx")
    assert list(tmp_path.iterdir()) == []


def test_layers_that_did_not_come_out_quantized_are_an_error(tmp_path: Path) -> None:
    model, x, _ = build("mlp")
    with pytest.raises(StageError, match="2 layers were meant to be quantized, 0 are"):
        export(model, x, tmp_path / "float.onnx", layers=2)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_replaced_whole(tmp_path: Path) -> None:
    model, x, _ = build("mlp")
    (tmp_path / "model.onnx").write_bytes(b"x" * 10_000_000)
    facts = export(model, x, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").stat().st_size == facts.size_bytes
