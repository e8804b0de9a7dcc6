"""All causes that are looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgekd.report.why import execution, form
from edgekd.report.why.finding import Evidence, Finding

CAUSES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    execution.float_layers,
    execution.additions,
    execution.batchnorms,
    execution.conversions,
    execution.unfused,
    execution.narrow_layers,
    form.signed_activations,
    form.channels,
    form.features,
    form.outliers,
    form.saturation,
    form.imprecise,
)


def find(evidence: Evidence) -> list[Finding]:
    """Return every cause that is found, the one with the largest share of the time first, those without one last."""
    found = [finding for cause in CAUSES for finding in cause(evidence)]
    return sorted(found, key=lambda one: -1.0 if one.time_share is None else one.time_share, reverse=True)
