"""The process of a tracker: `python -m edgekd.tracking`, which is told by its standard input what to follow.

The first line is what `edgekd.tracking` orders; the second, at the end of the run, its folder, or nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

from edgekd.trackers import Board, Run
from edgekd.tracking.following import batches

NICENESS = 19


def main() -> None:
    """Follow a run to its end."""
    os.nice(NICENESS)
    order = json.loads(sys.stdin.readline())
    run = Run(order["run_id"], Path(order["store"]), Path(order["log"]), order["recipe"], Path(order["signs"]))
    board: Board | None = None
    for lines in batches(run.log, lambda: os.getppid() == order["parent"]):
        if board is None:  # what it needs takes seconds to import, and waits while a device is measured
            module = importlib.import_module(f"edgekd.trackers.{order['tracker']}")
            run.sign()
            board = module.open_board(order["address"], run)
        for line in lines:
            board.hear(line["event"], line)
            run.sign()
    folder = sys.stdin.readline().strip()
    if board is not None:
        board.end(Path(folder) if folder else None)


if __name__ == "__main__":
    main()
