"""The latency of candidates on a device: predicted from templates, and measured on networks that are cut from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from edgekd import making, steps
from edgekd.artifact import Artifact
from edgekd.device import Scheme
from edgekd.dispatch.placing import Place
from edgekd.document import Frozen
from edgekd.errors import StageError
from edgekd.filing import Job, measuring
from edgekd.graph import template as templates
from edgekd.graph.lint import inspect
from edgekd.graph.template import Template
from edgekd.graph.workload import Workload, workload
from edgekd.graph.workload import macs as count
from edgekd.search import samples, timing
from edgekd.search.descent import Widths
from edgekd.search.proposing import FLOAT, INT8, Structure
from edgekd.search.timing import Timed
from edgekd.search.trials import options
from edgekd.stage import Stage
from edgekd.stages.export import Options as Export
from edgekd.steps import Step

TEMPLATE = Stage(
    work="edgekd.compress.templating:make",
    consumes=("model",),
    packages=("torch", "torchao", "onnx", "onnxscript", "torch-pruning"),
    seeded=False,
)

Kind = tuple[int, str]
"""A structure, by its index, and a precision."""
Network = tuple[int, str, Widths]
"""A structure, a precision, and widths."""


@dataclass(frozen=True)
class Predictor:
    """Predicts the latency of networks on a device.

    Args:
        predict: gives the time of networks of a template, as parts of the reference's.
        facts: how good it is.
    """

    predict: Callable[[Template, Sequence[Widths]], Sequence[float]]
    facts: Mapping[str, Any] = field(default_factory=dict)


Predictors = Callable[["Clock"], Predictor]
"""Gives a device's predictor, for a clock that cannot predict yet."""
METHOD = replace(timing.METHOD, processes=3, seconds=1.0, inferences=150)
"""Of networks that decide something; those of a model are many, and measured for a shorter time."""


class Shape(Frozen):
    """What a template depends on, besides the student and what its context says."""

    removed: tuple[str, ...]
    exclude: tuple[str, ...]
    input: str
    output: str


@dataclass(frozen=True)
class Clock:
    """How fast networks are on a device, beside the reference in the same rounds (`proposing.Clock`).

    Args:
        name: of the device.
        templates: by structure and precision.
        reference: the ONNX file that times are parts of.
        feeds: the batch that is timed.
    """

    name: str
    place: Place
    templates: Mapping[Kind, Template]
    predictor: Predictor
    reference: Path
    feeds: Mapping[str, np.ndarray]
    job: Job = field(repr=False)

    @property
    def precisions(self) -> Sequence[str]:
        """Those that there are templates for."""
        return list(dict.fromkeys(precision for _, precision in self.templates))

    def predict(self, structure: int, precision: str, networks: Sequence[Widths]) -> Sequence[float]:
        """Return the predicted time of each network, as a part of the reference's."""
        return self.predictor.predict(self.templates[structure, precision], networks)

    def size_bytes(self, structure: int, precision: str, networks: Sequence[Widths]) -> Sequence[float]:
        """Return the size of each network's file."""
        return [self.cut(structure, precision, widths).ByteSize() for widths in networks]

    def cut(self, structure: int, precision: str, widths: Widths) -> ModelProto:
        """Return a network."""
        return templates.instance(self.templates[structure, precision], widths)

    def measure(self, networks: Mapping[str, Network]) -> dict[str, Timed]:
        """Return how fast networks are; what was measured is kept.

        Raises:
            StageError: one does not run there.
            DeviceError: the device cannot be reached.
        """
        return self.timed({name: self.cut(*network) for name, network in networks.items()})

    def timed(self, networks: Mapping[str, ModelProto]) -> dict[str, Timed]:
        """Measure any ONNX models, as `measure` does."""
        store = self.job.shop.store.root
        under = samples.conditions(self.name, self.place, self.reference, len(next(iter(self.feeds.values()))), METHOD)
        kept = samples.folder(store, under)
        keys = {name: samples.fingerprint(model) for name, model in networks.items()}
        known = samples.read(kept).networks
        waiting = {keys[name]: model for name, model in networks.items() if keys[name] not in known}
        if waiting:
            found = timing.measure(
                self.name, self.place, waiting, self.reference, self.feeds, method=METHOD, show=self.job.shop.show
            )
            if found.failed:
                told = "; ".join(sorted(set(found.failed.values())))
                raise StageError(f"budget: networks of the search do not run on {self.name}: {told}")
            samples.keep(kept, found, under)
            known = {**known, **found.networks}
        return {name: known[key] for name, key in keys.items()}


def make_clocks(
    job: Job,
    known: Mapping[str, Artifact],
    devices: Sequence[str],
    structures: Sequence[Structure],
    predictors: Predictors,
) -> dict[str, Clock]:
    """Make the templates of all structures, and return the clock of each device.

    Args:
        known: artifacts by the labels of the job's steps.
    """
    reference = steps.reference(job.recipe)
    file = known[f"export[{reference}]"]
    path = file.path / file.facts["file"]
    feed = inspect(path).inputs[0].name
    size = measuring(job.recipe).batch_size
    found = {}
    for name in devices:
        kinds = _templates(job, known, name, structures)
        clock = Clock(
            name, job.places[name], kinds, Predictor(lambda template, networks: []), path,
            {feed: job.shop.data.validation.inputs[:size]}, job,
        )  # fmt: skip
        found[name] = replace(clock, predictor=predictors(clock))
    return found


def _templates(
    job: Job, known: Mapping[str, Artifact], device: str, structures: Sequence[Structure]
) -> dict[Kind, Template]:
    """Make or take from the store the templates of a device."""
    student = next(step.label for step in job.steps if step.variant == "student" and step.stage.makes)
    opset = min(one.max_opset for one in job.devices.values())
    schemes: dict[str, Scheme | None] = {FLOAT: None}
    if job.recipe.options("quantize") is not None:
        schemes[INT8] = steps.schemes(job.devices)[device]
    export = job.recipe.options("export")
    assert isinstance(export, Export)
    found = {}
    for index, structure in enumerate(structures):
        for precision, scheme in schemes.items():
            shape = Shape(
                removed=structure.removed, exclude=options(job.recipe).exclude, input=export.input_name,
                output=export.output_name,
            )  # fmt: skip
            told = "float" if scheme is None else f"int8-{scheme.label}"
            step = Step(
                f"template[{told}{f', {index} removed' if index else ''}]", "template", TEMPLATE, "",
                {"model": student}, {"template": shape},
                {"scheme": None if scheme is None else scheme.model_dump(), "max_opset": opset},
            )  # fmt: skip
            made, _ = making.make(job.shop, job.recipe, step, known)
            found[index, precision] = templates.load(made.path)
    return found


def macs(clock: Clock) -> Predictor:
    """Return the predictor that counts multiply-accumulates: what a latency model has to be better than."""
    total = max(inspect(clock.reference).macs or 1, 1)
    return Predictor(with_workloads(lambda work, networks: [count(work.at(of)) / total for of in networks]))


def with_workloads(
    predict: Callable[[Workload, Sequence[Widths]], Sequence[float]],
) -> Callable[[Template, Sequence[Widths]], Sequence[float]]:
    """Return a function of templates, for one of their workloads, which take a while to find out."""
    known: dict[int, tuple[Template, Workload]] = {}

    def of_template(template: Template, networks: Sequence[Widths]) -> Sequence[float]:
        if id(template) not in known:
            known[id(template)] = template, workload(template)
        return predict(known[id(template)][1], networks)

    return of_template
