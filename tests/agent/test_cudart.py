"""The calls of CUDA's runtime, run on a stand-in on the host's memory; and what the real library says without a GPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekd.agent import cudart
from edgekd.agent.cudart import DEVICE_TO_HOST, HOST_TO_DEVICE, Cuda
from edgekd.agent.errors import AgentError

from .fakes import loading


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    cudart.load.cache_clear()
    yield
    cudart.load.cache_clear()


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    path = loading.library()
    before = loading.live(path)
    yield Cuda(str(path))
    assert loading.live(path) == before


def test_the_device_is_told(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (cuda.device_name(), cuda.compute_capability()) == ("Orin (stand-in)", "8.7")
    assert (cuda.runtime_version(), cuda.driver_version()) == ("12.6", "13.2")
    monkeypatch.setenv("FAKE_CUDA_VERSION", "11040")
    assert cuda.runtime_version() == "11.4"


def test_memory_is_counted_and_given_back(cuda: Cuda) -> None:
    free, total = cuda.memory_bytes()
    with cuda.device_buffer(1 << 20), cuda.pinned_buffer(1 << 10):
        assert cuda.memory_bytes() == (free - (1 << 20) - (1 << 10), total)
    assert cuda.memory_bytes() == (free, total)


def test_a_handle_is_given_back_once(cuda: Cuda) -> None:
    buffer = cuda.device_buffer(8)
    buffer.close()
    buffer.close()  # a second cudaFree of the same address would fail


def test_copies_happen_in_the_stream_and_not_before_somebody_waits(cuda: Cuda) -> None:
    with cuda.stream() as stream, cuda.pinned_buffer(8) as host, cuda.device_buffer(4) as device:
        source, target = host.handle, host.handle + 4
        ctypes.memmove(source, b"edge----", 8)
        cuda.copy(device.handle, source, 4, HOST_TO_DEVICE, stream)()
        cuda.copy(target, device.handle, 4, DEVICE_TO_HOST, stream)()
        assert ctypes.string_at(target, 4) == b"----"
        cuda.synchronize(stream)()
        assert ctypes.string_at(target, 4) == b"edge"


def test_a_copy_in_the_wrong_direction_is_refused(cuda: Cuda) -> None:
    with cuda.stream() as stream, cuda.pinned_buffer(4) as host, cuda.device_buffer(4) as device:
        copy = cuda.copy(host.handle, device.handle, 4, HOST_TO_DEVICE, stream)
        with pytest.raises(AgentError, match=r"cudaMemcpyAsync failed: invalid argument \(CUDA error 1\)"):
            copy()


def test_events_enclose_what_is_between_them(cuda: Cuda) -> None:
    with cuda.stream() as stream, cuda.event() as begin, cuda.event() as end:
        cuda.record(begin, stream)
        cuda.record(end, stream)
        assert 0 <= cuda.elapsed_ns(begin, end) < 10**9


@pytest.mark.parametrize("definitions", [(), ("OLD",)], ids=["11.4 and newer", "before 11.4"])
def test_a_graph_runs_what_was_recorded_each_time_it_is_launched(definitions: tuple[str, ...]) -> None:
    cuda = Cuda(str(loading.library(*definitions)))
    with cuda.stream() as stream, cuda.pinned_buffer(1) as host, cuda.device_buffer(1) as device:
        copy = cuda.copy(device.handle, host.handle, 1, HOST_TO_DEVICE, stream)
        with cuda.capture(stream, copy) as graph:
            launch, wait = cuda.launch(graph, stream), cuda.synchronize(stream)
            for value in (b"a", b"b"):
                ctypes.memmove(host.handle, value, 1)
                ctypes.memmove(device.handle, b"-", 1)
                wait()
                assert ctypes.string_at(device.handle, 1) == b"-"
                launch()
                wait()
                assert ctypes.string_at(device.handle, 1) == value


def test_a_failed_recording_ends(cuda: Cuda) -> None:
    def fail() -> None:
        raise AgentError("no kernel")

    with cuda.stream() as stream:
        with pytest.raises(AgentError, match="no kernel"):
            cuda.capture(stream, fail)
        cuda.synchronize(stream)()  # it would fail while the stream still records


def test_out_of_memory_tells_how_much_there_is(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CUDA_MEMORY_MB", "8")
    message = r"cudaMalloc failed: out of memory \(CUDA error 2\); 8 of 8 MB are free"
    with pytest.raises(AgentError, match=message):
        cuda.device_buffer(9 << 20)


@pytest.mark.parametrize("name", ["cudaMalloc", "cudaHostAlloc"])
def test_every_failure_names_the_call(cuda: Cuda, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("FAKE_CUDA_FAIL", name)
    with pytest.raises(AgentError, match=rf"{name} failed: unknown error \(CUDA error 999\)"):
        cuda.device_buffer(1) if name == "cudaMalloc" else cuda.pinned_buffer(1)


def test_the_library_is_found_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CUDART", str(loading.library()))
    assert cudart.load().path == str(loading.library())
    assert cudart.load() is cudart.load()


def test_a_machine_without_a_gpu_is_told_with_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    path = loading.library()
    monkeypatch.setenv("EDGEKD_CUDART", str(path))
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "0")
    with pytest.raises(AgentError) as caught:
        cudart.load()
    assert str(caught.value).startswith("CUDA cannot be used here; EDGEKD_CUDART may name the path")
    assert f"{path}: cudaGetDeviceCount failed: no CUDA-capable device is detected" in str(caught.value)


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKD_CUDART", str(tmp_path / "libcudart.so"))
    with pytest.raises(AgentError, match=r"libcudart\.so: cannot open shared object file"):
        cudart.load()


def test_another_library_of_that_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CUDART", "libc.so.6")
    with pytest.raises(AgentError, match=r"libc\.so\.6: .*undefined symbol: cudaGetDeviceCount"):
        cudart.load()


def test_a_library_that_the_process_has_loaded_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEKD_CUDART", raising=False)
    path = str(loading.library())
    ctypes.CDLL(path)
    tried = cudart._candidates()
    assert path in tried[: tried.index("libcudart.so.13")]


def test_a_stand_in_is_told_from_the_real_library(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is not NVIDIA's CUDA runtime: it lacks cudaGraphicsUnmapResources" in str(cuda.simulated())
    real = sorted(Path("/usr/local").glob("cuda*/lib64/libcudart.so"))
    if not real:
        pytest.skip("CUDA's own runtime is not installed here")
    monkeypatch.setattr(Cuda, "_call", lambda self, name, *arguments: None)  # there may be no GPU
    assert Cuda(os.path.realpath(real[0])).simulated() is None
