"""Device profiles: what ships, the quantization scheme of a processor, what cannot be measured here."""

from __future__ import annotations

import os

import pytest
from tiny import ROOT

from edgekd import device, profiles
from edgekd.agent import backends, meters
from edgekd.agent.errors import AgentError
from edgekd.device import Device, Quantization, Scheme
from edgekd.dispatch.placing import place
from edgekd.document import DocumentError
from edgekd.errors import UsageError

DEVICES = sorted((ROOT / "devices").rglob("*.yaml"))
X86 = {"arch": "x86_64", "vnni": True}
OLD_X86 = {"arch": "x86_64", "vnni": False}
ARM = {"arch": "aarch64", "vnni": False, "dotprod": False}
DOTPROD = {"arch": "aarch64", "vnni": False, "dotprod": True}


def test_what_ships_is_found_by_its_name_and_described():
    assert {path.stem for path in DEVICES} == {
        *("cpu", "openvino", "openvino-gpu", "openvino-npu", "raspberry-pi", "nvidia-gpu", "nvidia-gpu-tensorrt"),
        *("jetson", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor"),
    }
    assert sorted(profiles.shipped_devices().values()) == DEVICES


@pytest.mark.parametrize("path", DEVICES, ids=lambda path: path.stem)
def test_every_profile_is_its_own_manual_and_names_what_exists(path):
    profile = profiles.load_device(path.stem)
    assert 20 < len(profile.description) < 60
    head = path.read_text().split("\nversion: 1")[0].splitlines()
    assert all(line.startswith("#") and len(line) <= 120 for line in head)
    titles = [line[2:].split(":")[0] for line in head if line[2:3].strip()]
    assert titles[1:] == ["Does", "Needs", "Measures power by", "Notes"]
    assert profile.backend in backends.available()
    assert profile.power.meter in ("auto", *meters.available())
    try:
        runtime = backends.load(profile.backend)
    except AgentError as error:
        pytest.skip(str(error))
    backends.take_options(profile.backend, profile.options, runtime._DEFAULTS)


JETSONS = [path.stem for path in DEVICES if path.stem.startswith("jetson")]
TENSORRT = Scheme(activations="s8", symmetric=True)


@pytest.mark.parametrize("name", [*JETSONS, "nvidia-gpu-tensorrt"])
@pytest.mark.parametrize("processor", [X86, OLD_X86, ARM], ids=lambda has: f"{has['arch']}-{has['vnni']}")
def test_what_tensorrt_gets_does_not_depend_on_a_processor(name, processor):
    profile = profiles.load_device(name)
    assert not profile.quantization.open
    assert device.scheme(profile.quantization, processor) == TENSORRT
    assert (profile.backend, profile.max_opset, profile.precisions) == ("tensorrt", 17, ("fp32", "fp16", "int8"))
    assert (profile.python == "/usr/bin/python3") == (name in JETSONS)


@pytest.mark.parametrize(
    ("name", "activations"), [("raspberry-pi", "s8"), ("openvino-gpu", "u8"), ("openvino-npu", "u8")]
)
def test_what_other_boards_and_accelerators_get_does_not_either(name, activations):
    """A bundle for them is made without asking them, and by any machine."""
    profile = profiles.load_device(name)
    assert not profile.quantization.open
    assert device.scheme(profile.quantization, OLD_X86) == Scheme(activations=activations)


@pytest.mark.parametrize("name", ["cpu", "openvino"])
def test_processors_decide_for_themselves(name):
    assert profiles.load_device(name).quantization.open


@pytest.mark.parametrize(
    ("board", "names"),
    [
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", {"jetson", "jetson-orin-nano"}),
        ("NVIDIA Orin NX Developer Kit", {"jetson", "jetson-orin-nx"}),
        ("NVIDIA Jetson AGX Orin Developer Kit", {"jetson", "jetson-agx-orin"}),
        ("NVIDIA Jetson AGX Thor Developer Kit", {"jetson", "jetson-thor"}),
        ("NVIDIA Jetson Xavier NX Developer Kit", {"jetson"}),
        ("Raspberry Pi 5 Model B Rev 1.0", {"raspberry-pi"}),
        ("Standard PC (Q35 + ICH9, 2009)", set()),
    ],
)
def test_boards_are_told_apart_by_their_names(board, names):
    expecting = {path.stem: profiles.load_device(path.stem).expects for path in DEVICES}
    assert {name for name, words in expecting.items() if any(word in board for word in words)} == names


def test_a_profile_of_ones_own_extends_a_shipped_one(tmp_path):
    path = tmp_path / "drone.yaml"
    path.write_text("version: 1\nextends: jetson-orin-nx\naddress: fly@drone\noptions: {dla: 0}\n")
    own, base = profiles.load_device(str(path)), profiles.load_device("jetson-orin-nx")
    assert own == base.model_copy(update={"extends": "jetson-orin-nx", "address": "fly@drone", "options": {"dla": 0}})


def test_what_ships_can_be_measured_here():
    places, problems = place(profiles.load_devices(["cpu", "openvino"]))
    assert problems == []
    assert {found.where for found in places.values()} == {"here"}


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
    _, (problem,) = place({"box": box})
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
