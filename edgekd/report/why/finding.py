"""A cause, and what it was found in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgekd.graph.anatomy import Anatomy
from edgekd.report.why.profile import Ran, share

NO_TIMES = "the runtime gave no time of its layers"
NOT_TIME = "it costs accuracy, not time"


@dataclass(frozen=True)
class Finding:
    """One cause.

    Args:
        cause: its short name.
        text: what is the matter.
        where: the nodes that it concerns; () for the whole network.
        time_share: which share of the layers' time was measured in what it concerns: at most so much is to be gained.
        reason: why there is no such share, else None.
        mend: what would mend it.
    """

    cause: str
    text: str
    where: tuple[str, ...]
    time_share: float | None
    reason: str | None
    mend: str


@dataclass(frozen=True)
class Evidence:
    """What is known of a variant on a device.

    Args:
        runtime: "onnxruntime", "openvino", "tensorrt".
        architecture: of the processor, such as "x86_64"; "" where the processor does not run it.
        flags: of the processor, as `edgekd.agent.environment` names them.
        ran: what was executed.
        graph: its file; None where only the measurement is at hand.
        integers: whether it is meant to compute in integers.
        sqnr_db: of the outputs of its layers against those of its float origin; empty where it was not measured.
    """

    runtime: str
    architecture: str
    flags: frozenset[str]
    ran: tuple[Ran, ...]
    graph: Anatomy | None
    integers: bool
    sqnr_db: dict[str, float]

    @property
    def x86(self) -> bool:
        """Whether an x86 processor runs it."""
        return self.architecture.lower() in ("x86_64", "amd64", "i686")

    @property
    def dot_products(self) -> bool:
        """Whether the processor sums products of 8-bit integers in 32 bits in one instruction."""
        return not self.flags.isdisjoint(("avx512_vnni", "avx_vnni", "asimddp"))

    def of(self, nodes: Iterable[str]) -> tuple[Ran, ...]:
        """Return the executed layers that came from some nodes."""
        wanted = set(nodes)
        return tuple(one for one in self.ran if wanted.intersection(one.nodes))

    def found(self, cause: str, text: str, where: Iterable[str], ran: Iterable[Ran], mend: str) -> Finding:
        """Return a finding whose cost is the time of some executed layers."""
        cost = share(ran)
        return Finding(cause, text, tuple(dict.fromkeys(where)), cost, NO_TIMES if cost is None else None, mend)
