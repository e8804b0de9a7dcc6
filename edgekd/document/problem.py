"""What is wrong with a document, and the error that carries all of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekd.errors import UsageError

_SCREEN = 20  # problems shown; the rest is counted


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the file (or the `--set` text), the line in it, the dotted key, what is the matter."""

    source: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return ": ".join(part for part in (place, self.key, self.message) if part)


class DocumentError(UsageError):
    """A document is wrong; `problems` holds everything that is wrong with it."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        head = f"{len(problems)} problem{'s' if len(problems) != 1 else ''} in {source}:"
        rest = [f"... and {len(problems) - _SCREEN} more"] if len(problems) > _SCREEN else []
        super().__init__("\n  ".join([head, *map(str, problems[:_SCREEN]), *rest]))


def suggest(word: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the candidate that looks most like the word, or nothing."""
    names = {_folded(name): name for name in candidates}
    near = difflib.get_close_matches(_folded(word), names, n=1)
    return f'; did you mean "{names[near[0]]}"?' if near else ""


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")
