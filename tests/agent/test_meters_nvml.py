"""NVML against a stand-in for the driver's library, compiled here from the signatures of NVIDIA's reference."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekd.agent import meters, polling
from edgekd.agent.errors import AgentError
from edgekd.agent.meters import nvml

from .clock import Clock

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3 };
typedef struct device { unsigned index; } *nvmlDevice_t;
static struct device devices[2] = {{0}, {1}};
static unsigned long long energy = 5000;
int fake_open = 0;
static int is(const char *mode) { return getenv("FAKE_NVML") && !strcmp(getenv("FAKE_NVML"), mode); }
int nvmlInit_v2(void) { if (is("dead")) return 9; fake_open++; return SUCCESS; }
int nvmlShutdown(void) { fake_open--; return SUCCESS; }
const char *nvmlErrorString(int code) { return code == NOT_SUPPORTED ? "Not Supported" : "Some Error"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    if (index > 1) return INVALID;
    *device = &devices[index];
    return SUCCESS;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    if (strcmp(uuid, "GPU-1b2c")) return INVALID;
    *device = &devices[1];
    return SUCCESS;
}
int nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length) {
    strncpy(name, device->index ? "NVIDIA T4" : "NVIDIA A2", length);
    return SUCCESS;
}
int nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules) {
    if (!device || !is("counts")) return NOT_SUPPORTED;
    *millijoules = energy;
    energy += 12;
    return SUCCESS;
}
int nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts) {
    if (!device || is("tegra")) return NOT_SUPPORTED;
    *milliwatts = is("zero") ? 0 : is("garbage") ? 4294967295u : 31500 + device->index;
    return SUCCESS;
}
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root in whose usr/lib the library lies."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to compile a stand-in for libnvidia-ml with")
    root = tmp_path_factory.mktemp("driver")
    (root / "usr/lib").mkdir(parents=True)
    source = root / "nvml.c"
    source.write_text(SOURCE)
    subprocess.run(
        [compiler, "-Wall", "-Werror", "-shared", "-fPIC", "-o", root / "usr/lib/libnvidia-ml.so.1", source], check=True
    )
    return root


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    return Clock().install(monkeypatch, polling, meters)


def still_open(root: Path) -> int:
    return ctypes.c_int.in_dll(ctypes.CDLL(str(root / "usr/lib/libnvidia-ml.so.1")), "fake_open").value


def test_energy_is_counted_since_the_meter_was_opened(
    library: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NVML", "counts")
    name, meter, reason = meters.find("nvml", library)
    assert (name, reason) == ("nvml", None)
    assert meter is not None
    assert (meter.scope, meter.scope_kind) == ("GPU board (NVIDIA A2)", "board")
    assert [channel.kind for channel in meter.channels] == ["energy"]
    assert (meter.floor_j, meter.floor_w) == (0.012, None)
    first, second = meter.read(), meter.read()
    assert second.values[0] - first.values[0] == pytest.approx(0.012)
    assert 0 < first.values[0] < 0.2
    assert second.time_ns - first.time_ns == 100_000_000
    assert still_open(library) == 1
    meter.close()
    assert still_open(library) == 0


def test_older_gpus_tell_their_power(library: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML", "power")
    meter = meters.find("nvml", library)[1]
    assert meter is not None
    assert [channel.kind for channel in meter.channels] == ["power"]
    assert meter.read().values == (31.5,)
    assert (meter.floor_j, meter.floor_w) == (None, None)
    meter.close()


@pytest.mark.parametrize(
    ("visible", "scope", "watts"), [("1,0", "T4", 31.501), ("GPU-1b2c", "T4", 31.501), ("0", "A2", 31.5)]
)
def test_the_gpu_is_the_first_that_cuda_may_use(
    visible: str, scope: str, watts: float, library: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NVML", "power")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    meter = nvml.open(library)
    assert meter.scope == f"GPU board (NVIDIA {scope})"
    assert meter.read().values == (watts,)
    meter.close()


@pytest.mark.parametrize("visible", ["0", "GPU-1b2c"])
def test_different_gpus_need_an_order_or_a_name(
    visible: str, library: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NVML", "power")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    name, meter, reason = meters.find("nvml", library)
    if meter is None:
        assert "NVIDIA A2, NVIDIA T4: which of them CUDA's number 0 is cannot be told" in str(reason)
    else:
        meter.close()
    assert (name is None) == (visible == "0")
    assert still_open(library) == 0


def test_a_card_is_not_measured_unless_it_is_asked_for(
    library: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NVML", "counts")
    name, _, reason = meters.find("auto", library)
    assert name is None
    assert "nvml" not in str(reason)


@pytest.mark.parametrize(
    ("mode", "visible", "reason"),
    [
        ("tegra", "0", "nvmlDeviceGetPowerUsage says 'Not Supported'"),
        ("dead", "0", "nvmlInit_v2 says 'Some Error'"),
        ("zero", "0", "no good reading: the total, GPU board (NVIDIA A2), is 0 W"),
        ("garbage", "0", "no good reading: the total, GPU board (NVIDIA A2), is 4.29497e+06 W"),
        ("power", "7", "nvmlDeviceGetHandleByIndex_v2 says 'Some Error'"),
        ("power", "", "CUDA_VISIBLE_DEVICES is '', which names no GPU"),
        ("power", "-1", "CUDA_VISIBLE_DEVICES is '-1', which names no GPU"),
    ],
)
def test_a_gpu_without_power_says_why_and_leaves_nothing_open(
    mode: str, visible: str, reason: str, library: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NVML", mode)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    name, _, found = meters.find("nvml", library)
    assert name is None
    assert str(found).startswith("nvml: ")
    assert reason in str(found)
    assert still_open(library) == 0


def test_a_driver_without_a_function_says_which(clock: Clock) -> None:
    class Old:
        def nvmlInit_v2(self) -> int:  # noqa: N802
            return 0

        def nvmlShutdown(self) -> int:  # noqa: N802
            return 0

    with pytest.raises(AgentError, match="nvmlDeviceGetHandleByIndex_v2 says that this driver does not have it"):
        nvml.Nvml(Old())


def test_a_machine_without_a_driver_says_so(tmp_path: Path) -> None:
    assert "no NVIDIA driver here" in str(meters.find("nvml", tmp_path)[2])
