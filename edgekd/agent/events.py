"""What the agent tells the host that runs it: one JSON object per line on standard output.

{"event": "progress", "phase", "done", "total", "detail"}, and last {"event": "done"} (exit code 0) or
{"event": "error", "message"} (exit code 1; 130 when interrupted). What runtimes print ends in the children's logs.
"""

from __future__ import annotations

import json
from typing import Any, Callable

from edgekd.agent.errors import AgentError


def reported(work: Callable[[], object]) -> int:
    """Do a work and tell how it ended; return the exit code."""
    try:
        work()
    except AgentError as error:
        emit(event="error", message=str(error))
        return 1
    except KeyboardInterrupt:
        emit(event="error", message="interrupted")
        return 130
    emit(event="done")
    return 0


def progress(phase: str, done: int, total: int, detail: str) -> None:
    """Tell how far a work is."""
    emit(event="progress", phase=phase, done=done, total=total, detail=detail)


def emit(**event: Any) -> None:
    """Write one event."""
    print(json.dumps(event), flush=True)
