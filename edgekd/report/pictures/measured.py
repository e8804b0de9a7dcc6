"""What was measured on a device: accuracy, latency, the front of a budget, power and energy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from edgekd.report import budget, units
from edgekd.report.palette import LIGHT
from edgekd.report.pictures.form import Picture, below, named, point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Device = Mapping[str, Any]
Variants = Mapping[str, Mapping[str, Any]]
Places = Mapping[str, int]


def pictures(report: Mapping[str, Any], name: str, device: Device, places: Places) -> Iterator[Picture]:
    """Yield the plots that a device has figures for."""
    kept = {own: v for own, v in device["variants"].items() if v["accuracy"] is not None and v["latency_ns"]}
    dropped = {own: v for own, v in device["variants"].items() if v["drop_pp"] is not None and v["speedup"] is not None}
    metered = {own: v for own, v in device["variants"].items() if v["energy_j"] is not None}
    trace = device["energy"]["trace"]
    if dropped and device["points"]:
        tried = budget.predictions(report, name)
        paint = partial(_front, dropped, tried, places, report["reference"])
        yield Picture("front", name, "drop against speed-up; grey, as predicted", paint)
    if kept:
        paint = partial(_plane, kept, places, report["metric"], device["batch_size"])
        yield Picture("plane", name, f"{report['metric']} against latency", paint)
    if device["distribution"]:
        yield Picture("distribution", name, "latency distribution", partial(_distribution, device, places))
    if trace and trace["time_s"]:
        title = "power over time" + (f", {device['energy']['scope']}" if device["energy"]["scope"] else "")
        yield Picture("power", name, title, partial(_power, device["energy"], places), size=(8, 4))
    if metered:
        paint = partial(_joules, metered, places)
        yield Picture("joules", name, "joules per inference; hollow, above idling", paint)


def _ticks(show: Callable[[float], str]) -> Callable[[float, float], str]:
    return lambda value, _: "0" if value == 0 else re.sub(r"\.0+ ", " ", show(value))


def _log_durations(axes: Axes, label: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415

    axes.set_xscale("log")
    axes.set_xlabel(label)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 50 else (1,)))
    axes.xaxis.set_major_formatter(_ticks(units.duration))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _plane(variants: Variants, places: Places, metric: str, batch_size: int, axes: Axes) -> None:
    for name, variant in variants.items():
        latency = variant["latency_ns"]
        point(
            axes, (latency["p50"], variant["accuracy"]), places[name], x=latency["p50_ci"], y=variant["accuracy_ci"],
            label=name,
        )  # fmt: skip
    _log_durations(axes, f"latency p50, batch {batch_size}")
    below(axes)
    axes.set_ylabel(metric)
    axes.yaxis.set_major_formatter(_ticks(lambda value: units.percent(value, 1)))


def _front(
    variants: Variants, tried: list[tuple[float, float]], places: Places, reference: str, axes: Axes
) -> None:  # fmt: skip
    if tried:
        axes.plot(*zip(*tried, strict=True), "o", color="#8a8f98", alpha=0.5, markersize=4)
    for name, variant in variants.items():
        at = (variant["speedup"], variant["drop_pp"])
        point(axes, at, places[name], x=variant["speedup_ci"], y=variant["drop_pp_ci"], label=name)
    axes.set_xlim(left=0)
    below(axes)
    axes.set_xlabel(f"speed-up over {named(reference)}", parse_math=False)
    axes.set_ylabel("drop, pp")


def _distribution(device: Device, places: Places, axes: Axes) -> None:
    shown = [p for p in device["distribution"]["probabilities"] if p < 1]
    for name, quantiles in device["distribution"]["latency_ns"].items():
        axes.plot(quantiles[: len(shown)], shown, color=LIGHT[places[name]], linewidth=1.6, label=named(name))
    starts = [quantiles[0] for quantiles in device["distribution"]["latency_ns"].values()]
    ends = [device["variants"][name]["latency_ns"]["p99"] for name in device["distribution"]["latency_ns"]]
    axes.set_xlim(min(starts) / 1.05, 1.15 * max(ends))
    axes.set_ylim(0, 1)
    _log_durations(axes, "latency of a call")
    axes.set_ylabel("share of calls")
    axes.yaxis.set_major_formatter(_ticks(lambda value: units.percent(value, 0)))
    below(axes)


def _power(energy: Mapping[str, Any], places: Places, axes: Axes) -> None:
    named_already: set[str] = set()
    for window in energy["windows"]:
        variant, span = window["variant"], (window["start_s"], window["end_s"])
        colour = "#5d636b" if variant is None else LIGHT[places[variant]]
        if window["rejected"]:
            axes.axvspan(*span, fill=False, edgecolor=colour, linestyle="--", linewidth=0.8)
            continue
        label = named(variant) if variant is not None and variant not in named_already else None
        axes.axvspan(*span, color=colour, alpha=0.07 if variant is None else 0.24, linewidth=0, label=label)
        named_already.add(variant)
    watts = [float("nan") if value is None else value for value in energy["trace"]["power_w"]]
    axes.plot(energy["trace"]["time_s"], watts, color="#1c1e21", linewidth=0.9)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds since the first window")
    axes.yaxis.set_major_formatter(_ticks(units.power))
    if named_already - {None}:
        below(axes)


def _joules(variants: Variants, places: Places, axes: Axes) -> None:
    for row, (name, variant) in enumerate(variants.items()):
        detail = variant["energy_detail"]
        point(axes, (variant["energy_j"], row), places[name], x=variant["energy_j_ci"])
        if detail["dynamic_j"] is not None:
            at = (detail["dynamic_j"], row + 0.3)
            point(axes, at, places[name], x=detail["dynamic_j_ci"], hollow=True)
    axes.set_yticks(range(len(variants)), [named(name) for name in variants], parse_math=False)
    axes.set_ylim(len(variants) - 0.4, -0.4)
    axes.set_xlim(left=min(0, axes.get_xlim()[0]))
    axes.xaxis.set_major_formatter(_ticks(units.energy))
