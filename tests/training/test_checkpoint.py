"""A checkpoint is whole or absent."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from edgekd.artifact import CHECKPOINT
from edgekd.training import checkpoint

STATE = {"epoch": 3, "weights": {"a": torch.arange(6.0).view(2, 3)}, "curves": {"loss": [0.5, float("inf")]}}


def place(out: Path) -> Path:
    return out / CHECKPOINT / checkpoint.FILE


def test_what_was_saved_comes_back(tmp_path):
    assert checkpoint.load(tmp_path) is None
    checkpoint.save(tmp_path, STATE)
    state = checkpoint.load(tmp_path)
    assert (state["epoch"], state["curves"]) == (3, STATE["curves"])
    assert torch.equal(state["weights"]["a"], STATE["weights"]["a"])
    assert [path.name for path in place(tmp_path).parent.iterdir()] == [checkpoint.FILE]


def test_the_memory_layout_comes_back_too(tmp_path):
    tensor = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    checkpoint.save(tmp_path, {"x": tensor})
    assert checkpoint.load(tmp_path)["x"].stride() == tensor.stride()


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "text", "pickle", "version"])
def test_a_damaged_one_counts_as_absent_and_says_so(tmp_path, damage, caplog, monkeypatch):
    checkpoint.save(tmp_path, STATE)
    content = bytearray(place(tmp_path).read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
    elif damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = bytearray()
    elif damage == "text":
        content = bytearray(b"not a checkpoint at all, but longer than a checksum")
    if damage == "pickle":
        monkeypatch.setattr(checkpoint, "SCHEMA", 1)
        checkpoint.save(tmp_path, {"evil": Path("anything but tensors and plain values")})
    elif damage == "version":
        monkeypatch.setattr(checkpoint, "SCHEMA", 99)
    else:
        place(tmp_path).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load(tmp_path) is None
    assert "cannot be used" in caplog.text
    assert "the work starts anew" in caplog.text
    assert not place(tmp_path).exists()
    caplog.clear()
    assert checkpoint.load(tmp_path) is None
    assert not caplog.records


def test_one_of_another_form_counts_as_absent(tmp_path, caplog):
    checkpoint.save(tmp_path, STATE | {"form": "FSDP 4"})
    assert checkpoint.load(tmp_path, "FSDP 4", remove=False)["epoch"] == 3
    assert checkpoint.load(tmp_path, "whole", remove=False) is None
    assert "its form is 'FSDP 4', and this training's 'whole'" in caplog.text
    assert place(tmp_path).exists()
    assert checkpoint.load(tmp_path, "whole") is None
    assert not place(tmp_path).exists()


def test_a_write_that_was_cut_short_leaves_the_old_one(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, STATE)

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, {**STATE, "epoch": 4})
    monkeypatch.undo()
    assert len(list(place(tmp_path).parent.iterdir())) == 2
    assert checkpoint.load(tmp_path)["epoch"] == 3
    assert [path.name for path in place(tmp_path).parent.iterdir()] == [checkpoint.FILE]


def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    """A clock of our own: steps of 0.1 s, checkpoints that take 0.5 s."""
    now, written = [100.0], []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])

    def slow(out: Path, state: dict) -> None:
        written.append(now[0])
        now[0] += 0.5

    monkeypatch.setattr(checkpoint, "save", slow)
    writer = checkpoint.Writer(tmp_path)
    for _ in range(1000):
        now[0] += 0.1
        writer.offer(dict)
    assert written[0] == pytest.approx(100 + checkpoint.SECONDS_BETWEEN, abs=0.11)
    gaps = [later - earlier - 0.5 for earlier, later in pairwise(written)]
    assert len(gaps) >= 3
    assert min(gaps) >= 0.5 / checkpoint.LARGEST_SHARE - 1e-6
