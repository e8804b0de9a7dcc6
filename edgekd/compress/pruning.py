"""The prune stage's work: residual blocks, channels and single weights go, and the network learns to do without them.

It goes in steps. What each step cut, and what its training made of it, is kept until the stage is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgekd import data as datasets
from edgekd import models
from edgekd.artifact import CHECKPOINT
from edgekd.compress import channels, depth, resuming, sparsity
from edgekd.compress.importance import Ranking, bn_scale, magnitude, taylor
from edgekd.compress.judging import judged
from edgekd.compress.keeping import Cut
from edgekd.data import Data
from edgekd.distill.distill import learn
from edgekd.distill.teachers import sources
from edgekd.errors import StageError
from edgekd.models import Description
from edgekd.options import Network
from edgekd.recipe import Recipe
from edgekd.stage import Inputs
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.prune import Options
from edgekd.training import networks, sharding
from edgekd.training.engine import accelerate


@dataclass(frozen=True)
class _Setting:
    """What stays the same in all steps.

    Args:
        widths: channels of each group before the first step.
        edits: how many the network had before it.
    """

    options: Options
    inputs: Inputs
    data: Data
    training: Network
    teaching: Distillation
    widths: Mapping[str, int]
    edits: int


@dataclass(frozen=True)
class _State:
    """A network, how it is built, and what is known of the step that made it."""

    description: Description
    model: nn.Module
    facts: Mapping[str, Any] = field(default_factory=dict)


def prune(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Cut and fine-tune the newest student, or the teacher where there is none, in one step or several.

    Raises:
        StageError: nothing could be removed, a layer to exclude does not exist, a layer would be left without a
            channel, or the network does not work without what is to go.
    """
    base: Network = inputs.blocks["student"] or inputs.blocks["teacher"]
    training = base.model_copy(
        update={"epochs": options.epochs, "learning_rate": options.learning_rate or base.learning_rate / 3}
    )
    source = inputs.artifacts["model"]
    state = _State(models.describe(source.path), models.load(source.path))
    before = networks.profile(state.model, state.description.input_shape)
    setting = _Setting(
        options, inputs, datasets.of(inputs), training, inputs.blocks["distill"] or Distillation(),
        _widths(state, options), len(state.description.edits),
    )  # fmt: skip
    _refuse_divided(setting)
    steps = []
    for step in range(1, options.steps + 1):
        state = _step(setting, state, step, out)
        steps.append(state.facts)
    told = {"steps": [_short(facts) for facts in steps]} if options.steps > 1 else {}
    return networks.store(out, state.description, state.model, {**state.facts, **told, "before": before})


def rehearse(recipe: Recipe, data: Data) -> None:
    """Try on the untrained network what the recipe asks for.

    Which channels and blocks matter is not known yet: the least of all layers alike go in place of those.

    Raises:
        StageError: as `prune`.
    """
    options = recipe.options("prune")
    network = recipe.networks().get("student" if recipe.options("distill") is not None else "teacher")
    if not isinstance(options, Options) or network is None:
        return
    description = networks.describe(network, data)
    model, shape = networks.build(network, description, recipe.seed), description.input_shape
    untouched = channels.excluded(model, options.exclude)
    depth.enough(depth.blocks(model, models.example(shape), untouched) if options.depth else (), options.depth)
    if options.blocks:
        depth.remove(model, depth.named(model, options.blocks, shape, untouched))
    rank = bn_scale if options.importance == "bn_scale" else magnitude
    if options.widths:
        channels.remove(model, options, shape, rank)
    elif options.ratio and options.scope == "uniform":
        remove_channels(model, options, shape, rank)
    elif options.ratio:
        channels.groups(model, options, shape, rank)
    if options.sparsity is not None:
        sparsity.masks(model, options.model_copy(update={"scope": "uniform"}), untouched)


def restore(model: nn.Module, edit: Mapping[str, Any], example: Tensor, _state: dict[str, Tensor]) -> nn.Module:
    """Replay a pruning edit on the network as its factory makes it.

    Raises:
        StageError: the edit does not fit the network.
    """
    return channels.replay(model, edit["history"], example)


def remove_channels(
    model: nn.Module, options: Options, input_shape: tuple[int, ...], rank: Ranking = magnitude
) -> list[list[Any]]:
    """Remove channels of a model in place, as `channels.remove` does, and return the history that `restore` replays.

    Raises:
        StageError: as that, or nothing is to be removed.
    """
    history = channels.remove(model, options, input_shape, rank)
    if not history:
        raise channels.nothing_goes(options)
    return history


