"""The measurements of a run: each device's job is written, done by an agent, and what comes back is kept."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from edgekd.address import parse
from edgekd.dispatch import bundle, external, job, local, ssh, variants
from edgekd.dispatch.job import Order
from edgekd.dispatch.placing import Place, bundle_name
from edgekd.dispatch.remote import RemoteError
from edgekd.errors import EdgekdError
from edgekd.stage import Progress

Working = Callable[[str], Progress]


@dataclass(frozen=True)
class Outcome:
    """What became of one device's measurement.

    Args:
        error: None, or what run.json says of a device that gave no measurement: {"kind", "message"}.
        seconds: how long it took.
        models: the run's own file of every variant that was to be measured.
        refused: why variants were not sent, by variant.
        remarks: what a reader should know of the files that were sent.
    """

    error: dict[str, str] | None
    seconds: float
    models: Mapping[str, Path] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Dispatch:
    """How the measurements of a run are carried out.

    Args:
        folder: of the run; measurements go to `measurements/<device>`, bundles beside run.json.
        run_id: of the run; a bundle's result is known by it.
        keep: leave what was copied to devices over ssh there.
        say: takes a line.
        working: a long piece of work begins; returns what takes its progress.
        verify: raises an EdgekdError for a measurement that no report can be made of.
    """

    folder: Path
    run_id: str
    keep: bool = False
    say: Callable[[str], None] = lambda text: None
    working: Working = lambda title: lambda done, total, text: None
    verify: Callable[[Path], object] = lambda measurement: None


def take_all(dispatch: Dispatch, orders: Sequence[Order], places: Mapping[str, Place]) -> dict[str, Outcome]:
    """Measure all devices: those here one after the other, then all others at once (one machine never does two jobs).

    Returns:
        The outcomes by device, in the order of `orders`.
    """
    by_machine: dict[str, list[Order]] = {}
    here = []
    for order in orders:
        place = places[order.name]
        if place.where == "ssh":
            by_machine.setdefault(parse(str(place.device.address)).host, []).append(order)
        else:
            here.append(order)
    found = {order.name: _take(dispatch, order, places[order.name], None) for order in here}
    cancel = threading.Event()

    def one_machine(several: Sequence[Order]) -> None:
        for order in several:
            found[order.name] = _take(dispatch, order, places[order.name], cancel)

    with ThreadPoolExecutor(max(1, len(by_machine))) as pool:
        try:
            list(pool.map(one_machine, by_machine.values()))
        except BaseException:  # an interrupt too: the agents on the devices end with this run
            cancel.set()
            raise
    return {order.name: found[order.name] for order in orders}


def _take(dispatch: Dispatch, order: Order, place: Place, cancel: threading.Event | None) -> Outcome:
    """Measure one device; `measurements/<device>` is there afterwards only if that succeeded."""
    out = dispatch.folder / "measurements" / order.name
    out.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    error = None
    # Beside the measurement: what a killed run leaves goes with its unfinished folder.
    with tempfile.TemporaryDirectory(prefix=".job-", dir=out.parent) as temporary:
        folder = Path(temporary) / "job"
        builds = variants.expand(order.device, order.models, Path(temporary))
        refused = {name: build.refused for name, build in builds.items() if build.refused}
        sent = {name: build for name, build in builds.items() if not build.refused}
        if sent:
            job.write(folder, order, sent)
            error = _measured(dispatch, order, place, folder, out, cancel)
        else:
            error = {"kind": "failed", "message": "; ".join(f"{name}: {why}" for name, why in refused.items())}
    models = {name: order.models[build.origin] for name, build in builds.items()}
    remarks = [f"{name}: {remark}" for name, build in builds.items() for remark in build.remarks]
    outcome = Outcome(error, round(time.monotonic() - started, 3), models, refused, remarks)
    told = f"{error['kind']}: {error['message']}" if error else f"done in {outcome.seconds:.1f} s"
    dispatch.say(f"{f'measure[{order.name}]':<24} {told}")
    return outcome


def _measured(
    dispatch: Dispatch, order: Order, place: Place, folder: Path, out: Path, cancel: threading.Event | None
) -> dict[str, str] | None:
    """Have a written job done, and return what went wrong."""
    if place.where == "bundle":
        target = dispatch.folder / bundle_name(order.name)
        bundle.write(target, folder, device=order.name, run_id=dispatch.run_id)
        return {"kind": "pending", "message": _how_to_go_on(place, target.name)}
    progress = dispatch.working(f"measure[{order.name}]")
    timeout_s = order.options.timeout_minutes * 60
    power = order.device.power
    try:
        with ExitStack() as stack:
            if power.command is not None:
                stack.enter_context(external.recording(power.command, out / external.FILE))
            if place.where == "ssh":
                ssh.measure(
                    folder, out, address=parse(str(place.device.address)), python=place.device.python or "python3",
                    timeout_s=timeout_s, keep=dispatch.keep, progress=progress, say=dispatch.say, cancel=cancel,
                )  # fmt: skip
            else:
                local.measure(folder, out, timeout_s=timeout_s, progress=progress, python=place.device.python)
        dispatch.verify(out)
    except EdgekdError as failed:
        shutil.rmtree(out, ignore_errors=True)
        return {"kind": "unreachable" if isinstance(failed, RemoteError) else "failed", "message": str(failed)}
    return None


def _how_to_go_on(place: Place, file: str) -> str:
    why = f"{place.why[0].upper()}{place.why[1:]}"
    return (
        f"{why}. {file} in this run's folder holds all that is needed: unpack it on the "
        "device, run `python3 agent.pyz bundle` there, bring result.zip back, and complete this run with "
        "`edgekd report RUN --add result.zip`"
    )
