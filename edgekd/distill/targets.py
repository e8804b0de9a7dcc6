"""The answers of a frozen teacher to every view of every training sample, written once and read in every epoch.

A view belongs to (seed of the data, sample, number of the view), never to a batch: what is kept for it is what the
teacher would say to the very image that the student is shown (Shen and Xing 2021, arXiv:2112.01528). One file per view.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgekd import data as datasets
from edgekd.artifact import Artifact
from edgekd.data import Data
from edgekd.errors import StageError
from edgekd.options import Augment
from edgekd.stage import Inputs
from edgekd.stages.targets import Options
from edgekd.training import blackbox
from edgekd.training.engine import accelerate
from edgekd.training.views import views_of

BATCH = 512
LEAST_MASS = 0.95
LARGEST_HALF = 65504.0
RESIDENT_BYTES = 256_000_000
"""What is kept of a teacher is held in memory up to here, else read from the disk as it is needed."""


def keep(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Write a teacher's answers to all views.

    Raises:
        StageError: there is no room, an answer is too large for 16 bits, or the largest answers hold too little of the
            probability.
    """
    data, source = datasets.of(inputs), inputs.artifacts["teacher"]
    augment, views = Augment.model_validate(inputs.context["augment"]), int(inputs.context["views"])
    temperature = float(inputs.context.get("temperature", 1.0))
    samples, classes, lost = len(data.train), 0, 0.0
    for view, answered in enumerate(_answers(inputs, source, data, augment, views)):
        files: dict[str, Any] = {}
        for begin, answers in answered:
            _check_range(answers)
            kept = {"answers": answers} if options.top is None else top(answers, options.top, temperature)
            if not files:
                _check_room(out, kept, samples, views)
                files = {name: _open(out, name, view, rows, samples) for name, rows in kept.items()}
            if options.top is not None:
                lost += float(kept["rest"].exp().sum())
            for name, rows in kept.items():
                files[name][begin : begin + len(rows)] = rows.numpy()
            classes = answers.shape[1]
            inputs.progress(view * samples + begin + len(answers), views * samples, f"view {view + 1}")
        for array in files.values():
            array.flush()
        if options.top is not None:
            _check_mass(1 - lost / (samples * (view + 1)), options.top, classes, temperature)
    return {
        "views": views,
        "samples": samples,
        "classes": classes,
        "top": options.top,
        "temperature": temperature,
        "kept_mass": 1 - lost / (samples * views),
        "size_bytes": sum(path.stat().st_size for path in out.glob("*.npy")),
    }


def _answers(
    inputs: Inputs, source: Artifact, data: Data, augment: Augment, views: int
) -> Iterator[Iterator[tuple[int, Tensor]]]:
    """Yield for each view the teacher's answers to all samples, by blocks, on the CPU."""
    device = accelerate(inputs.compute, "fp32").device
    model = blackbox.load(source).to(device)
    make = views_of(data.train.inputs, augment, inputs.data_seed)

    def of_view(view: int) -> Iterator[tuple[int, Tensor]]:
        for begin in range(0, len(data.train), BATCH):
            block = data.train.inputs[begin : begin + BATCH]
            shown = torch.from_numpy(np.ascontiguousarray(block)).to(device)
            samples = torch.arange(begin, begin + len(block))
            with torch.no_grad():
                yield begin, model(make(shown, samples, view) if make else shown).float().cpu()

    yield from map(of_view, range(views))


def top(answers: Tensor, count: int, temperature: float) -> dict[str, Tensor]:
    """Return the largest logits and what the others hold together.

    Args:
        answers: logits (B, K).
        count: how many are kept, at most K.

    Returns:
        "values" (B, count) the logits, "classes" (B, count) whose they are, "rest" (B,) the logarithm of the other
        classes' probability at the temperature, "total" (B,) the log-sum-exp of all z / T.
    """
    count = min(count, answers.shape[1])
    values, classes = answers.topk(count, dim=-1)
    scaled = answers.float() / temperature
    total = scaled.logsumexp(-1)
    others = scaled.scatter(-1, classes, -torch.inf).logsumexp(-1)
    return {"values": values, "classes": classes.int(), "rest": others - total, "total": total}


