"""The points of a budget: what was asked, what was found, and whether it holds as measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from edgekd.report import roles
from edgekd.report.schema import Name, Part, Positive, checked
from edgekd.report.verdict import FAILED, NOT_MEASURED, PASSED, judge

SpeedUps = dict[Name, dict[Name, Positive]]
"""By device and precision."""


class Finalist(Part):
    """A network that the search looked at. `validation`: its score after the short training."""

    widths: dict[Name, Annotated[int, Field(gt=0)]]
    blocks: tuple[Name, ...]
    how: str
    predicted: SpeedUps
    measured: SpeedUps
    validation: float | None
    missed: tuple[str, ...] | None


class Point(Part):
    """A point of a budget. `refused`: why no network holds its limits; the one that is there missed fewest."""

    devices: tuple[Name, ...]
    limits: dict[Name, float | bool]
    refused: str | None
    prune: dict[str, Any]
    predicted: SpeedUps
    finalists: tuple[Finalist, ...]


class Errors(Part):
    """How far predicted latencies were off on networks that were held out (`search.regression.Errors`)."""

    mape: float
    within_10: float
    spearman: float
    networks: int


class Budget(Part):
    """What run.json says of a budget. `latency_model`: by device and kind of network, where one was learned."""

    points: dict[Name, Point]
    latency_model: dict[Name, dict[Name, Errors]] = Field(default_factory=dict)


def read(content: Mapping[str, Any]) -> Budget | None:
    """Return the budget of a run, or None where it has none.

    Raises:
        EdgekdError: it is not what a run writes.
    """
    return None if content.get("budget") is None else checked(content["budget"], Budget, "run.json: budget")


def verdicts(name: str, device: Mapping[str, Any], budget: Budget, reference: str | None) -> dict[str, dict[str, Any]]:
    """Return the verdict on each point that is for a device, on the point's own variants."""
    found = {}
    for point, asked in budget.points.items():
        if name in asked.devices:
            own = {**device, "variants": roles.of_point(device["variants"], point, reference)}
            verdict = judge(own, gates=asked.limits, reference=reference)
            found[point] = verdict | ({"why": f"refused: {asked.refused}"} if asked.refused else {})
    return found


def together(verdicts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return one verdict for several points: as bad as the worst, with what the first that holds recommends."""
    statuses = {one["status"] for one in verdicts.values()}
    chosen = [one["recommended"] for one in verdicts.values() if one["status"] == PASSED and one["recommended"]]
    best = [one["best"] for one in verdicts.values() if one["best"]]
    return {
        "status": next((status for status in (FAILED, NOT_MEASURED) if status in statuses), PASSED),
        "gates": [],
        "recommended": next(iter(chosen), None),
        "best": next(iter(chosen or best), None),
        "missed": list(dict.fromkeys(gate for one in verdicts.values() for gate in one["missed"])),
        "why": "; ".join(f"{point}: {one['why']}" for point, one in verdicts.items()),
        "candidates": [candidate for one in verdicts.values() for candidate in one["candidates"]],
        "remarks": list(dict.fromkeys(remark for one in verdicts.values() for remark in one["remarks"])),
    }


def verdicts_of(name: str, device: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what is judged of a device by title: each point of a budget, else the device."""
    points = device.get("points") or {}
    return {f"{name} · {point}": verdict for point, verdict in points.items()} or {name: device["verdict"]}


def rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each point on each of its devices: what was asked, predicted, and measured."""
    found = []
    for point, asked in (report.get("budget") or {"points": {}})["points"].items():
        for name in asked["devices"]:
            device = report["devices"].get(name)
            if device is None:
                continue
            verdict = (device.get("points") or {}).get(point) or device["verdict"]
            variant = device["variants"].get(verdict["best"])
            found.append({
                "point": point,
                "device": name,
                "limits": ", ".join(f"{gate} {limit:g}" for gate, limit in asked["limits"].items()),
                "predicted": max(asked["predicted"].get(name, {}).values(), default=None),
                "variant": verdict["best"],
                "measured": variant["speedup"] if variant else None,
                "measured_ci": variant["speedup_ci"] if variant else None,
                "drop_pp": variant["drop_pp"] if variant else None,
                "drop_pp_ci": variant["drop_pp_ci"] if variant else None,
                "gain": (device.get("point_gains_pp") or {}).get(point),
                "status": verdict["status"],
                "refused": asked["refused"],
            })  # fmt: skip
    return found


def predictions(report: Mapping[str, Any], name: str) -> list[tuple[float, float]]:
    """Return (speed-up, drop in pp) of the finalists of a budget on a device, as predicted, after a short training."""
    best = report["devices"][name]["variants"][report["reference"]]["validation"]["accuracy"]
    return [
        (max(one["predicted"][name].values()), 100 * (best - one["validation"]))
        for point in report["budget"]["points"].values()
        for one in point["finalists"]
        if best is not None and one["validation"] is not None and one["predicted"].get(name)
    ]


def recipe_line(point: Mapping[str, Any]) -> str:
    """Return what makes the network of a point in an ordinary recipe."""
    prune = point["prune"]
    widths = ", ".join(f"{name}: {width}" for name, width in prune["widths"].items())
    blocks = f", blocks: [{', '.join(prune['blocks'])}]" if prune["blocks"] else ""
    return (
        f"prune: {{widths: {{{widths}}}{blocks}, importance: {prune['importance']}, epochs: {prune['epochs']}, "
        f"learning_rate: {prune['learning_rate']:g}}}"
    )
