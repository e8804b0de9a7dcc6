"""Which rails of a board are its total. That depends on the board, and a board is known by the set of its rails.

The order of the table is that in which it is tried. Sources: NVIDIA's device tree for tegra234 (Orin), NVIDIA's forum
(75574, 81016: AGX Xavier; 200883: VDD_IN; 366461: Thor), jetson_stats 51 and 344, and recordings of tegrastats (TX2,
Xavier NX), in which VDD_IN is never less than the sum of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import FrozenSet, Iterable, Optional, Tuple

from edgekd.agent.errors import AgentError


@dataclass(frozen=True)
class Total:
    """The rails that are summed, and what their sum is.

    Attributes:
        rails: Names of the rails.
        scope: For people: "module (VDD_IN)".
        scope_kind: "module" (all that the module takes), "rails" (a sum that misses parts of it) or "carrier" (the
            module and the board that it sits on).
    """

    rails: Tuple[str, ...]
    scope: str
    scope_kind: str


@dataclass(frozen=True)
class Board:
    """A set of rails and its total.

    Attributes:
        needs: Rails by which the board is known.
        total: Those of them that make up the total.
        scope_kind: See `Total`.
        also: Further rails that it may have. None: any, because the total is one rail upstream of all others.
    """

    needs: FrozenSet[str]
    total: Tuple[str, ...]
    scope_kind: str
    also: Optional[FrozenSet[str]] = None


def _board(needs: str, total: str, scope_kind: str, also: Optional[str] = None) -> Board:
    may = None if also is None else frozenset(also.split())
    return Board(frozenset(needs.split()), tuple(total.split()), scope_kind, may)


_AGX_ORIN = "VDD_GPU_SOC VDD_CPU_CV VIN_SYS_5V0"
_AGX_XAVIER = "GPU CPU SOC CV VDDRQ SYS5V"

BOARDS = (
    _board("VDD_IN VDD_CPU_GPU_CV VDD_SOC", "VDD_IN", "module"),  # Orin Nano, Orin NX, Xavier NX
    _board("VDD_IN VDD_CPU VDD_GPU VDD_SOC VDD_DDR", "VDD_IN", "module"),  # TX2
    _board("VDD_IN VDD_SYS_CPU VDD_SYS_GPU VDD_SYS_SOC VDD_SYS_DDR", "VDD_IN", "module"),  # TX2, older names
    _board("POM_5V_IN POM_5V_GPU POM_5V_CPU", "POM_5V_IN", "module"),  # Nano, TX1
    _board("VIN VDD_GPU VDD_CPU_SOC_MSS VIN_SYS_5V0", "VIN", "carrier"),  # Thor
    # VDDQ_VDD2_1V8AO is fed from VIN_SYS_5V0: adding it would count it twice.
    _board(_AGX_ORIN, _AGX_ORIN, "rails", also="VDDQ_VDD2_1V8AO"),
    _board(_AGX_XAVIER, _AGX_XAVIER, "rails", also=""),
)


def total_of(names: Iterable[str]) -> Total:
    """Return the total of a board with these rails.

    Raises:
        AgentError: The set is unknown, or two rails have the same name; the message lists what there is.
    """
    rails = tuple(names)
    have = frozenset(rails)
    listed = ", ".join(rails) or "none"
    if len(have) < len(rails):
        raise AgentError("two rails have the same name, and which is which cannot be told: %s" % listed)
    for board in BOARDS:
        if board.needs <= have and (board.also is None or have <= board.needs | board.also):
            return Total(board.total, _scope(board), board.scope_kind)
    raise AgentError(
        "which rails make up the total is not known for this board; it has %s. Measure at its supply instead "
        "(power meter: external)" % listed
    )


def _scope(board: Board) -> str:
    if board.scope_kind != "rails":
        return "%s (%s)" % ({"module": "module", "carrier": "carrier input"}[board.scope_kind], board.total[0])
    return "sum of %d rails (%s)" % (len(board.total), " + ".join(board.total))
