"""FSDP without a GPU: `sharded.py FOLDER PRECISION [EPOCHS]`, which ends both processes after so many epochs.

Accelerate shards on accelerators only. Here it is made to believe that it has some; PyTorch shards on processors too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from edgekd.training import engine, loop, ranks
from tests.training import ranked
from tests.training.small import TASK, images

CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: bf16
num_machines: 1
num_processes: 2
fsdp_config:
  fsdp_version: 2
  fsdp_reshard_after_forward: true
  fsdp_auto_wrap_policy: SIZE_BASED_WRAP
  fsdp_min_num_params: 100
  fsdp_state_dict_type: SHARDED_STATE_DICT
  fsdp_cpu_ram_efficient_loading: false
"""
reset = AcceleratorState._reset_state


def pretend(reset_partial_state: bool = False) -> None:
    reset(reset_partial_state)
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def run(folder: Path, precision: str, epochs: int | None) -> None:
    engine.threads = lambda: 1
    (folder / f"{os.environ['RANK']}.yaml").write_text(CONFIG)
    ranks.configure(folder / f"{os.environ['RANK']}.yaml")
    ranks.start("cpu")
    AcceleratorState._reset_state = staticmethod(pretend)
    judge = loop._judge

    def judged(setting, state, *given) -> None:
        judge(setting, state, *given)
        if state.epoch == epochs:
            os._exit(0)

    loop._judge = judged
    accelerator = engine.accelerate("cpu", precision)
    model, aim = ranked.network(), ranked.objective()
    del aim.unused
    options = ranked.OPTIONS.model_copy(update={"ema": None, "precision": precision})
    facts = loop.fit(
        model, aim, images(), TASK, options, accelerator=accelerator, seed=0, view_seed=0, out=folder,
        progress=lambda *_: None,
    )  # fmt: skip
    if accelerator.is_main_process:
        result = {"facts": facts, "model": model.state_dict(), "how": str(accelerator.distributed_type)}
        torch.save(result | {"type": type(model).__name__}, folder / "result.pt")
    ranks.leave()


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
