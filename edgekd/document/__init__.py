"""YAML documents from users: read strictly, checked against a pydantic model, every problem reported at once.

The dialect is the safe core of YAML 1.2: only `true` and `false` are booleans (`on` and `yes` are text), `1e-3` is a
number, there are no dates, and the only tags are the core ones. Anchors and merge keys work; duplicate keys are errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edgekd.document.explaining import explain
from edgekd.document.frozen import Frozen
from edgekd.document.problem import DocumentError, Problem, suggest
from edgekd.document.reading import Document, override, read

__all__ = ["DocumentError", "Frozen", "Problem", "check_dict", "load", "parse", "suggest"]

M = TypeVar("M", bound=BaseModel)
LARGEST_BYTES = 256 << 10
"""Of a file that people write."""


def load(path: Path, model: type[M], overrides: Sequence[str] = (), defaults: Mapping[str, Any] | None = None) -> M:
    """Read a YAML file as a model.

    Args:
        overrides: `key.key=value` texts that win over the file; the values are YAML.
        defaults: values of top-level keys that neither the file nor an override gives.

    Raises:
        DocumentError: The file cannot be read or is not a valid document; all its problems are told.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise DocumentError(str(path), [Problem(str(path), None, "", f"is larger than {LARGEST_BYTES >> 10} KiB")])
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(str(path), [Problem(str(path), None, "", f"is not UTF-8 text: {error.reason}")]) from error
    except OSError as error:
        raise DocumentError(str(path), [Problem(str(path), None, "", f"cannot be read: {error.strerror}")]) from error
    return parse(text, str(path), model, overrides, defaults)


def parse(
    text: str,
    source: str,
    model: type[M],
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> M:
    """Like `load`, for a text; `source` is the name that problems are reported under."""
    document = read(text, source)
    if document.data is None:
        raise DocumentError(source, document.problems)
    for change in overrides:
        override(document, change)
    document.data = {**(defaults or {}), **document.data}
    return _validated(document, model)


def check_dict(data: Mapping[str, Any], model: type[M], source: str) -> M:
    """Check a mapping that comes from Python against a model, with the messages of a file but without lines."""
    return _validated(Document(source, data=dict(data)), model)


def _validated(document: Document, model: type[M]) -> M:
    problems = list(document.problems)
    try:
        checked = model.model_validate(document.data)
    except ValidationError as error:
        found = explain(error, model, document)
        # A key that could not even be read is told once.
        unread = {(problem.source, problem.key) for problem in problems}
        problems += [problem for problem in found if (problem.source, problem.key) not in unread]
    else:
        if not problems:
            return checked
    problems.sort(key=lambda problem: (problem.source != document.source, problem.line or 0))
    raise DocumentError(document.source, problems)
