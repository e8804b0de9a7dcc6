"""What changed between two states of a device that can make a measurement wrong."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping

_COMPARED = ("governor", "frequency_limits_mhz", "power_mode", "affinity", "cpu_quota", "online_cores", "kernel")
_HOTTER_C = 10.0
_LESS_MEMORY = 0.5
_SLOWER = 0.7

State = Mapping[str, Any]


def changes(before: State, after: State) -> List[str]:
    """Return in words what changed between two results of `environment.snapshot`."""
    if _differ(before, after, "boot_id"):
        return ["the device was started again: nothing before and after is comparable"]
    found = [
        "%s: %s -> %s" % (name, _short(before.get(name)), _short(after.get(name)))
        for name in _COMPARED
        if before.get(name) != after.get(name)
    ]
    found += _throttled(_numbers(before, "throttle_counts"), _numbers(after, "throttle_counts"))
    found += _held_back(_numbers(before, "cooling"), _numbers(after, "cooling"))
    found += _hotter(_numbers(before, "temperature_c"), _numbers(after, "temperature_c"))
    found += _slower(_numbers(before, "frequency_mhz"), _numbers(after, "frequency_mhz"))
    found += _less_memory(_numbers(before, "memory_bytes"), _numbers(after, "memory_bytes"))
    return found


def _throttled(before: Dict[str, float], after: Dict[str, float]) -> Iterator[str]:
    for name, count in after.items():
        if count > before.get(name, count):
            kind = "over-current" if name.endswith("_event_cnt") else "thermal"
            yield "throttled (%s): %s %d -> %d" % (kind, name, before[name], count)


def _held_back(before: Dict[str, float], after: Dict[str, float]) -> Iterator[str]:
    """A level is no counter: one that is up at either end was up during the measurement."""
    for name, level in after.items():
        if level > 0 or before.get(name, 0) > 0:
            yield "held back because of heat: %s at level %d, then %d" % (name, before.get(name, 0), level)


def _hotter(before: Dict[str, float], after: Dict[str, float]) -> Iterator[str]:
    for name, degrees in after.items():
        if degrees - before.get(name, degrees) >= _HOTTER_C:
            yield "temperature of %s: %.0f -> %.0f degC" % (name, before[name], degrees)


def _slower(before: Dict[str, float], after: Dict[str, float]) -> Iterator[str]:
    """Single cores go up and down with what they do; the fastest one is about where this process runs."""
    for name in sorted({key for key in after if not key.startswith("cpu")} | {"cpu"}):
        had, has = (_fastest(clocks, name) for clocks in (before, after))
        if has < _SLOWER * had:
            yield "clock of the %s: %.0f -> %.0f MHz" % (name, had, has)


def _fastest(clocks: Dict[str, float], name: str) -> float:
    """Return the clock of this name; of all cores for "cpu"; 0 where there is none."""
    found = [clock for key, clock in clocks.items() if key == name or (name == "cpu" and key.startswith("cpu"))]
    return max(found, default=0.0)


def _less_memory(before: Dict[str, float], after: Dict[str, float]) -> Iterator[str]:
    had, has = before.get("available", 0), after.get("available", 0)
    if has < _LESS_MEMORY * had:
        yield "available memory: %d -> %d MB" % (had // 10**6, has // 10**6)


def _numbers(state: State, name: str) -> Dict[str, float]:
    return state.get(name) or {}


def _differ(before: State, after: State, name: str) -> bool:
    """Return whether both states know a value, and not the same one."""
    return None not in (before.get(name), after.get(name)) and before[name] != after[name]


def _short(value: Any) -> str:
    return "unknown" if value is None else str(value)
