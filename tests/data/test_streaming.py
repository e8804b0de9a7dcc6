"""What holds for every kind of data that are read when they are needed."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources import samples, write_arrays, write_images, write_shards

from edgekd import data
from edgekd.data import Streamed, StreamedSplit
from edgekd.data.loading.splitting import hold_out, leave_out, subset
from edgekd.errors import StageError, UsageError

WRITE: dict[str, Callable[..., Path]] = {
    "arrays": write_arrays,
    "images": write_images,
    "shards": write_shards,
    "shards of arrays": partial(write_shards, suffix="npy"),
}


@dataclass(frozen=True)
class Numbers:
    """A reader whose samples are their own numbers."""

    shape: tuple[int, ...]
    files: np.ndarray
    sample_bytes: float
    digest: str = "d"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def read(self, chosen: np.ndarray) -> np.ndarray:
        return chosen.astype(np.float32)[:, None]


def numbers(count: int, files: list[int] | None = None, sample_bytes: float = 1024.0) -> Streamed:
    return Streamed(Numbers((count, 1), np.array(files or [0]), sample_bytes))


@pytest.fixture(params=WRITE)
def streamed(request: pytest.FixtureRequest, tmp_path: Path) -> data.Data:
    folder = WRITE[request.param](tmp_path / "source", samples())
    return data.load(str(folder), validation=0.2, seed=3, stream=True)


@pytest.fixture
def in_memory(tmp_path: Path) -> data.Data:
    """The same data in an npz."""
    np.savez(
        tmp_path / "same.npz",
        **{
            f"{axis}_{split}": array
            for split, pair in samples().items()
            for axis, array in zip("xy", pair, strict=True)
        },
    )
    return data.load(str(tmp_path / "same.npz"), validation=0.2, seed=3)


def test_every_kind_gives_the_batches_that_memory_gives(streamed: data.Data, in_memory: data.Data) -> None:
    assert isinstance(streamed.train, StreamedSplit)
    assert isinstance(streamed.train.inputs, Streamed)
    assert streamed.train.inputs.streamed
    assert len(streamed.train) == len(streamed.train.inputs) == 48
    np.testing.assert_array_equal(streamed.train.targets, in_memory.train.targets)
    for name in ("validation", "test"):
        split = getattr(streamed, name)
        assert type(split.inputs) is np.ndarray
        np.testing.assert_array_equal(split.inputs, getattr(in_memory, name).inputs)
        np.testing.assert_array_equal(split.targets, getattr(in_memory, name).targets)
    truth = in_memory.train.inputs
    assert (streamed.train.inputs.shape, streamed.train.inputs.dtype) == (truth.shape, truth.dtype)
    assert streamed.train.inputs.ndim == 4
    keys = [slice(0, 7), slice(None), slice(40, 3, -5), slice(9, 9), -1, 5, np.int64(2)]
    keys += [np.array([5, 0, 47, 5]), np.array([-1, -48]), np.array([], int), truth[:, 0, 0, 0] > 0.5, [3, 1]]
    for key in keys:
        found = streamed.train.inputs[key]
        assert type(found) is np.ndarray
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, truth[key])


def test_a_view_reads_the_samples_that_it_was_made_of(streamed: data.Data) -> None:
    inputs = streamed.train.inputs
    view = inputs.take(np.array([40, 3, 17, 3]))
    np.testing.assert_array_equal(view[1:3], inputs[np.array([3, 17])])
    np.testing.assert_array_equal(view.take(np.array([3, 0]))[:], inputs[np.array([3, 40])])
    assert len({inputs.digest, view.digest, inputs.take(np.arange(3)).digest}) == 3
    assert inputs.take(np.arange(3)).digest == inputs.take(np.arange(3)).digest


def _read(inputs: Streamed, at: list[int]) -> np.ndarray:
    return inputs[np.array(at)]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_read_the_same(streamed: data.Data, start: str) -> None:
    inputs = streamed.train.inputs
    expected = inputs[np.array([7, 30])]
    with multiprocessing.get_context(start).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(_read, (inputs, [7, 30])), expected)


def test_a_copy_carries_no_samples(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path, samples((64, 64, 3)))
    inputs = data.load(str(folder), validation=0.2).train.inputs
    copied = pickle.dumps(inputs)
    assert len(copied) < 2_000
    np.testing.assert_array_equal(pickle.loads(copied)[:5], inputs[:5])


@pytest.mark.parametrize("key", [48, -49, np.array([0, 48])])
def test_an_index_out_of_range_is_refused(streamed: data.Data, key: Any) -> None:
    with pytest.raises(IndexError, match="out of range for 48 samples"):
        streamed.train.inputs[key]


@pytest.mark.parametrize("key", [np.zeros((2, 2), int), np.array([0.5]), np.array([True])])
def test_what_is_no_index_is_refused(streamed: data.Data, key: Any) -> None:
    with pytest.raises(TypeError, match="indexed by a slice or integers"):
        streamed.train.inputs[key]


def test_all_samples_do_not_become_an_array_by_accident(streamed: data.Data) -> None:
    with pytest.raises(TypeError, match="48 streamed samples do not become one array; index them"):
        np.asarray(streamed.train.inputs)


@given(st.integers(1, 400), st.data(), st.integers(0, 2**70), st.sampled_from([1.0, 40_000.0, 1e7]))
def test_an_order_is_a_permutation_that_follows_from_the_seed(
    count: int, draw: st.DataObject, seed: int, sample_bytes: float
) -> None:
    files = sorted({0, *draw.draw(st.lists(st.integers(0, count - 1), max_size=9))})
    inputs = numbers(count, files, sample_bytes)
    kept = draw.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=300))
    for one in (inputs, inputs.take(np.array(kept))):
        order = one.order(seed)
        assert order.dtype == np.int64
        assert sorted(order.tolist()) == list(range(len(one)))
        np.testing.assert_array_equal(order, one.order(seed))


def test_an_order_stays_within_few_runs_of_the_files() -> None:
    """Of 200,000 samples of 1 kB, 1024 lie in a run and 16,384 in a window: 16 runs, and what is left of two more."""
    inputs = numbers(200_000, [0, 50_000, 100_000, 150_000])
    order = inputs.order(7)
    for begin in range(0, 200_000 - 16_384, 16_384):
        near = order[begin : begin + 16_384]
        assert len(np.unique(near // 50_000 * 1_000 + near % 50_000 // 1_024)) <= 20
        assert np.abs(np.diff(near)).mean() > 10_000  # and shuffled within


def test_every_sample_is_as_likely_to_come_first() -> None:
    """The place of the first of 40,000 samples has mean 1/2 and standard deviation 1/sqrt(12)."""
    inputs = numbers(40_000)
    first = np.array([inputs.order(seed)[0] for seed in range(200)])
    assert len(np.unique(first)) > 190
    assert abs(first.mean() / 40_000 - 0.5) < 5 / np.sqrt(12 * 200)


def test_large_samples_have_short_runs_and_those_with_files_of_their_own_any_order() -> None:
    large = numbers(100_000, sample_bytes=150_000).order(0)
    assert len(np.unique(large[:2048] // 16)) > 400, "of the 512 runs of 16 of a window of 7158"
    own = numbers(30_000, list(range(30_000))).order(0)
    counts, _ = np.histogram(own[:10_000], 30)
    assert np.abs(counts - 333).max() < 5 * np.sqrt(333)


def test_the_order_is_fixed_for_ever() -> None:
    """A change here would change every training on streamed data."""
    assert numbers(12, [0, 5], 1e6).order(3).tolist() == [2, 7, 5, 8, 10, 3, 4, 9, 1, 11, 6, 0]


def test_the_seed_may_be_none_of_the_negative() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        numbers(5).order(-1)


def test_a_choice_of_samples_stays_unread_and_validation_is_read() -> None:
    split = StreamedSplit(numbers(100), np.arange(100) % 4)
    chosen = subset(split, 40, (0, 0), "training")
    train, held = hold_out(chosen, 0.25, (0, 2))
    train = leave_out(train, (2, 3), tuple("abcd"))
    assert isinstance(train, StreamedSplit)
    assert type(held.inputs) is np.ndarray
    assert np.bincount(held.targets).max() <= 3
    assert sorted({*train.targets.tolist()}) == [0, 1]
    assert len(train) + np.isin(held.targets, (0, 1)).sum() == 20
    for part in (train, held):
        np.testing.assert_array_equal(part.inputs[:][:, 0] % 4, part.targets)


def test_the_digest_is_of_contents_and_choice(tmp_path: Path) -> None:
    for kind, write in WRITE.items():
        seen = [data.load(str(write(tmp_path / kind / "a", samples())), validation=0.2, stream=True).digest]
        same = data.load(str(write(tmp_path / kind / "b", samples())), validation=0.2, stream=True).digest
        assert same == seen[0]
        changed = samples()
        changed["train"][0][7, 0, 0] ^= 1
        seen.append(data.load(str(write(tmp_path / kind / "c", changed)), validation=0.2, stream=True).digest)
        seen += [
            data.load(str(tmp_path / kind / "a"), stream=True, **options).digest
            for options in ({"validation": 0.2, "seed": 1}, {"validation": 0.1}, {"validation": 0.2, "omit": (1,)})
        ]
        assert len(set(seen)) == len(seen), kind


def test_the_test_split_may_not_be_the_training_split(tmp_path: Path) -> None:
    for kind, write in WRITE.items():
        content = samples()
        content["test"] = content["train"]
        with pytest.raises(UsageError, match="the test split is the training split"):
            data.load(str(write(tmp_path / kind, content)), validation=0.2, stream=True)


def test_what_breaks_during_training_names_file_and_sample(tmp_path: Path) -> None:
    inputs = {
        kind: data.load(str(write(tmp_path / kind, samples())), validation=0.2, stream=True).train.inputs
        for kind, write in WRITE.items()
    }
    (tmp_path / "arrays" / "x_train.npy").write_bytes((tmp_path / "arrays" / "x_train.npy").read_bytes()[:-60])
    (tmp_path / "images" / "train" / "c" / "0058.png").write_bytes(b"no image")
    shard = (tmp_path / "shards" / "train-000003.tar").read_bytes()
    (tmp_path / "shards" / "train-000003.tar").write_bytes(shard[:1_000])
    (tmp_path / "shards of arrays" / "train-000003.tar").unlink()
    for kind, message in {
        "arrays": r"x_train.npy: sample 5[89] is missing: the file ends before it",
        "images": r"0058.png: is no image",
        "shards": r"train-000003.tar: sample 49 \(byte 2560\) is missing: the file ends before it",
        "shards of arrays": r"train-000003.tar: cannot be read: No such file",
    }.items():
        with pytest.raises(StageError, match=message):
            inputs[kind][:]


@pytest.mark.parametrize("source", ["digits", "same.npz"])
def test_what_cannot_be_streamed_is_said(in_memory: data.Data, tmp_path: Path, source: str) -> None:
    with pytest.raises(UsageError, match=rf"data.stream: .*{source} is read into memory; .* a folder of images"):
        data.load(source, validation=0.2, stream=True, data_dir=tmp_path)


MEASURED = """
import resource, sys
import numpy as np
from edgekd import data
data.load(sys.argv[2], validation=8, train_samples=16)
begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
inputs = data.load(sys.argv[1], validation=8).train.inputs
order = inputs.order(0)
total = 0.0
for first in range(0, len(order), 64):
    total += float(inputs[order[first : first + 64]].mean())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin, total)
"""


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """200 MB of float32, all read twice (digest, an epoch), in less than 100 MB more than what reads 1 MB."""
    values = np.random.default_rng(0).random((4, 1 << 16), np.float32)
    for name, count in (("large", 800), ("small", 32)):
        (tmp_path / name).mkdir()
        write_arrays(tmp_path / name, {"test": (values[::-1], np.arange(4) % 2)})
        np.save(tmp_path / name / "y_train.npy", np.arange(count) % 2)
        train = np.lib.format.open_memmap(tmp_path / name / "x_train.npy", "w+", np.float32, (count, 1 << 16))
        for index in range(count):
            train[index] = values[index % 4]
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "large"), str(tmp_path / "small")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, total = done.stdout.split()
    assert abs(float(total) / 13 - 0.5) < 0.1
    assert int(grown) < 100_000, "kB"
