"""What only a look at the networks shows, before hours of training: the student's faults as early as the teacher's."""

from __future__ import annotations

import torch
from torch import nn

from edgekd import tasks
from edgekd.data import Data
from edgekd.distill.distill import objective
from edgekd.distill.layers import Layer, layers
from edgekd.distill.teachers import Source
from edgekd.document import suggest
from edgekd.errors import StageError
from edgekd.options import Network, Teacher
from edgekd.recipe import AUTO, Recipe
from edgekd.stages.distill import Options
from edgekd.stages.factorize import Options as Factorization
from edgekd.stages.quantize import Options as Quantization
from edgekd.training import networks
from edgekd.training.blackbox import BlackBox
from edgekd.training.engine import accelerate
from edgekd.training.feeding import samples_of
from edgekd.training.objective import Batch


def rehearse(recipe: Recipe, data: Data) -> None:
    """Build a recipe's networks, show each two samples, and let each student try its losses on them.

    Raises:
        StageError: a network cannot be built, does not map the data to one row of numbers per sample, or has to be
            trained and has nothing to train; a layer does not exist, or shapes fit no adapter.
    """
    built = {role: _built(role, network, recipe, data) for role, network in recipe.networks().items()}
    _check_excluded(recipe, built["student" if "student" in built else "teacher"])
    distillation = recipe.options("distill")
    if not isinstance(distillation, Options):
        return
    candidates = [role for role in built if role.startswith("teacher")]
    classes = [[role] for role in candidates] if recipe.teacher == AUTO else [candidates]
    for role, network in recipe.networks().items():
        if not role.startswith("teacher"):
            for teaching in classes:
                teachers = {name: built[name] for name in teaching}
                _lesson(recipe, distillation, role, network, teachers, built[role], data)
            classes = [[role]]


def listing(recipe: Recipe, data: Data) -> dict[str, list[Layer]]:
    """Return the named layers of a recipe's networks, by role; none of an ONNX file."""
    found = {}
    for role, network in recipe.networks().items():
        model = _built(role, network, recipe, data)
        found[role] = [] if isinstance(model, BlackBox) else layers(model, samples_of(data.train.inputs, 2))
    return found


def _built(role: str, network: Network, recipe: Recipe, data: Data) -> nn.Module:
    if isinstance(network, Teacher) and network.onnx is not None:
        model: nn.Module = BlackBox(network.onnx)
    else:
        model = networks.build(network, networks.describe(network, data), recipe.seed)
    networks.check_outputs(model, data, role)
    if network.epochs and not any(parameter.requires_grad for parameter in model.parameters()):
        raise StageError(f"{role}: the network has no parameter to train")
    return model


def _check_excluded(recipe: Recipe, model: nn.Module) -> None:
    """Refuse to spare layers that the network to be compressed does not have."""
    known = dict(model.named_modules())
    factorization = recipe.options("factorize")
    for stage, options in (("factorize", factorization), ("quantize", recipe.options("quantize"))):
        for name in options.exclude if isinstance(options, Factorization | Quantization) else ():
            # Low rank puts new layers into the place of old ones, which have names of their own.
            if name not in known and (options is factorization or factorization is None):
                raise StageError(f"{stage}: no layer {name!r} to exclude{suggest(name, known)}")


def _lesson(
    recipe: Recipe,
    options: Options,
    role: str,
    network: Network,
    teachers: dict[str, nn.Module],
    model: nn.Module,
    data: Data,
) -> None:
    """Try the losses of one student on two samples."""
    inputs = samples_of(data.train.inputs, 2)
    asked = [Source(name.removeprefix("teacher-"), teacher, inputs) for name, teacher in teachers.items()]
    task = tasks.load(recipe.task)
    goal = objective(
        options, model, asked, data, task, network, accelerator=accelerate("cpu", "fp32"), seed=recipe.seed
    )
    batch = Batch(inputs, torch.from_numpy(data.train.targets[:2]), torch.arange(2))
    try:
        with torch.no_grad():
            goal.eval()(model.eval()(inputs), batch)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise StageError(f"distill.losses: {role}: {error}") from error
    finally:
        goal.close()
