"""Inputs that are read while the network trains: the same training as if they lay in memory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.data import Split
from edgekd.errors import StageError
from edgekd.options import Augment, Training
from edgekd.training import checkpoint

from .small import convnet, images, labels, train

OPTIONS = Training(epochs=2, batch_size=16, workers=2, augment=Augment(crop=1))

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core


class Lazy:
    """Inputs in a file, read when they are indexed, in an order of their own."""

    streamed = True

    def __init__(self, path: Path, fault: str = "") -> None:
        array = np.load(path, mmap_mode="r")
        self.path, self.shape, self.dtype, self.fault = path, array.shape, array.dtype, fault

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen):
        if self.fault == "told" and 69 in np.arange(70)[chosen]:
            raise StageError("shard-7.tar, sample 69: the image is cut off")
        if self.fault == "system":
            raise OSError("Input/output error: disk 3")
        if self.fault == "killed" and 69 in np.arange(70)[chosen] and os.getpid() != PID:
            os._exit(9)
        return np.load(self.path, mmap_mode="r")[chosen]

    def order(self, seed: int):
        return np.roll(np.arange(70), seed % 70)


PID = os.getpid()


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    np.save(tmp_path / "inputs.npy", images().train.inputs)
    return tmp_path / "inputs.npy"


def trained(inputs, tmp_path: Path, options: Training = OPTIONS, **more):
    data = images()
    torch.manual_seed(1)
    model, seen = convnet(), []

    def looking(outputs, batch):
        seen.append((batch.samples.tolist(), batch.inputs.clone(), batch.targets.tolist()))
        return labels(outputs, batch)

    data = replace(data, train=_Split(inputs, data.train.targets))
    facts = train(model, data, tmp_path, options, objective=more.get("objective", looking))
    return facts, model.state_dict(), seen


class _Split(Split):
    def __len__(self) -> int:
        return len(self.inputs)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_memory_mapped_array_trains_like_one_in_memory(workers, stored, tmp_path):
    options = OPTIONS.model_copy(update={"workers": workers, "accumulate": 2})
    facts, weights, seen = trained(np.load(stored, mmap_mode="r"), tmp_path / "mapped", options)
    expected, others, batches = trained(np.load(stored), tmp_path / "array", options)
    assert facts == expected
    assert all(torch.equal(weights[name], others[name]) for name in others)
    assert [(samples, targets) for samples, _, targets in seen] == [
        (samples, targets) for samples, _, targets in batches
    ]
    assert all(torch.equal(one[1], other[1]) for one, other in zip(seen, batches, strict=True))


def test_what_has_an_order_of_its_own_is_read_in_it(stored, tmp_path):
    facts, _, seen = trained(Lazy(stored), tmp_path / "lazy")
    whole = [sample for samples, *_ in seen for sample in samples]
    for epoch in (whole[:64], whole[64:]):
        assert epoch == [(epoch[0] + n) % 70 for n in range(64)]
    assert whole[0] != whole[64]
    data = images()
    for samples, _, targets in seen:
        assert targets == data.train.targets[samples].tolist()
    assert len(facts["curves"]["epoch"]) == 2


def test_an_interrupted_training_reads_on_where_it_was(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", -1.0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", float("inf"))
    expected, weights, _ = trained(Lazy(stored), tmp_path / "whole")
    steps = [0]

    def killing(outputs, batch):
        steps[0] += 1
        if steps[0] == 6:
            raise KeyboardInterrupt
        return labels(outputs, batch)

    with pytest.raises(KeyboardInterrupt):
        trained(Lazy(stored), tmp_path / "cut", objective=killing)
    facts, others, _ = trained(Lazy(stored), tmp_path / "cut")
    assert facts == expected
    assert all(torch.equal(weights[name], others[name]) for name in others)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_told_with_its_place(workers, stored, tmp_path):
    options = OPTIONS.model_copy(update={"workers": workers, "augment": Augment()})
    for fault, message in (
        ("told", "^shard-7.tar, sample 69: the image is cut off$"),
        ("system", r"^training samples \[.*\]... cannot be read: Input/output error: disk 3"),
    ):
        inputs = Lazy(stored, fault)
        if fault == "system":
            inputs.fault = ""
            monkey = Lazy.__getitem__

            def failing(self, chosen, monkey=monkey):
                if isinstance(chosen, slice):
                    return monkey(self, chosen)
                raise OSError("Input/output error: disk 3")

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Lazy, "__getitem__", failing)
                with pytest.raises(StageError, match=message):
                    trained(inputs, tmp_path / fault, options)
            continue
        with pytest.raises(StageError, match=message):
            trained(inputs, tmp_path / fault, options)


def test_a_reader_that_ends_is_told(stored, tmp_path):
    options = OPTIONS.model_copy(update={"workers": 1, "augment": Augment()})
    with pytest.raises(StageError, match=r"a process that reads the training samples ended: .*workers: 0 or 1"):
        trained(Lazy(stored, "killed"), tmp_path / "killed", options)
