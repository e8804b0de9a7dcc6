"""The log of a run while it works: everything that it tells goes there too, and ends up in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from edgekd import error_codes, rundir, tracking
from edgekd.artifact import Store
from edgekd.dispatch.measurement import Outcome
from edgekd.log import Log, path_of, seldom
from edgekd.making import Show
from edgekd.plan import Planned
from edgekd.recipe import Recipe
from edgekd.report import build
from edgekd.stage import Judged, Progress
from edgekd.trackers import Run
from edgekd.tracking import Tracker


@dataclass(frozen=True)
class Record:
    """A run that is logged.

    Args:
        run_id: its identity, the name of its folder and of its log.
        show: what the run tells goes here: it is shown, and logged.
        store: the store, whose warnings are logged too.
        trackers: what follows the run by its log.
    """

    run_id: str
    started: datetime
    log: Log
    show: Show
    store: Store
    trackers: Sequence[Tracker] = ()

    def target(self, out: Path | str | None) -> Path:
        """Return where the run's folder shall be: where it was asked for, else `runs/` in the store."""
        return Path(out) if out is not None else self.store.root / "runs" / self.run_id

    def planned(self, steps: Sequence[Planned]) -> None:
        """Note which steps are cached, and why the others run."""
        for one in steps:
            self.show.note("planned", {"step": one.step.label, "cached": bool(one.artifact), "why": one.reason})

    def measured(self, outcomes: Mapping[str, Outcome]) -> None:
        """Note what became of each device's measurement."""
        for name, found in outcomes.items():
            told = {"error": found.error} if found.error else {"variants": list(found.models)}
            self.show.note("measured", {"device": name, "seconds": found.seconds, **told})

    def judged(self, folder: Path, report: dict[str, Any]) -> None:
        """Finish a run that has a report."""
        verdicts = {name: device["verdict"]["status"] for name, device in report["devices"].items()}
        self.finish(folder, verdicts=verdicts, exit_code=build.exit_code(report))

    def finish(self, folder: Path, **facts: Any) -> None:
        """End the log of a run and what follows it, and put the log into the run's folder."""
        self.log.write("finished", **facts)
        self.ended(folder)
        self.log.keep(folder)

    def ended(self, folder: Path | None = None) -> None:
        """Let the trackers end, and tell which of them failed.

        Args:
            folder: of the run, complete but for its place; None where there is none.
        """
        for problem in tracking.finish(self.trackers, folder):
            _warn(self.show, self.log, f"tracking failed, the run did not: {problem}")


@contextmanager
def recorded(
    store: Store, show: Show, name: str, started: datetime, followed: Recipe | None = None, **facts: Any
) -> Iterator[Record]:
    """Log a run in the store (`edgekd.log`); once it is finished, its folder has the log, and the store no longer.

    Args:
        name: what is run, such as a recipe's name.
        followed: the recipe that says what follows the run.
        facts: what the first line says of the run, besides its command, versions and machine.
    """
    run_id = rundir.new_id(name, started)
    log = Log(path_of(store.root, run_id), show.say)
    log.write("run", run=run_id, **facts, **rundir.host())
    trackers: tuple[Tracker, ...] = ()
    if followed is not None:
        trackers = tracking.start(followed.tracking, Run(run_id, store.root, log.path, followed.resolved()))
    logged = replace(store, warn=lambda text: _warn(show, log, text))
    record = Record(run_id, started, log, _logged(show, log), logged, trackers)
    try:
        yield record
    except BaseException as error:
        log.ended(error, error_codes.code(error))
        record.ended()
        raise
    log.done()


def _logged(show: Show, log: Log) -> Show:
    def say(text: str) -> None:
        show.say(text)
        log.write("message", text=text)

    def working(title: str) -> Progress:
        shown = show.working(title)
        write = seldom(
            lambda done, total, text: log.write(
                "progress", level="debug", work=title, done=done, total=total, text=text
            )
        )

        def update(done: int, total: int, text: str) -> None:
            shown(done, total, text)
            write(done, total, text)

        return update

    def judging(title: str) -> Judged:
        judged = show.judging(title)

        def heard(epoch: int, curves: Mapping[str, float]) -> None:
            log.write("epoch", level="debug", step=title, epoch=epoch, **curves)
            judged(epoch, curves)

        return heard

    def note(event: str, facts: Mapping[str, Any]) -> None:
        show.note(event, facts)
        log.write(event, **facts)

    return replace(show, say=say, working=working, judging=judging, note=note)


def _warn(show: Show, log: Log, text: str) -> None:
    show.say(text)
    log.write("warning", level="warning", text=text)
