"""How a network does on each sample of the test split."""

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
    """Write the score of each test sample, float64 (N,)."""
    del options
    accelerator = accelerate(inputs.compute, "fp32")
    model = blackbox.load(inputs.artifacts["model"]).to(accelerator.device)
    found = scores(model, datasets.of(inputs).test, tasks.load(inputs.task), accelerator)
    np.save(out / FILE, found)
    return {"file": FILE, "test": float(found.mean())}
