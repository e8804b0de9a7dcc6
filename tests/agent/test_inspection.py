"""Layers of engines in the words of several releases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekd.agent.backends import count_precisions
from edgekd.agent.inspection import on_dla, on_gpu, precision_reason, read_layers


def layer(kind: str, tensor: str = "", tactic: str = "", **more: Any) -> dict[str, Any]:
    inputs = [{"Name": "x", "Location": "Device", "Dimensions": [1, 64, 56, 56], "Format/Datatype": tensor}]
    return {"Name": "layer", "LayerType": kind, "Inputs": inputs, "Outputs": inputs, "TacticName": tactic, **more}


def read(*entries: Any) -> list[dict[str, Any]]:
    return read_layers(json.dumps({"Layers": list(entries), "Bindings": ["x", "y"]}))


INT8 = "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_tilesize32x64x64"
TF32 = "sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x128x16"
FP16 = "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize64x64x64_stage5"
FP32 = "sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_tilesize32x32x8_stage3"


@pytest.mark.parametrize(
    ("entry", "precision"),
    [
        (layer("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format", INT8), "int8"),
        (layer("CaskConvolution", "Row major linear FP32", TF32), "tf32"),
        (layer("gemm", "Half", FP16), "float16"),
        (layer("gemm", "Float", FP32), "float32"),
        (layer("gemm", "Int8", "sm80_xmma_gemm_i8f32_i8i32_f32"), "int8"),
        (layer("CaskConvolution", "Channel major FP16 format where channel % 8 == 0"), "float16"),
        (layer("CaskConvolution", "Row major linear FP32"), "float32"),
        (layer("MatrixMultiply", "Half"), "float16"),
        (layer("MatrixMultiply", "Float"), "float32"),
        (layer("MatrixMultiply", "BF16"), "bfloat16"),
        (layer("MatrixMultiply", "BFloat16"), "bfloat16"),
        (layer("MatrixMultiply", "Float8E4M3"), "float8"),
        (layer("CudnnConvolution", "N/A due to dynamic shapes", Weights={"Type": "Half", "Count": 9}), "float16"),
        (layer("FullyConnected", "Row major linear FP32", Weights={"Type": "Int8", "Count": 9}), "int8"),
        (layer("CaskConvolution", "N/A due to dynamic shapes"), "unknown"),
        (layer("CaskConvolution"), "unknown"),
        (layer("PluginV2", "Row major linear FP32", ParameterType="Convolution"), "float32"),
        (layer("fusion", "Int8", "sm80_xmma_gemm_i8i8_i8i32_f32_tn"), "int8"),
    ],
)
def test_a_computing_layer_tells_what_it_multiplies(entry: dict[str, Any], precision: str) -> None:
    (found,) = read(entry)
    assert (found["precision"], found["computes"]) == (precision, True)
    assert (precision_reason([found]) is None) == (precision != "unknown")


@pytest.mark.parametrize("kind", ["Reformat", "NoOp", "Constant", "PointWiseV2", "CaskPooling", "kgen", "Shuffle"])
def test_other_layers_do_not_count(kind: str) -> None:
    layers = read(layer(kind, "Half"), layer("gemm", "Half"))
    assert [found["computes"] for found in layers] == [False, True]
    assert count_precisions(layers) == {"float16": 1}


def test_a_part_that_hides_what_is_inside_is_not_guessed() -> None:
    layers = read(
        {**layer("Myelin", "Row major linear FP32"), "Name": "{ForeignNode[a...b]}"},
        layer("CaskConvolution", "Row major linear FP32"),
    )
    assert layers[0]["precision"] == "unknown"
    assert precision_reason(layers) == "the engine does not tell the precision of {ForeignNode[a...b]}"


def test_names_alone_tell_nothing() -> None:
    layers = read("conv1 + relu1", "Reformatting CopyNode for Input Tensor 0")
    assert [found["name"] for found in layers] == ["conv1 + relu1", "Reformatting CopyNode for Input Tensor 0"]
    assert precision_reason(layers) == "the engine names no layer that is known to multiply and accumulate"
    assert precision_reason(read()) == "the engine tells nothing about its layers"


def test_the_dlas_layers_are_told_from_the_gpus() -> None:
    layers = read(
        layer("Reformat", "DLA linear FP16"),
        {**layer("DLA", "DLA linear FP16"), "Name": "{ForeignNode[conv1...relu9]}"},
        {**layer("PointWiseV2", "Half"), "Name": "log"},
        layer("NoOp"),
    )
    assert [found["name"] for found in layers if on_dla(found)] == ["{ForeignNode[conv1...relu9]}"]
    assert on_gpu(layers) == ["log"]
    assert layers[1]["precision"] == "unknown"
