"""The files beside an ONNX file in which weights of it lie ("external data")."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Set

from edgekd.agent.protobuf import NOTHING, fields, message, read, text

# The fields of each message in which a tensor may lie, and what they hold; a subgraph lies in an attribute.
_HOLDERS: Dict[str, Dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_TENSOR_EXTERNAL, _ENTRY_KEY, _ENTRY_VALUE = 13, 1, 2


def external(path: Path) -> List[str]:
    """Return the files in which weights of a model lie, as it names them: relative to its own folder.

    Raises:
        AgentError: The file is missing or no ONNX file.
    """
    return sorted(read(path, _locations))


def _locations(data: memoryview) -> Set[str]:
    """Return the paths that tensors name as the place of their content, wherever in the model they are."""
    found: Set[str] = set()
    left = [("model", data)]
    while left:
        kind, part = left.pop()
        for number, value in fields(part):
            if kind == "tensor" and number == _TENSOR_EXTERNAL:
                entry = dict(fields(message(value)))
                if text(entry.get(_ENTRY_KEY, NOTHING)) == "location":
                    found.add(text(entry.get(_ENTRY_VALUE, NOTHING)))
            elif number in _HOLDERS.get(kind, ()):
                left.append((_HOLDERS[kind][number], message(value)))
    return found
