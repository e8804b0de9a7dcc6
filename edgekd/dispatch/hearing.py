"""What an agent tells while it measures, here or over ssh, and what its end means."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from typing import Any

from edgekd.stage import Progress

LAST_LINES = 5


@dataclass
class Hearing:
    """Listens to an agent's events.

    Args:
        progress: is shown how far it is.
        doing: what it was at when it last told.
        message: the agent's own error, if it told one.
        done: whether it said that it has finished.
    """

    progress: Progress
    doing: str = ""
    message: str = ""
    done: bool = False

    def take(self, line: str) -> dict[str, Any]:
        """Hear one line and return its event; other text is nobody's message, and gives an empty one."""
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return {}
        if not isinstance(event, dict):
            return {}
        kind, done, total = event.get("event"), event.get("done"), event.get("total")
        if kind == "progress" and isinstance(done, int) and isinstance(total, int):
            self.doing = plain(f"{event.get('phase', '')} {event.get('detail', '')}").strip()
            self.progress(done, total, self.doing)
        elif kind == "error":
            lines = str(event.get("message", "")).splitlines()
            self.message = "\n".join(map(plain, lines)) or "the agent failed without a word"
        elif kind == "done":
            self.done = True
        return event


def ending(code: int | None, log: str) -> str:
    """Return in words how an agent without a message of its own ended.

    Args:
        code: its exit code, negative for a signal; None where nobody saw its end.
        log: what it wrote besides its events.
    """
    if code is None:
        how = "is gone: it was killed, perhaps for lack of memory, or the device was restarted"
    elif code == -signal.SIGKILL:
        how = "was killed, perhaps for lack of memory"
    elif code < 0:
        names = {one.value: one.name for one in signal.Signals}
        how = f"was killed by {names.get(-code, f'signal {-code}')}"
    else:
        how = f"ended with exit code {code}"
    words = last_lines(log)
    return f"the agent {how}" + (f"; its last words: {words}" if words else "")


def too_long(timeout_s: float, doing: str) -> str:
    """Return the message for an agent that was ended because it took too long.

    Args:
        doing: what it was at, which may be what hangs.
    """
    at = f"; it was at: {doing}" if doing else ""
    return f"the agent was ended after {timeout_s / 60:g} minutes (measure.timeout_minutes in the recipe){at}"


def last_lines(log: str) -> str:
    """Return the last lines of what a program wrote, as one line."""
    return " | ".join(map(plain, log.strip().splitlines()[-LAST_LINES:]))


def plain(text: object) -> str:
    """Return text from a device without what would move a terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in str(text))
