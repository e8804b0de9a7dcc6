"""Text that any output can show: names without control characters, and ASCII where nothing more is possible."""

from __future__ import annotations

from typing import Any

from rich.text import Text

# Every character outside ASCII that the report's own texts use, one for one, so that styled spans stay in place.
_ASCII = str.maketrans("✓✗●±–µ×…", "+x*+-ux.")


def clean(text: Any) -> str:
    """A name or message as one printable line: control characters (escape sequences) become "?"."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in str(text))


def to_ascii(text: Text) -> Text:
    """The same styled text in ASCII; what has no stand-in becomes "?"."""
    plain = text.plain.translate(_ASCII).encode("ascii", "replace").decode()
    return Text(plain, style=text.style, spans=text.spans)
