"""Several processes: the same result as one, the same bits after a kill, and clear words when one is missing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from edgekd.errors import StageError, UsageError
from edgekd.options import Training
from edgekd.training import engine, ranks
from edgekd.training.cutting import divide

from . import ranked
from .small import images, train

ROOT = Path(__file__).parents[2]
SCRIPT = [str(Path(ranked.__file__))]


def environment(**more: str) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if name not in (*ranks.NEEDED, "WORLD_SIZE")}
    return {**known, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def two(folder: Path, *arguments: str) -> list[dict]:
    """Start two processes, wait for both, and return what they wrote; nothing of one that was killed."""
    folder.mkdir(exist_ok=True)
    known = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = [
        subprocess.Popen(
            [sys.executable, *SCRIPT, str(folder), *arguments],
            env=environment(**known, RANK=rank, LOCAL_RANK=rank),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    told = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] in ([0, 0], [0, -signal.SIGKILL]), told
    files = [folder / f"{rank}.pt" for rank in (0, 1)]
    return [torch.load(file) if file.exists() else {} for file in files]


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_learn_what_one_learns_and_go_on_after_a_kill(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port", free_port()]
    (tmp_path / "two").mkdir()
    subprocess.run([*command, *SCRIPT, str(tmp_path / "two")], env=environment(), check=True, timeout=120)
    first, second = (torch.load(tmp_path / "two" / f"{rank}.pt") for rank in (0, 1))

    # Both processes have the same weights and the same facts, and said to each other what they should.
    assert first["facts"] == second["facts"]
    assert first["facts"]["processes"] == 2
    assert same(first["model"], second["model"])
    assert same(first["aim"], second["aim"])
    assert [found["told"] for found in (first, second)] == [{"to": ["all"]}] * 2
    assert [found["end"] for found in (first, second)] == [None] * 2
    assert first["gathered"] == second["gathered"] == [[0], [1, 1]]
    assert [pid for _, pid in first["pids"]] == [first["pid"], second["pid"]]
    assert first["left"] == [True]

    # One process at the same batch size comes to the same weights.
    model, aim = ranked.network(), ranked.objective()
    facts = train(model, images(), tmp_path / "one", ranked.OPTIONS, objective=aim)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(first["model"][name], value, rtol=1e-3, atol=1e-5)
    for name, value in aim.state_dict().items():
        torch.testing.assert_close(first["aim"][name], value, rtol=1e-3, atol=1e-5)
    assert not torch.equal(aim.adapter.weight, ranked.objective().adapter.weight)
    assert torch.equal(first["aim"]["unused"], torch.ones(2))
    assert first["facts"]["validation"] == facts["validation"]
    for name in ("train_loss", "learning_rate"):
        assert first["facts"]["curves"][name] == pytest.approx(facts["curves"][name], rel=1e-4)
    for name, kinds in facts["terms"].items():
        for kind in ("loss", "share"):
            assert first["facts"]["terms"][name][kind] == pytest.approx(kinds[kind], rel=1e-4)

    # One is killed in the second epoch; the other says so, and both go on to the same bits.
    left, nothing = two(tmp_path / "cut", "11")
    assert not nothing
    assert left["error"].startswith("another process of this training ended; ")
    assert "run again to go on" in left["error"]
    again = two(tmp_path / "cut")
    for found, expected in zip(again, (first, second), strict=True):
        assert found["facts"] == expected["facts"]
        assert same(found["model"], expected["model"])
        assert same(found["aim"], expected["aim"])


def test_alone_there_is_nobody_to_talk_to(monkeypatch):
    for name in (*ranks.NEEDED, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert ranks.world() == (0, 1)
    ranks.start("cpu")
    assert ranks.tell({"a": 1}) == {"a": 1}
    assert ranks.tell(None) is None
    assert ranks.gathered("x") == ["x"]
    assert [pid for _, pid in ranks.pids()] == [os.getpid()]
    ranks.wait_until_left(ranks.pids())
    ranks.leave()


def test_a_process_that_does_not_leave_is_named():
    host = ranks.pids()[0][0]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        with pytest.raises(StageError, match=rf"process {process.pid} .* has not ended 0.1 s after"):
            ranks.wait_until_left([(host, process.pid), ("elsewhere", process.pid)], seconds=0.1)
        process.kill()
        time.sleep(0.1)
        ranks.wait_until_left([(host, process.pid)])  # ended, though its parent has not looked yet


def test_processes_that_were_not_started_together_are_refused(monkeypatch):
    for name in ranks.NEEDED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        StageError,
        match=r"3 processes were asked for .*RANK, LOCAL_RANK.* not set; start .*torchrun --nproc_per_node=3",
    ):
        engine.accelerate("cpu", "fp32")


def test_several_were_asked_for_and_one_trains(monkeypatch):
    monkeypatch.setattr(ranks, "start", lambda compute: None)
    monkeypatch.setattr(ranks, "world", lambda: (0, 2))
    with pytest.raises(StageError, match=r"2 processes were asked for .*, and 1 is training"):
        engine.accelerate("cpu", "fp32")


def test_each_process_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(ranks, "world", lambda: (0, 4))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(StageError, match=r"4 processes .* torch finds 2 CUDA devices; .*--nproc_per_node=2"):
        ranks.check_gpus("cuda")
    ranks.check_gpus("cpu")


def test_the_cores_are_divided_over_the_processes_of_a_machine(monkeypatch):
    seen = []
    monkeypatch.setattr(engine, "threads", lambda: 12)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    engine.accelerate("cpu", "fp32")
    monkeypatch.setattr(ranks, "world", lambda: (0, 8))
    monkeypatch.setattr(ranks, "start", lambda compute: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(StageError):
        engine.accelerate("cpu", "fp32")
    assert seen == [12, 3]


def test_batches_are_divided_evenly_or_not_at_all(monkeypatch):
    monkeypatch.setattr(ranks, "world", lambda: (1, 3))
    cut = divide(100, Training(batch_size=12, accumulate=3))
    assert (cut.batch, cut.own, cut.parts, cut.rank, cut.steps) == (12, 4, 3, 1, 8)
    order = torch.arange(100).numpy()
    assert [part.tolist() for part in cut.chosen(order, 1)] == [[16], [17], [18, 19]]
    assert divide(10, Training(batch_size=12)).batch == 9
    with pytest.raises(StageError, match=r"batch_size: 128 samples cannot be divided over 3 processes; .* as 129"):
        divide(1000, Training(batch_size=128))
    with pytest.raises(StageError, match="2 training samples cannot be divided over 3 processes"):
        divide(2, Training(batch_size=12))


FSDP = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: bf16
num_machines: 1
num_processes: 2
fsdp_config: {fsdp_version: 2, fsdp_auto_wrap_policy: SIZE_BASED_WRAP, fsdp_min_num_params: 1000}
"""
DEEPSPEED = """
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
num_machines: 1
num_processes: 2
deepspeed_config: {zero_stage: 2, gradient_accumulation_steps: 1, zero3_init_flag: false}
"""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (FSDP, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_MIN_NUM_PARAMS": "1000"}),
        (DEEPSPEED, {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}),
    ],
)
def test_a_configuration_of_accelerate_sets_what_accelerate_reads(content, expected, tmp_path, monkeypatch):
    """The names are those of Accelerate's own plugins, which read them in their constructors."""
    found: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", before := dict(os.environ))
    (tmp_path / "a.yaml").write_text(content)
    known = dict(before)
    ranks.configure(tmp_path / "a.yaml")
    found = {name: value for name, value in os.environ.items() if known.get(name) != value}
    assert expected.items() <= found.items()
    assert not {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT", "OMP_NUM_THREADS", "PYTHONPATH"} & found.keys()


@pytest.mark.parametrize("content", [None, "a: [1", "- 1", "hello: 3", "compute_environment: MOON"])
def test_a_configuration_that_is_none(content, tmp_path, monkeypatch):
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_text(content)
    before = dict(os.environ)
    with pytest.raises(UsageError, match=r"--accelerate-config .*a.yaml( cannot be used: .+|: there is no such file)"):
        ranks.configure(path)
    assert dict(os.environ) == before
