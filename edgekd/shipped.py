"""Where the recipes and device profiles that ship with edgekd are."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(kind: str) -> Path:
    """Return where shipped files of a kind are: the folder "pipelines" or "devices", the file "constraints.txt".

    A wheel carries them inside the package; in a checkout (an editable install too) they lie beside it.
    """
    packed = _PACKAGE / "_data" / kind
    return packed if packed.exists() else _PACKAGE.parent / kind


def shipped_modules(folder: str) -> list[str]:
    """Return the names of the modules in a folder of the package, such as "agent/backends"; each is a name in YAML."""
    return sorted(path.stem for path in (_PACKAGE / folder).glob("*.py") if path.stem != "__init__")
