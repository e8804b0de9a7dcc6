"""What a run looks like on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from edgekd.cli.display import showing


def test_what_a_device_says_is_no_markup() -> None:
    """`[cpu]` is a name, and a closing tag in a message of a board is no error."""
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with showing(console) as show:
        show.say("measure[cpu]   failed: there is no [/usr/bin/python3] there")
        show.working("measure[far]")(1, 2, "latency [/x]")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "measure[cpu]   failed: there is no [/usr/bin/python3] there" in shown
    assert "measure[far]" in shown
    assert "latency [/x]" in shown
