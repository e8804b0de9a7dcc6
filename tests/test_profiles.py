"""Finding device profiles: shipped, one's own, extended ones, and where they are reached."""

from __future__ import annotations

import pytest

from edgekd import profiles
from edgekd.device import Device, Power, Quantization, resolved
from edgekd.document import DocumentError
from edgekd.errors import UsageError


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """Return the folder of one's own profiles, which is empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "edgekd" / "devices"
    folder.mkdir(parents=True)
    return folder


def test_own_profiles_are_found_beside_the_shipped_ones_and_win(own):
    (own / "box.yaml").write_text("version: 1\nbackend: onnxruntime\naddress: me@box:2222\n")
    (own / "cpu.yaml").write_text("version: 1\nbackend: onnxruntime\ndescription: mine\n")
    assert profiles.load_device("box").address == "me@box:2222"
    assert profiles.load_device("cpu").description == "mine"
    with pytest.raises(UsageError, match=r"no device 'bx'; did you mean \"box\".*yours: box, cpu"):
        profiles.load_device("bx")


def test_a_profile_that_extends_another_says_only_what_differs(own):
    (own / "desk.yaml").write_text("version: 1\nextends: cpu\naddress: desk\noptions: {threads: 2}\n")
    cpu, desk = profiles.load_device("cpu"), profiles.load_device("desk")
    assert desk == cpu.model_copy(update={"extends": "cpu", "address": "desk", "options": {"threads": 2}})


def test_a_profile_of_a_shipped_name_extends_the_shipped_one(own):
    (own / "cpu.yaml").write_text("version: 1\nextends: cpu\nmax_opset: 17\n")
    assert profiles.load_device("cpu").max_opset == 17
    assert profiles.load_device("cpu").backend == "onnxruntime"


def test_extending_in_a_circle_is_told(own):
    (own / "a.yaml").write_text("version: 1\nextends: b\n")
    (own / "b.yaml").write_text("version: 1\nextends: a\n")
    with pytest.raises(UsageError, match="`extends` goes in a circle"):
        profiles.load_device("a")
    (own / "self.yaml").write_text("version: 1\nextends: self\n")
    with pytest.raises(UsageError, match="it extends itself, and no shipped profile is called 'self'"):
        profiles.load_device("self")


def test_addresses_on_the_command_line_win(own):
    (own / "box.yaml").write_text("version: 1\nextends: cpu\naddress: old\n")
    devices = profiles.load_devices(["box", "openvino"], ["box=me@new:22"])
    assert [device.address for device in devices.values()] == ["me@new:22", None]


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (["cpu"], "--at cpu: must be NAME=user@host"),
        (["=host"], "--at =host: must be NAME=user@host"),
        (["cpu="], "--at cpu=: must be NAME=user@host"),
        (["pi=host"], "--at pi=host: no device 'pi' is measured (there are: cpu)"),
        (["cpu=a", "cpu=b"], "--at: 'cpu' has two addresses, a and b"),
        (["cpu=-oProxyCommand=id"], "is no address"),
        (["cpu=host;id"], "is no address"),
        (["cpu=me@host:99999"], "is no address"),
    ],
)
def test_wrong_addresses_are_refused(at, told):
    with pytest.raises(UsageError) as error:
        profiles.load_devices(["cpu"], at)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("address: '-oProxyCommand=id'", "address"),
        ("address: 'a b'", "address"),
        ("python: 'python3; id'", "python"),
        ("python: -c", "python"),
        ("power: {command: [meter]}", "`command` and `period_s` belong to `meter: external`"),
        ("power: {meter: external, command: []}", "power.command"),
        ("power: {pace_hz: 0}", "power.pace_hz"),
        ("precisions: [fp8]", "precisions"),
    ],
)
def test_what_a_profile_may_not_say(own, line, told):
    (own / "box.yaml").write_text(f"version: 1\nbackend: onnxruntime\n{line}\n")
    with pytest.raises(DocumentError) as error:
        profiles.load_device("box")
    assert told in str(error.value)


def test_a_profile_needs_a_backend_or_another_profile(own):
    (own / "box.yaml").write_text("version: 1\n")
    with pytest.raises(DocumentError, match="`backend` is missing"):
        profiles.load_device("box")


def test_words_that_a_board_is_expected_to_be_called_by(own):
    (own / "box.yaml").write_text("version: 1\nbackend: onnxruntime\nexpects: Orin Nano\n")
    assert profiles.load_device("box").expects == ("Orin Nano",)


def test_a_resolved_device_leaves_nothing_to_the_processor():
    device = Device(version=1, backend="onnxruntime", power=Power(meter="rapl"))
    assert device.quantization.open
    found = resolved(device, {"arch": "aarch64", "vnni": False})
    assert not found.quantization.open
    assert found.quantization == Quantization(activations="s8", reduce_range=False)
    assert found.power == device.power
    assert not Quantization(activations="s8", reduce_range=False).open
