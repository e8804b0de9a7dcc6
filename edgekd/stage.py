"""What a stage declares, and what its work function is given.

A stage is one torch-free file in `edgekd/stages/`: `Options` (what its YAML block may say) and `STAGE`. The work
function `(options, inputs, out) -> facts` is imported only when it must run: plan, check and cached runs load no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # declarations are read in milliseconds
    from edgekd.artifact import Artifact
    from edgekd.options import Data

Progress = Callable[[int, int, str], None]
"""`(done, total, text)`, called by long work."""


Judged = Callable[[int, Mapping[str, float]], None]
"""`(epoch, curves)`, called by a training after each epoch with what that one adds to its curves, `validation` among
them; what it raises ends the training."""


def silent(done: int, total: int, text: str) -> None:
    """Show no progress."""


def unjudged(epoch: int, curves: Mapping[str, float]) -> None:
    """Let a training go on."""


def threads() -> int:
    """Return how many threads training uses: the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Stage:
    """The declaration of a stage.

    Args:
        work: "package.module:function" of the work.
        rehearsal: "package.module:function" of `(recipe, data)`, which looks at what only the networks show, before
            anything is trained; None where there is nothing to look at.
        after: the stages that come before this one, if they are switched on.
        consumes: roles of the artifacts it needs: "teacher" (every teacher that is listened to), "teachers" (every
            candidate), "targets" (what is kept of them), "model" (the newest student), "onnx" (of its variant).
        reads: blocks of the recipe, besides its own, that its result depends on.
        makes: the variant it adds, or None.
        per: how often it runs: once, once per teacher, once per network that learns from teachers, once per distinct
            quantization scheme of the devices, once per variant, or once per device (never cached). None: whenever
            another stage's steps call for it.
        seeded: whether the result depends on the run's seed, besides what that means for the data.
        version: raise it when the work changes so that old results must not be reused.
        packages: distributions whose versions the result depends on.
        trains: whether the result depends on the kind of processor, the threads and the processes.
        default: whether it runs in a recipe that does not name it.
    """

    work: str
    rehearsal: str | None = None
    after: tuple[str, ...] = ()
    consumes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    makes: str | None = None
    per: Literal["run", "teacher", "lesson", "scheme", "variant", "device"] | None = "run"
    seeded: bool = True
    version: int = 1
    packages: tuple[str, ...] = ("torch",)
    trains: bool = False
    default: bool = True


@dataclass(frozen=True)
class Inputs:
    """What a work function is given.

    Args:
        artifacts: the artifacts of the roles it consumes; of several teachers "teacher/NAME" and "targets/NAME".
        blocks: the recipe's blocks that it reads.
        data: the data options; load them with `edgekd.data.of(inputs)`.
        task: the task's name.
        seed: the run's seed.
        data_seed: the seed of what belongs to the data: which samples, which views of them.
        compute: "cpu" or "cuda".
        variant: the name of the variant that is worked on.
        context: facts from outside the recipe that enter the key (scheme, max_opset).
        metadata: text for the result that does not enter the key's meaning (recipe name).
    """

    artifacts: Mapping[str, Artifact]
    blocks: Mapping[str, Any]
    data: Data
    data_dir: Path | None
    task: str
    seed: int
    data_seed: int
    compute: str
    variant: str
    context: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    progress: Progress = silent
    judged: Judged = unjudged
