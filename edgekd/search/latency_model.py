"""How much faster a network is than a reference, by its widths: learned from random networks measured on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.agent.method import Method
from edgekd.artifact import Store
from edgekd.dispatch.placing import Place
from edgekd.errors import StageError
from edgekd.graph.template import Template, instance
from edgekd.graph.workload import Workload, workload
from edgekd.making import Show
from edgekd.search import regression, samples, timing
from edgekd.search.regression import Errors, Regression
from edgekd.search.timing import Feeds, Timing

NETWORKS = 100
FEWEST = 20
"""Networks of a precision without which there is nothing to tell an error from."""

BUSY = 0.1
"""Where the reference, timed beside itself, differs so much, what was measured beside it is not worth keeping."""

_TRIES = 20
_SMALLEST = 0.08
_SPREAD = 0.5
_STEPS = (1, 2, 4, 8, 8, 16, 16)


@dataclass(frozen=True)
class LatencyModel:
    """Predicts the latency of a network, relative to the reference in the same rounds.

    Args:
        regressions: for float networks (False) and for those with integers (True).
        errors: of each, on networks that were held out.
        noise_floor: the largest relative difference that the reference showed beside itself meanwhile.
    """

    regressions: Mapping[bool, Regression]
    noise_floor: float

    @property
    def errors(self) -> dict[str, Errors]:
        """By "float" and "integer": how far predictions were off on networks that the model had not seen."""
        return {_kind(integers): one.errors for integers, one in self.regressions.items()}

    @property
    def macs_errors(self) -> dict[str, Errors]:
        """The same where multiply-accumulates alone predict."""
        return {_kind(integers): one.macs_errors for integers, one in self.regressions.items()}

    def predict(self, work: Workload, widths: Mapping[str, int]) -> float:
        """Return the time of a network divided by that of the reference (1 / speed-up); see `predict_many`."""
        return self.predict_many(work, [widths])[0]

    def predict_many(self, work: Workload, widths: Sequence[Mapping[str, int]]) -> list[float]:
        """Return the relative times of several networks.

        Args:
            work: of the template (`workload`), which is worth keeping.
            widths: of each network; a group that is not named has its full width.

        Raises:
            StageError: the model has learned nothing of such networks.
        """
        if work.integers not in self.regressions:
            kind = _kind(work.integers)
            raise StageError(f"the latency model was learned without {kind} networks: give it a template of one")
        return self.regressions[work.integers].predict([work.at(of) for of in widths])


def _kind(integers: bool) -> str:
    return "integer" if integers else "float"


@dataclass(frozen=True)
class Sample:
    """A network that was measured, or is to be.

    Args:
        template: which one it is an instance of, by its place.
        work: of that template.
        fingerprint: `samples.fingerprint`.
    """

    template: int
    work: Workload
    widths: Mapping[str, int]
    fingerprint: str


def learn(
    name: str,
    place: Place,
    templates: Sequence[Template],
    reference: Path,
    feeds: Feeds,
    *,
    store: Store,
    networks: int = NETWORKS,
    seed: int = 0,
    method: Method = timing.METHOD,
    show: Show | None = None,
) -> LatencyModel:
    """Measure random networks beside the reference, as far as the store does not hold them, and fit a model.

    Args:
        name: of the device.
        templates: of each structure and precision that shall be predicted.
        reference: ONNX file of the network that all are compared with.
        feeds: the batch that is timed, by input name.
        store: where measurements are kept (`samples`).
        networks: how many of each precision are measured, shared by its structures.
        seed: of the random networks.

    Raises:
        DeviceError: the device cannot be reached, or is measured by a bundle.
        StageError: the networks do not run there.
    """
    show = show or Show()
    drawn = draw(templates, networks, seed)
    under = samples.conditions(name, place, reference, len(next(iter(feeds.values()))), method)
    kept = samples.folder(store.root, under)
    known = samples.read(kept)
    waiting = {one.fingerprint: one for one in drawn if one.fingerprint not in known.networks}
    show.say(f"latency model of {name}: {len(drawn)} networks, {len(drawn) - len(waiting)} of them measured before")
    progress, done = show.working(f"latency model[{name}]"), 0
    for several in timing.groups(waiting):
        progress(done, len(waiting), "networks measured")
        cut = {key: instance(templates[one.template], one.widths) for key, one in several.items()}
        found = timing.measure(name, place, cut, reference, feeds, method=method, show=Show(note=show.note))
        known = Timing({**known.networks, **found.networks}, max(known.noise_floor, found.noise_floor))
        if found.noise_floor < BUSY:
            samples.keep(kept, found, under)
        else:
            show.say(
                f"{name}: the reference timed beside itself differs by {found.noise_floor:.0%}, the device is too "
                "busy: these networks are not kept, and the next search measures them again"
            )
        for why in sorted(set(found.failed.values())):
            show.say(f"{name}: of the random networks some do not run: {why}")
        done += len(several)
    progress(done, len(waiting), "networks measured")
    return fit(drawn, known)


def fit(drawn: Sequence[Sample], timing: Timing) -> LatencyModel:
    """Fit a model to those networks that were measured.

    Args:
        timing: what was measured, by fingerprint.

    Raises:
        StageError: there are too few of a precision.
    """
    regressions = {}
    for integers in sorted({one.work.integers for one in drawn}):
        own = [one for one in drawn if one.work.integers == integers and one.fingerprint in timing.networks]
        if len(own) < FEWEST:
            raise StageError(
                f"a latency model needs {FEWEST} measured networks of each precision, and there are {len(own)} of "
                f"{_kind(integers)}: have more drawn, or see why they do not run"
            )
        times = np.array([1 / timing.networks[one.fingerprint].speedup for one in own])
        regressions[integers] = regression.fit([one.work.at(one.widths) for one in own], times)
    return LatencyModel(regressions, timing.noise_floor)


def draw(templates: Sequence[Template], networks: int, seed: int) -> list[Sample]:
    """Return different random networks; each precision has as many, shared by its structures.

    Their order has nothing to do with either: what slows a device for a minute must not look like a structure's time.
    """
    works = [workload(template) for template in templates]
    found: dict[str, Sample] = {}
    for place, (template, work) in enumerate(zip(templates, works, strict=True)):
        same = [other for other, of in enumerate(works) if of.integers == work.integers]
        share = networks // len(same) + (same.index(place) < networks % len(same))
        generator = np.random.default_rng(seed)
        own: dict[str, Sample] = {}
        for _ in range(_TRIES * share):  # a narrow network has few widths, and is drawn twice
            if len(own) < share:
                widths = random_widths(template, generator)
                key = samples.fingerprint(instance(template, widths))
                own.setdefault(key, Sample(place, work, widths, key))
        found |= own
    return sorted(found.values(), key=lambda one: one.fingerprint)


def random_widths(template: Template, generator: np.random.Generator) -> dict[str, int]:
    """Return random widths, from a twelfth to all of the full ones, small networks as often as large ones.

    Each network has a size, around which its groups lie, and a step, of which its widths are multiples: such as a
    search prefers, and in some networks any number.
    """
    size = math.exp(generator.uniform(math.log(_SMALLEST), 0.0))
    step = int(generator.choice(_STEPS))
    widths = {}
    for group, full in template.widths.items():
        least = template.steps.get(group, 1)
        multiple = math.lcm(least, step) if math.lcm(least, step) <= full else least
        wanted = full * size * math.exp(generator.normal(0.0, _SPREAD))
        widths[group] = multiple * max(1, min(full // multiple, round(wanted / multiple)))
    return widths
