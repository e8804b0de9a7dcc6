"""What zero weights gained, as measured: size where the file is compressed, and time where the runtime makes any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgekd.report import units
from edgekd.report.latency import comparison
from edgekd.report.precisions import made_from

FEWEST_MORE = 0.01
"""Zeros more than the reference has, as a share of the weights, from which on a variant is spoken of."""

Variant = Mapping[str, Any]


def sentences(device: Mapping[str, Any], reference: str | None) -> list[str]:
    """What each sparse variant of a device gained; nothing in a run that did not look for zeros."""
    variants: Mapping[str, Variant] = device["variants"]
    usual = (variants[reference]["zero_share"] or 0.0) if reference is not None and reference in variants else 0.0
    return [
        f"{name}: {units.percent(variant['zero_share'], 1)} of the weights are zero; {'; '.join(_gains(name, device))}"
        for name, variant in variants.items()
        if (variant["zero_share"] or 0.0) >= usual + FEWEST_MORE and not variant["error"]
    ]


def _gains(name: str, device: Mapping[str, Any]) -> Iterator[str]:
    variants: Mapping[str, Variant] = device["variants"]
    variant, origin = variants[name], made_from(name, variants)
    if variant["size_bytes"] and variant["compressed_bytes"]:
        beside = variants[origin]["compressed_bytes"] if origin else None
        packed = f"{units.size(variant['size_bytes'])} as a file, {units.size(variant['compressed_bytes'])} compressed"
        yield packed + (f" ({origin}: {units.size(beside)})" if beside else "")
    found = _faster(name, origin, device) if origin else None
    if origin is None or found is None:
        yield "time was not measured beside what it was made from"
    elif found[1]:
        yield f"no time gained: no difference from {origin} was measured"
    else:
        told = f"{units.times(found[0])} {'faster than' if found[0] >= 1 else 'the speed of'} {origin}"
        yield told + _fewer(variant, variants[origin])


def _faster(name: str, origin: str, device: Mapping[str, Any]) -> tuple[float, bool] | None:
    """How many times faster it is than another one, and whether that is no difference."""
    pair, variant = comparison(name, origin, device), device["variants"][name]
    if pair is not None:
        return pair["ratio"] if pair["faster"] == name else 1 / pair["ratio"], bool(pair["no_difference"])
    # The reference is compared with by the speed-up alone.
    if device["variants"][origin]["speedup"] == 1.0 and variant["speedup"] is not None:
        return variant["speedup"], bool(variant["no_difference"])
    return None


def _fewer(variant: Variant, origin: Variant) -> str:
    """What else may have gained the time: less to compute."""
    if not (variant["macs"] and origin["macs"] and variant["macs"] < origin["macs"]):
        return ""
    return f", with {units.percent(variant['macs'] / origin['macs'], 0)} of its multiply-accumulates"
