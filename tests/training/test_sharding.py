"""Weights that are divided over two processes: the same result as one process, and as without an interruption."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgekd.training.engine import accelerate
from edgekd.training.sharding import form, shards

from . import ranked, sharded
from .small import images, train
from .test_ranks import environment, free_port, same


def two(folder: Path, *arguments: str) -> dict:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port", free_port()]
    script = str(Path(sharded.__file__))
    subprocess.run([*command, script, str(folder), *arguments], env=environment(), check=True, timeout=200)
    return torch.load(folder / "result.pt") if (folder / "result.pt").exists() else {}


@pytest.mark.soak
def test_divided_weights_learn_what_whole_ones_learn(tmp_path):
    found = two(tmp_path / "two", "fp32")
    assert found["how"] == "DistributedType.FSDP"
    assert found["type"] == "Sequential"
    model, aim = ranked.network(), ranked.objective()
    del aim.unused
    facts = train(
        model, images(), tmp_path / "one", ranked.OPTIONS.model_copy(update={"ema": None}), objective=aim
    )  # fmt: skip
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found["model"][name], value, rtol=1e-3, atol=1e-5)
    assert found["facts"]["validation"] == facts["validation"]
    assert found["facts"]["curves"]["train_loss"] == pytest.approx(facts["curves"]["train_loss"], rel=1e-4)
    assert found["facts"]["terms"]["hint"]["gradient_norm"] == [None] * 3

    assert two(tmp_path / "cut", "fp32", "2") == {}
    again = two(tmp_path / "cut", "fp32")
    assert again["facts"] == found["facts"]
    assert same(again["model"], found["model"])

    lowered = two(tmp_path / "bf16", "bf16")["facts"]
    assert lowered["precision"] == "bf16"
    assert lowered["curves"]["train_loss"] != facts["curves"]["train_loss"]
    assert lowered["curves"]["train_loss"] == pytest.approx(facts["curves"]["train_loss"], rel=0.02)


def test_one_process_holds_its_weights_whole():
    accelerator = accelerate("cpu", "fp32")
    assert not shards(accelerator)
    assert form(accelerator) == "whole"
