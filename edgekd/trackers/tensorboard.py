"""TensorBoard: the curves of every training, as event files in the run's folder, `tensorboard/STEP`.

While the run works they are in the store, `logs/RUN.tensorboard`. An address is a folder; then they are there, under
the run's name, and stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from edgekd import trackers
from edgekd.trackers import Run, Told

FOLDER = "tensorboard"


def open_board(address: str, run: Run) -> TensorBoard:
    """Return a board for a run."""
    folder = Path(address) / run.run_id if address else run.log.with_suffix(f".{FOLDER}")
    return TensorBoard(folder, run, stays=bool(address))


class TensorBoard:
    """A folder of event files."""

    def __init__(self, folder: Path, run: Run, *, stays: bool) -> None:
        self._folder, self._run, self._stays = folder, run, stays
        self._writers: dict[str, EventFileWriter] = {}
        self._told = Told()

    def hear(self, event: str, line: Mapping[str, Any]) -> None:
        """Take a line of the run's log."""
        if event == "epoch":
            self._write(line, trackers.of_epoch(line))
        elif event == "step":
            self._write(line, trackers.curves(line["step"], self._run.artifact(line).facts))

    def end(self, folder: Path | None) -> None:
        """Close the files, and move them into the run's folder."""
        for writer in self._writers.values():
            writer.close()
        if folder is not None and self._writers and not self._stays:
            shutil.move(self._folder, folder / FOLDER)

    def _write(self, line: Mapping[str, Any], points: Iterable[tuple[str, int, float]]) -> None:
        step, time = line["step"], trackers.seconds(line)
        for name, epoch, value in self._told.new(step, points):
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            self._writer(step).add_event(Event(wall_time=time, step=epoch, summary=summary))
        if step in self._writers:
            self._writers[step].flush()

    def _writer(self, step: str) -> EventFileWriter:
        if step not in self._writers:
            self._writers[step] = EventFileWriter(str(self._folder / step.replace("/", "_")))
        return self._writers[step]