def restored(kept: dict[str, Tensor], classes: int, temperature: float) -> Tensor:
    """Return logits (B, classes) from what `top` kept: exact where it was kept; the rest is spread evenly.

    Nothing is normalised again: the probabilities of the kept classes are what they were.
    """
    count = classes - kept["values"].shape[1]
    rest = temperature * (kept["rest"] + kept["total"] - np.log(max(1, count)))
    logits = rest[:, None].expand(-1, classes)
    filled: Tensor = logits.scatter(-1, kept["classes"].long(), kept["values"].float())
    return filled


class Reader:
    """Reads what `keep` wrote, as logits.

    Args:
        device: where they are wanted.
    """

    def __init__(self, source: Artifact, device: torch.device) -> None:
        self._facts, self._device = source.facts, device
        resident = self._facts["size_bytes"] <= RESIDENT_BYTES
        names = ("answers",) if self._facts["top"] is None else ("values", "classes", "rest", "total")
        self._views = [
            {name: self._array(source.path / _file(name, view), resident) for name in names}
            for view in range(self._facts["views"])
        ]

    def __call__(self, samples: Tensor, view: int) -> Tensor:
        """Return the answers (B, K), float32, to a view of samples (B,); views count on in circles."""
        kept = {name: self._rows(array, samples) for name, array in self._views[view % len(self._views)].items()}
        if "answers" in kept:
            return kept["answers"].float()
        kept = {name: rows if name == "classes" else rows.float() for name, rows in kept.items()}
        return restored(kept, self._facts["classes"], self._facts["temperature"])

    def _array(self, path: Path, resident: bool) -> Tensor | np.ndarray:
        if resident:
            return torch.from_numpy(np.load(path, allow_pickle=False)).to(self._device)
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array

    def _rows(self, array: Tensor | np.ndarray, samples: Tensor) -> Tensor:
        if isinstance(array, Tensor):
            return array.index_select(0, samples.to(array.device))
        return torch.from_numpy(array[samples.numpy()]).to(self._device)


def _file(name: str, view: int) -> str:
    return f"{name}-{view:04d}.npy"


def _open(out: Path, name: str, view: int, rows: Tensor, samples: int) -> Any:
    """Return a file of an array for all samples, to be written block by block."""
    kind = {"values": np.float16, "answers": np.float16, "classes": np.int32}.get(name, np.float32)
    shape = (samples, *rows.shape[1:])
    return np.lib.format.open_memmap(out / _file(name, view), mode="w+", dtype=kind, shape=shape)


def _check_room(out: Path, kept: dict[str, Tensor], samples: int, views: int) -> None:
    per_sample = sum(rows[0].numel() * (2 if name in ("values", "answers") else 4) for name, rows in kept.items())
    needed, free = per_sample * samples * views, shutil.disk_usage(out).free
    if needed > free:
        raise StageError(
            f"targets: {needed / 1e9:.1f} GB are needed to keep the teacher's answers to {views} views of {samples} "
            f"samples, {free / 1e9:.1f} GB are free; set augment.views lower, targets.top, or targets: false"
        )


def _check_range(answers: Tensor) -> None:
    if not (largest := float(answers.abs().max())) < LARGEST_HALF:  # NaN is not below either
        raise StageError(f"targets: the teacher answers {largest:g}, which 16 bits cannot hold; set targets: false")


def _check_mass(mass: float, count: int, classes: int, temperature: float) -> None:
    if mass < LEAST_MASS:
        raise StageError(
            f"targets.top: the {count} largest of {classes} answers hold {mass:.2f} of the probability at temperature "
            f"{temperature:g}; at least {LEAST_MASS} is needed: keep more, lower the temperature, or keep all (no top)"
        )
