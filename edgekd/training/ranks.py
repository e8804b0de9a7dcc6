"""The processes of one training, started by `torchrun`: who they are, what they tell each other, and when one ends."""

from __future__ import annotations

import json
import os
import platform
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate.commands import launch
from accelerate.state import PartialState
from accelerate.utils import patch_environment
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch import Tensor, distributed, nn
from yaml import YAMLError

from edgekd.errors import StageError, UsageError

STEP_TIMEOUT = timedelta(hours=6)
"""Longer than any process needs for its part of a step, and than the first one for writing a checkpoint."""
MESSAGE_TIMEOUT = timedelta(days=30)
"""The others wait while the first process exports and measures."""
SECONDS_TO_LEAVE = 60.0
NEEDED = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
READ_BY_ACCELERATE = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ImportError, YAMLError)
"""What Accelerate raises on files that it cannot make sense of."""
SIGNS_OF_A_LOSS = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe", "socket")


def world() -> tuple[int, int]:
    """Return which process this is and how many there are, from the environment that `torchrun` sets."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def local() -> int:
    """Return how many of the processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world()[1] > 1 else 1


def start(compute: str) -> None:
    """Meet the other processes; of one process, and the second time, nothing happens.

    Args:
        compute: "cpu" or "cuda".

    Raises:
        StageError: they cannot be found, or this machine has fewer GPUs than processes.
    """
    _, size = world()
    if size == 1 or distributed.is_initialized():
        return
    if missing := [name for name in NEEDED if name not in os.environ]:
        raise StageError(
            f"{size} processes were asked for (WORLD_SIZE), but {', '.join(missing)} is not set; start them with "
            f"torchrun --nproc_per_node={size} -m edgekd ..."
        )
    check_gpus(compute)
    # Accelerate would choose a number of threads, and warn that it does; the engine does that for each training.
    with patch_environment(OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1")):
        PartialState(cpu=compute == "cpu", timeout=STEP_TIMEOUT)
    _messages()


def check_gpus(compute: str) -> None:
    """Refuse to put two processes on one GPU.

    Raises:
        StageError: this machine has fewer GPUs than processes.
    """
    if compute == "cuda" and (found := torch.cuda.device_count()) < local():
        raise StageError(
            f"{local()} processes were asked for on this machine, and torch finds {found} CUDA devices; each process "
            f"needs its own: --nproc_per_node={found}, or compute: cpu"
        )


def leave() -> None:
    """Part from the other processes."""
    if distributed.is_initialized():
        _messages.cache_clear()
        distributed.destroy_process_group()


@contextmanager
def together() -> Iterator[None]:
    """Tell what it means when the processes cannot reach each other any more.

    Raises:
        StageError: in place of the RuntimeError of a connection that was lost.
    """
    try:
        yield
    except RuntimeError as error:
        if not lost(error):
            raise
        raise StageError(
            "another process of this training ended; what it said stands above or in its log; run again to go on "
            f"({str(error).splitlines()[0][:200]})"
        ) from error


def lost(error: BaseException) -> bool:
    """Return whether an error is that of a connection between processes."""
    if world()[1] == 1 or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, distributed.DistError) or any(sign in str(error).lower() for sign in SIGNS_OF_A_LOSS)


def tell(message: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Send a message of JSON values, or None, from the first process to all, and return it.

    The others wait for it, asleep.

    Args:
        message: ignored in the others.

    Raises:
        StageError: another process ended.
    """
    rank, size = world()
    if size == 1:
        return message
    content = json.dumps(message).encode() if rank == 0 else b""
    with together():
        length = torch.tensor([len(content)])
        distributed.broadcast(length, 0, group=_messages())
        data = torch.empty(int(length), dtype=torch.uint8)
        if rank == 0:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        distributed.broadcast(data, 0, group=_messages())
    received: Mapping[str, Any] | None = json.loads(data.numpy().tobytes())
    return received


def gathered(value: Any) -> list[Any]:
    """Return the JSON values of all processes, in their order, in each of them.

    Raises:
        StageError: another process ended.
    """
    _, size = world()
    if size == 1:
        return [value]
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    with together():
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
        distributed.all_gather(lengths, torch.tensor([len(content)]), group=_messages())
        largest = int(max(lengths))
        found = [torch.zeros(largest, dtype=torch.uint8) for _ in range(size)]
        padded = torch.nn.functional.pad(content, (0, largest - len(content)))
        distributed.all_gather(found, padded, group=_messages())
    return [json.loads(data[: int(length)].numpy().tobytes()) for data, length in zip(found, lengths, strict=True)]


def pids() -> list[tuple[str, int]]:
    """Return the machine and the process id of each process, in their order."""
    return [(host, pid) for host, pid in gathered((platform.node(), os.getpid()))]


def wait_until_left(processes: Sequence[tuple[str, int]], seconds: float = SECONDS_TO_LEAVE) -> None:
    """Return when the other processes on this machine have ended: what is measured then has the processor alone.

    Args:
        processes: as of `pids`; this process, and those of other machines, are not waited for.

    Raises:
        StageError: one is still there after so many seconds.
    """
    until = time.monotonic() + seconds
    for host, pid in processes:
        while host == platform.node() and pid != os.getpid() and _runs(pid):
            if time.monotonic() > until:
                raise StageError(
                    f"process {pid} of this training has not ended {seconds:g} s after it was told to; "
                    "nothing is measured beside it"
                )
            time.sleep(0.02)


def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers, such as the running statistics of normalisation."""
    for buffer in model.buffers() if world()[1] > 1 else ():
        shared = buffer.contiguous()
        distributed.broadcast(shared, 0)
        buffer.copy_(shared)


def mean(values: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes."""
    return total(values) / world()[1]


def total(values: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes."""
    if world()[1] > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def configure(path: Path) -> None:
    """Set what Accelerate reads from the environment as `accelerate launch --config_file` would.

    The processes, their number and their addresses stay those of `torchrun`.

    Raises:
        UsageError: the file cannot be read, or is none of Accelerate's.
    """
    if not path.is_file():
        raise UsageError(f"--accelerate-config {path}: there is no such file")
    try:
        arguments = launch.launch_command_parser().parse_args(["--config_file", str(path), "edgekd"])
        arguments, defaults, _ = launch._validate_launch_command(arguments)
        wanted = _environment(arguments, defaults)
    except (*UNREADABLE, SystemExit) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"--accelerate-config {path} cannot be used: {reason}; `accelerate config --config_file FILE` writes one"
        ) from error
    os.environ.update({name: value for name, value in wanted.items() if name.startswith(READ_BY_ACCELERATE)})


def _environment(arguments: Namespace, defaults: Any) -> dict[str, str]:
    """Return the environment of the processes that `accelerate launch` would start."""
    # It looks whether the port is free where its processes shall meet, and says so; ours have met already.
    arguments.main_process_port, arguments.num_machines = 0, 1
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config or {})
        found: dict[str, str] = prepare_deepspeed_cmd_env(arguments)[1]
    else:
        found = prepare_multi_gpu_env(arguments)
    # A recipe says which precision a network is trained in.
    return {name: value for name, value in found.items() if name != "ACCELERATE_MIXED_PRECISION"}


@cache
def _messages() -> Any:
    """Return the group that messages go through: of Gloo, whose waiting needs no processor."""
    return distributed.new_group(backend="gloo", timeout=MESSAGE_TIMEOUT)


def _runs(pid: int) -> bool:
    """Return whether a process exists and is more than an entry that its parent has not read yet."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:
        return True
