"""What data larger than memory cost, per sample: python benchmarks/scaling.py

Files are written, indexed and read in one run, on one core. Times are processor time of this process, so that other
work on the machine counts little; the files are in the page cache, and a disk adds its own time for the bytes, which
are printed too. The training step is that of a small ResNet, fed from memory and from files in turn; what a worker
process reads costs this one only the taking over.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from edgekd import data
from edgekd.data import Data, Split, Streamed, StreamedSplit
from edgekd.models.resnet import build
from edgekd.options import Training
from edgekd.training.feeding import Feed, Shown

BATCH = 128
SHARD = 1000
CLASSES = 10
TEST = 64
STEPS = 10
"""Training steps of a round, each of them with every source in turn."""


@dataclass(frozen=True)
class Many:
    """A reader of which only the order is asked."""

    shape: tuple[int, ...]
    files: np.ndarray
    sample_bytes: float
    dtype: np.dtype = np.dtype(np.float32)  # noqa: RUF009
    digest: str = ""

    def read(self, samples: np.ndarray) -> np.ndarray:
        """Return the samples' numbers."""
        return samples


def pictures(count: int, side: int, seed: int) -> np.ndarray:
    """Return smooth colour images (N, side, side, 3): their JPEG files are about as large as those of photographs."""
    generator = np.random.default_rng(seed)
    made = np.empty((count, side, side, 3), np.uint8)
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        made[index] = np.clip(smooth + generator.integers(-12, 13, smooth.shape), 0, 255)
    return made


def jpeg(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "jpeg", quality=90)
    return content.getvalue()


def write(root: Path, count: int, side: int) -> dict[str, Path]:
    """Write the same images as arrays, as tar files and as a folder."""
    folders = {kind: root / kind for kind in ("arrays", "tar files", "image folder")}
    for folder in folders.values():
        folder.mkdir()
    for seed, (split, number) in enumerate({"train": count, "test": TEST}.items()):
        images, labels = pictures(number, side, seed), np.arange(number) % CLASSES
        np.save(folders["arrays"] / f"x_{split}.npy", images)
        np.save(folders["arrays"] / f"y_{split}.npy", labels)
        for label in range(CLASSES):
            (folders["image folder"] / split / str(label)).mkdir(parents=True)
        for begin in range(0, number, SHARD):
            with tarfile.open(folders["tar files"] / f"{split}-{begin // SHARD:06}.tar", "w") as tar:
                for index in range(begin, min(begin + SHARD, number)):
                    content = jpeg(images[index])
                    place = folders["image folder"] / split / str(labels[index]) / f"{index:08}.jpg"
                    place.write_bytes(content)
                    for suffix, part in (("jpg", content), ("cls", b"%d" % labels[index])):
                        entry = tarfile.TarInfo(f"{index:08}.{suffix}")
                        entry.size = len(part)
                        tar.addfile(entry, io.BytesIO(part))
    return folders


def seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def load(source: Path, cache: Path, train_samples: int | None = None) -> Data:
    """Load as another process would, with one validation sample."""
    data._LAST.clear()
    return data.load(str(source), validation=1, train_samples=train_samples, stream=True, data_dir=cache)


def reading(folders: dict[str, Path], count: int, side: int, rounds: int) -> None:
    """Print what the first and the second start and a batch cost: the least of the rounds."""
    print(f"\n{count} images of 3 x {side} x {side}: bytes per sample, first start, second start, batch of {BATCH}")
    for kind, folder in folders.items():
        first, second = [], []
        for _ in range(4):
            with tempfile.TemporaryDirectory() as cache:
                first.append(seconds(partial(load, folder, Path(cache))))
                second += [seconds(partial(load, folder, Path(cache))) for _ in range(3)]
                split = load(folder, Path(cache)).train
        assert isinstance(split, StreamedSplit)
        stored, order = split.inputs.reader.sample_bytes, split.inputs.order(0)
        batches = [order[begin : begin + BATCH] for begin in range(0, len(order) - BATCH + 1, BATCH)]
        batch = min(seconds(partial(split.inputs.__getitem__, batches[at % len(batches)])) for at in range(5 * rounds))
        print(
            f"{kind:<13} {stored:7.0f} B {min(first) / count * 1e6:7.1f} µs/sample "
            f"({stored * count / min(first) / 1e6:4.0f} MB/s) {min(second) * 1e3:7.1f} ms "
            f"{batch / BATCH * 1e6:7.1f} µs/sample"
        )


