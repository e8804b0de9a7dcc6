"""A recipe and what may be varied of it: the recipe of every trial, checked before any of them begins."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgekd import plugin, recipe
from edgekd.agent.sealing import digest_of
from edgekd.document import DocumentError, Problem, parse, suggest
from edgekd.errors import UsageError
from edgekd.recipe import Recipe
from edgekd.space import Range, Search

VARIED = ("teacher", "teachers", "assistants", "student", "distill", "targets", "choose")
"""Blocks that decide how a student is trained. The data are the same in all trials: scores would not compare."""
EPOCHS = "student.epochs"
SPACE = "search.space"

Changes = Mapping[str, Any]
"""Values by place in the recipe."""


@dataclass(frozen=True)
class Written:
    """A recipe as it was written when the search began: no edit of the file parts the trials of one search.

    Args:
        overrides: of `--set`.
    """

    text: str
    source: str
    name: str
    overrides: tuple[str, ...]

    def recipe(self, changes: Changes) -> Recipe:
        """Return the recipe with other values, whole blocks first, then what is in them.

        Raises:
            DocumentError: they make no valid recipe.
        """
        ordered = sorted(changes.items(), key=lambda change: change[0].count("."))
        overrides = [f"{path}={json.dumps(value)}" for path, value in ordered]
        return parse(self.text, self.source, Recipe, [*self.overrides, *overrides], defaults={"name": self.name})


def written(name: str, overrides: tuple[str, ...]) -> Written:
    """Read a recipe.

    Raises:
        UsageError: it is wrong, or has no block `search`.
    """
    loaded = Recipe.load(name, overrides)  # which also lets plug-ins beside it be found
    path = recipe.find(name)
    if loaded.search is None:
        raise UsageError(
            f"{name} has no block `search`, which says what to vary; add, for example:\n"
            '  search: {space: {"distill.temperature": [1, 2, 4], "distill.alpha": {low: 0.1, high: 0.95}}, trials: 30}'
        )
    if loaded.student is None:
        raise UsageError(f"{name}: distill: false trains no student; there is nothing to search")
    return Written(path.read_text(encoding="utf-8-sig"), str(path), path.stem, overrides)


@dataclass(frozen=True)
class Variations:
    """A recipe and its space."""

    written: Written

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe as it is."""
        return self.written.recipe({})

    @cached_property
    def search(self) -> Search:
        """Its block `search`."""
        assert self.recipe.search is not None
        return self.recipe.search

    @property
    def epochs(self) -> int:
        """Of the student in a trial."""
        student = self.recipe.student
        assert student is not None
        return self.search.epochs or math.ceil((student.epochs or 1) / 3)

    def trial(self, changes: Changes) -> Recipe:
        """Return the recipe that a trial trains.

        Raises:
            DocumentError: the values do not go together.
        """
        return self.written.recipe({**changes, EPOCHS: self.epochs})

    def own(self) -> dict[str, Any]:
        """Return the recipe's own values, of those places whose values the space has."""
        found = {}
        for path, values in self.search.space.items():
            value = at(self.trial({}), path)
            if isinstance(values, Range):
                if _within(value, values):
                    found[path] = value
            else:
                for one in values:
                    if at(self.trial({path: one}), path) == value:
                        found[path] = one
        return found

    def digest(self, data: str) -> str:
        """Return what tells this search from others: all that its trials' scores depend on, but not their number.

        Args:
            data: digest of the data.
        """
        content = self.recipe.resolved()
        blocks = {name: content[name] for name in (*VARIED, "seed", "task")}
        rules = {name: value for name, value in content["search"].items() if name not in ("trials", "seeds")}
        networks = [one for changes in self.extremes() for one in self.trial(changes).networks().values()]
        own = {one.model: plugin.locate(one.model).source_digest for one in networks if ":" in one.model}
        return digest_of({**blocks, "data": data, "search": {**rules, "epochs": self.epochs}, "plugins": own})

    def extremes(self) -> Iterator[Changes]:
        """Yield the changes that are checked: each value by itself, and with each value of the block that it is in.

        Of a range, its ends.
        """
        ends = {path: _ends(values) for path, values in self.search.space.items()}
        for path, values in ends.items():
            for value in values:
                around = [outer for outer in ends if path.startswith(f"{outer}.")]
                yield from ({outer: block, path: value} for outer in around for block in ends[outer])
                if not around:
                    yield {path: value}

    def check(self, valid: Callable[[Recipe], None] | None = None) -> None:
        """Check the space: its places, and that the recipe with each of its values is a valid one.

        Args:
            valid: raises a UsageError for a recipe in which more is wrong than its document shows.

        Raises:
            DocumentError: with all problems at once.
        """
        wrong = {path: reason for path in self.search.space if (reason := _misplaced(path))}
        found = [Problem(SPACE, None, path, reason) for path, reason in wrong.items()]
        for changes in self.extremes():
            if not wrong.keys() & changes:
                found += [Problem(SPACE, None, told(changes), text) for text in self._problems(changes, valid)]
        if found:
            raise DocumentError(self.written.source, list(dict.fromkeys(found)))

    def _problems(self, changes: Changes, valid: Callable[[Recipe], None] | None) -> list[str]:
        try:
            trial = self.trial(changes)
            if valid is not None:
                valid(trial)
        except DocumentError as error:
            return [f"{problem.key}: {problem.message}" for problem in error.problems]
        except UsageError as error:
            return str(error).splitlines()
        return []


def told(changes: Changes) -> str:
    """Return changes in one line: "distill.temperature=4, student={model: mlp, ...}"."""
    return ", ".join(f"{path}={short(value)}" for path, value in changes.items()) or "the recipe as it is"


def named(paths: Collection[str]) -> dict[str, str]:
    """Return a short name of each place, its last part, where that is enough to tell them apart."""
    last = [path.rpartition(".")[2] for path in paths]
    return {path: name if last.count(name) == 1 else path for path, name in zip(paths, last, strict=True)}


def short(value: Any, longest: int = 48) -> str:
    """Return a value in a few characters, as YAML would have it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = json.dumps(value).replace('"', "")
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def at(found: Recipe, path: str) -> Any:
    """Return what a recipe has at a place, None where it has no such place."""
    value: Any = found.resolved()
    for name in path.split("."):
        if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value


def _ends(values: Range | tuple[Any, ...]) -> tuple[Any, ...]:
    return (values.low, values.high) if isinstance(values, Range) else values


def _within(value: Any, values: Range) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if values.whole else int | float):
        return False
    steps = (value - values.low) / (values.step or (1 if values.whole else math.inf))
    return values.low <= value <= values.high and math.isclose(steps, round(steps), abs_tol=1e-9)


def _misplaced(path: str) -> str | None:
    """Return why a place is none that a search may vary, or None."""
    block = path.partition(".")[0]
    if path == EPOCHS:
        return "all trials train equally long: set search.epochs"
    if block in VARIED:
        return None
    if block in {field.alias or name for name, field in Recipe.model_fields.items()}:
        return f"{block} does not change how a trial's student is trained; vary {', '.join(VARIED)}"
    return f"there is no {block!r} in a recipe{suggest(block, VARIED)}"
