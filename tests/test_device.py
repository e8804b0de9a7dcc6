"""Device profiles: what ships, the quantization scheme of a processor, what cannot be measured here."""

from __future__ import annotations

import os

import pytest
from tiny import ROOT

from edgekd import device, profiles
from edgekd.device import Device, Quantization, Scheme
from edgekd.document import DocumentError
from edgekd.errors import UsageError

DEVICES = sorted((ROOT / "devices").rglob("*.yaml"))
X86 = {"arch": "x86_64", "vnni": True}
OLD_X86 = {"arch": "x86_64", "vnni": False}
ARM = {"arch": "aarch64", "vnni": False, "dotprod": False}
DOTPROD = {"arch": "aarch64", "vnni": False, "dotprod": True}


def test_what_ships_is_found_by_its_name_and_described():
    assert {path.stem for path in DEVICES} >= {"cpu", "openvino"}
    assert list(profiles.shipped_devices().values()) == DEVICES
    for path in DEVICES:
        assert profiles.load_device(path.stem).description
        assert path.read_text().startswith("# ")


def test_what_ships_can_be_measured_here():
    assert list(profiles.problems(profiles.load_devices(["cpu", "openvino"]))) == []


@pytest.mark.parametrize(
    ("asked", "processor", "scheme"),
    [
        (Quantization(), X86, Scheme(activations="u8")),
        (Quantization(), OLD_X86, Scheme(activations="u8", reduce_range=True)),
        (Quantization(), ARM, Scheme(activations="s8")),
        (Quantization(), DOTPROD, Scheme(activations="s8")),
        (Quantization(activations="s8"), X86, Scheme(activations="s8")),
        (Quantization(activations="s8"), OLD_X86, Scheme(activations="s8", reduce_range=True)),
        (Quantization(activations="u8"), ARM, Scheme(activations="u8")),
        (Quantization(reduce_range=True), X86, Scheme(activations="u8", reduce_range=True)),
        (Quantization(reduce_range=False), OLD_X86, Scheme(activations="u8")),
        (
            Quantization(activations="s8", symmetric=True, weights="per-tensor", quantize_add=False),
            ARM,
            Scheme(activations="s8", symmetric=True, weights="per-tensor", quantize_add=False),
        ),
    ],
)
def test_the_scheme_follows_the_processor_where_the_profile_leaves_it_open(asked, processor, scheme):
    assert device.scheme(asked, processor) == scheme


def test_different_schemes_have_different_labels():
    schemes = [
        Scheme(activations=activations, symmetric=symmetric, reduce_range=reduce, weights=weights, quantize_add=add)
        for activations in ("u8", "s8")
        for symmetric in (False, True)
        for reduce in (False, True)
        for weights in ("per-channel", "per-tensor")
        for add in (False, True)
    ]
    assert len({scheme.label for scheme in schemes}) == len(schemes) == 32
    assert Scheme(activations="u8").label == "u8"
    assert Scheme(activations="s8", symmetric=True).label == "s8-symmetric"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"backend": "onnxruntim"}, "device box: no backend 'onnxruntim'; did you mean \"onnxruntime\"?"),
        ({"options": {"threads": 0}}, "device box: option threads of onnxruntime is 0"),
        ({"options": {"speed": 1}}, "device box: the backend onnxruntime has no option speed"),
        ({"power": {"meter": "volts"}}, "device box: there is no power meter 'volts'"),
        ({"cores": (9999,)}, "device box: cores [9999] are not all among those that this process may use"),
        ({"options": {"threads": 2}, "cores": (min(os.sched_getaffinity(0)),)}, "device box: 2 threads do not fit"),
    ],
)
def test_what_cannot_be_measured_here(change, told):
    box = Device(**{"version": 1, "backend": "onnxruntime", **change})
    (problem,) = profiles.problems({"box": box})
    assert told in problem


def test_every_device_has_a_name_of_its_own(tmp_path):
    (tmp_path / "cpu.yaml").write_text("version: 1\nbackend: onnxruntime\n")
    with pytest.raises(UsageError, match="two devices are called 'cpu'"):
        profiles.load_devices(["cpu", str(tmp_path / "cpu.yaml")])


def test_a_file_is_called_by_its_stem(tmp_path):
    path = tmp_path / "my box.yml"
    path.write_text("version: 1\nbackend: onnxruntime\nmax_opset: 17\n")
    assert profiles.load_devices([str(path)]) == {"my box": Device(version=1, backend="onnxruntime", max_opset=17)}


def test_all_problems_of_a_profile_at_once(tmp_path):
    path = tmp_path / "box.yaml"
    path.write_text("version: 1\nbackend: 3\nmax_opset: 7\nquantisation: {}\n")
    with pytest.raises(DocumentError) as error:
        profiles.load_device(str(path))
    assert [(problem.line, problem.key) for problem in error.value.problems] == [
        (2, "backend"),
        (3, "max_opset"),
        (4, "quantisation"),
    ]
    assert 'did you mean "quantization"' in str(error.value)