def ordering() -> None:
    """Print what a permutation costs."""
    print()
    for samples in (10**5, 10**6):
        inputs = Streamed(Many((samples, 1), np.arange(0, samples, 10_000), 100_000.0))
        taken = min(seconds(partial(inputs.order, seed)) for seed in range(5))
        print(f"order of {samples} samples: {taken * 1e3:.0f} ms, {taken / samples * 1e9:.0f} ns per sample")


def targets() -> None:
    """Print the bytes that a teacher's answers take, by `edgekd/distill/targets.py`: computed, not measured."""
    print("\nteacher's answers, bytes per sample and view: fp16 logits; top 16 (fp16, class int32, 2 x fp32)")
    for classes in (10, 100, 1000):
        print(f"K = {classes:<5} {2 * classes:6d} {6 * min(16, classes) + 8:6d}")


def stepping(folders: dict[str, Path], rounds: int) -> None:
    """Print a training step's time, fed from memory and from files in turn."""
    with tempfile.TemporaryDirectory() as cache:
        arrays, tars = (load(folders[kind], Path(cache)).train for kind in ("arrays", "tar files"))
    splits = {
        "memory": (arrays.loaded(), 0),
        "arrays, read in this process": (arrays, 0),
        "tar files, read in this process": (tars, 0),
        "tar files, read by one worker": (tars, 1),
    }
    feeds = {name: feed(split, workers) for name, (split, workers) in splits.items()}
    model = build(input_shape=[3, *arrays.inputs.shape[2:]], classes=CLASSES, width=16, blocks=[1, 1])
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step(shown: Shown) -> None:
        cross_entropy(model(shown.batch.inputs), shown.batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    running = {name: endless(one) for name, one in feeds.items()}
    times: dict[str, list[float]] = {name: [] for name in feeds}
    for turn in range(STEPS * rounds):
        for name, shown in running.items():
            taken = seconds(lambda shown=shown: step(next(shown)))
            if turn >= STEPS:  # the first ones warm up
                times[name].append(taken)
    print(f"\nstep of a ResNet of width 16, batch {BATCH}, one thread: least and median; ratio to memory, step by step")
    for name, found in times.items():
        ratio = statistics.median(mine / own for mine, own in zip(found, times["memory"], strict=True))
        print(f"{name:<32} {min(found) * 1e3:6.1f} {statistics.median(found) * 1e3:6.1f} ms {ratio:6.2f}x")
    for one in feeds.values():
        one.close()


def feed(split: Split | StreamedSplit, workers: int) -> Feed:
    """Return what the training loop takes its batches from."""
    options = Training(epochs=1000, batch_size=BATCH, workers=workers)
    return Feed(split, options, device=torch.device("cpu"), layout=torch.channels_last, seed=0, view_seed=0)


def endless(source: Feed) -> Iterator[Shown]:
    """Yield batches of one epoch after the other."""
    for epoch in count():
        for _, parts in source.steps(epoch, 0):
            yield from parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, numpy {np.__version__}, torch {torch.__version__}")
    for number, side in ((8000, 32), (1200, 224)):
        with tempfile.TemporaryDirectory() as root:
            folders = write(Path(root), number, side)
            reading(folders, number, side, rounds)
            if side == 32:
                stepping(folders, rounds)
    ordering()
    targets()


if __name__ == "__main__":
    main()
