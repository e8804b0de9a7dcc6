"""How good a network is that the search looks at, float or quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.fx import GraphModule

from edgekd import data as datasets
from edgekd import models, tasks
from edgekd.compress.pt2e import allow_exported_model_train_eval
from edgekd.stage import Inputs
from edgekd.training.engine import accelerate
from edgekd.training.evaluation import evaluate


def judge(options: Any, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Return the score on the validation split, on which choices are made."""
    del options, out
    model = models.load(inputs.artifacts["model"].path)
    if isinstance(model, GraphModule):  # what is quantized refuses `eval`, in which it always is
        allow_exported_model_train_eval(model)
    score = evaluate(model, datasets.of(inputs).validation, tasks.load(inputs.task), accelerate("cpu", "fp32"))
    return {"validation": score}
