"""How a network does on each sample of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekd import data as datasets
from edgekd import tasks
from edgekd.stage import Inputs
from edgekd.training import blackbox
from edgekd.training.engine import accelerate
from edgekd.training.evaluation import scores

FILE = "scores.npy"


def score(options: Any, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Write the score of each sample of the context's split, by default test, float64 (N,)."""
    del options
    split = inputs.context.get("split", "test")
    accelerator = accelerate(inputs.compute, "fp32")
    model = blackbox.load(inputs.artifacts["model"]).to(accelerator.device)
    found = scores(model, getattr(datasets.of(inputs), split), tasks.load(inputs.task), accelerator)
    np.save(out / FILE, found)
    return {"file": FILE, split: float(found.mean())}