def _widths(state: _State, options: Options) -> dict[str, int]:
    if options.steps == 1:
        return {}
    _, found = channels.groups(state.model, options, state.description.input_shape)
    return {group.name: group.channels for group in found}


def _refuse_divided(setting: _Setting) -> None:
    """Refuse what needs the whole network in each process where the processes share its weights.

    Raises:
        StageError: with what to leave out.
    """
    options = setting.options
    asked = "steps" if options.steps > 1 else "sparsity" if options.sparsity is not None else None
    if asked and sharding.shards(accelerate(setting.inputs.compute, "fp32")):
        raise StageError(f"prune: {asked} needs the whole network in each process; train without FSDP and DeepSpeed")


def _step(setting: _Setting, given: _State, step: int, out: Path) -> _State:
    """Return what a step makes of a network, from the checkpoint as far as it had come."""
    options, last = setting.options, step == setting.options.steps
    folder = out / CHECKPOINT / f"step-{step}"
    done = resuming.kept(folder / "trained")
    if done is not None:
        return _State(*done)
    begun = resuming.kept(folder / "cut")
    cut = _State(*begun) if begun is not None else _cut(setting, given, step)
    if begun is None:
        resuming.keep(folder / "cut", cut.description, cut.model, cut.facts)
    kept = sparsity.masks(cut.model, options, channels.excluded(cut.model, options.exclude), step / options.steps)
    if not last and not kept and cut.description == given.description:
        return _State(cut.description, cut.model, networks.profile(cut.model, cut.description.input_shape))
    epochs = options.epochs if last else options.epochs_between or 1
    facts = dict(cut.facts)
    with sparsity.held(cut.model, kept):
        facts |= learn(
            cut.model, setting.teaching, sources(setting.inputs.artifacts),
            setting.training.model_copy(update={"epochs": epochs}), setting.data, setting.inputs, folder,
        )  # fmt: skip
    facts |= {"sparsity": sparsity.summary(cut.model, kept)} if kept else {}
    facts |= networks.profile(cut.model, cut.description.input_shape)
    made = _State(cut.description, cut.model, facts)
    if not last:
        resuming.keep(folder / "trained", made.description, made.model, made.facts)
    return made


def _cut(setting: _Setting, given: _State, step: int) -> _State:
    """Take out of a network, in place, what goes in a step.

    Raises:
        StageError: no channel has gone when the last step was cut.
    """
    options, model, description = setting.options, given.model, given.description
    facts: dict[str, Any] = {}
    count = round(options.depth * step / options.steps) - round(options.depth * (step - 1) / options.steps)
    if count:
        chosen = _choose_blocks(setting, given, count)
        facts["depth"] = [{"removed": name, "losses": losses} for name, losses in chosen]
        description = description.edited({"edit": "depth", "removed": [name for name, _ in chosen]})
    if options.blocks:
        untouched = channels.excluded(model, options.exclude)
        removed = depth.named(model, options.blocks, description.input_shape, untouched)
        depth.remove(model, removed)
        description = description.edited({"edit": "depth", "removed": removed})
    if options.ratio or options.widths:
        cut = Cut(step / options.steps, setting.widths)
        history = channels.remove(model, options, description.input_shape, _rank(setting, model), cut)
        if history:
            description = description.edited({"edit": "pruning", "history": history})
        new = description.edits[setting.edits :]
        if options.ratio and step == options.steps and not any(edit["edit"] == "pruning" for edit in new):
            raise channels.nothing_goes(options)
    return _State(description, model, facts)


def _choose_blocks(setting: _Setting, given: _State, count: int) -> list[tuple[str, dict[str, float]]]:
    options, model = setting.options, given.model
    untouched = channels.excluded(model, options.exclude)
    candidates = depth.blocks(model, models.example(given.description.input_shape), untouched)
    depth.enough(candidates, count)
    with judged(
        model, setting.inputs, setting.data, setting.teaching, setting.training, options.batches
    ) as judge:  # fmt: skip
        return depth.choose(model, candidates, count, judge.loss)


def _rank(setting: _Setting, model: nn.Module) -> Ranking:
    options = setting.options
    if options.importance in ("magnitude", "bn_scale"):
        return bn_scale if options.importance == "bn_scale" else magnitude
    teaching = setting.teaching if options.importance == "distill_taylor" else None
    with judged(model, setting.inputs, setting.data, teaching, setting.training, options.batches) as judge:
        return taylor(judge.products())


def _short(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of each of several steps."""
    return {key: facts[key] for key in ("parameters", "macs", "validation", "depth", "sparsity") if key in facts}
