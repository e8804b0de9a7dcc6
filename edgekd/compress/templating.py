"""The work that makes the template of a student without some of its blocks, in one precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd import models
from edgekd.compress.template import make_template
from edgekd.device import Scheme
from edgekd.graph import template as templates
from edgekd.stage import Inputs


def make(options: Any, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Write the template of the newest student.

    Args:
        options: "removed" blocks, "exclude" as in the recipe, the "input" and the "output" of the file.
        inputs: with the scheme (None: float) and the newest opset in their context.
    """
    source = inputs.artifacts["model"]
    scheme = inputs.context["scheme"]
    made = make_template(
        lambda: models.load(source.path),
        models.describe(source.path).input_shape,
        None if scheme is None else Scheme.model_validate(scheme),
        options.removed,
        inputs.context["max_opset"],
        options.exclude,
        (options.input, options.output),
    )
    templates.save(made, out)
    return {"widths": dict(made.widths)}
