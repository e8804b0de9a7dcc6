"""Engines that were built on this device are kept, and are taken again only where nothing has changed.

An engine fits one GPU, one release of TensorRT, CUDA and L4T, and one ONNX file with the files that hold its weights;
loading it runs code that is in it. So the name of a kept engine is a digest of all that, what is kept is checked by its
SHA-256 before TensorRT sees it, the folder must belong to this user alone, and whatever does not fit is built again.
Engines are never copied to or from another machine. EDGEKD_ENGINE_CACHE moves the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Optional

from edgekd.agent import building, cudart, jetson, nvinfer
from edgekd.agent.building import Built, Recipe, Report
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_json, replacing, sha256, write_json
from edgekd.agent.root import ROOT
from edgekd.agent.weights import external

# Raised when `building` sets up the builder in another way: engines from before are then built again.
_REVISION = 1
_MOST_ENGINES = 40
_MOST_BYTES = 4 << 30
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Engine:
    """A serialized engine and what is known of it.

    Attributes:
        plan: What TensorRT's runtime loads.
        facts: What `building` told of it, with "cached" (whether it was there already) and "plan_bytes".
    """

    plan: bytes
    facts: Dict[str, Any]


def folder() -> Path:
    """Return the folder of the kept engines, made if need be.

    Raises:
        AgentError: It cannot be made, or others can write to it.
    """
    explicit = os.environ.get("EDGEKD_ENGINE_CACHE")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(explicit) if explicit else cache / "edgekd" / "engines"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise AgentError(
            "engines cannot be kept in %s (%s); EDGEKD_ENGINE_CACHE may name another folder" % (path, error.strerror)
        ) from error
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise AgentError(
            "others can write to %s, and loading an engine runs code that is in it: chmod 700 it, or let "
            "EDGEKD_ENGINE_CACHE name a folder of this user's own" % path
        )
    return path


def identity(recipe: Recipe) -> Dict[str, Any]:
    """Return everything that a kept engine must agree in to be used again."""
    choices = {**asdict(recipe), "flags": list(recipe.flags)}
    choices.pop("source")
    choices["shapes"] = None if recipe.shapes is None else {name: list(recipe.shapes[name]) for name in recipe.shapes}
    return {
        "revision": _REVISION,
        "onnx": sha256(recipe.source),
        "weights": _weights(recipe.source),
        **choices,
        **platform(),
    }


def _weights(source: Path) -> Dict[str, str]:
    """Return the SHA-256 of each file that holds weights of an ONNX file, by the name that it has there.

    Raises:
        AgentError: One is missing, or the ONNX file is none.
    """
    files = {name: source.parent / name for name in external(source)}
    for name, file in files.items():
        if not file.is_file():
            raise AgentError("%s has weights in %r, which is not beside it" % (source, name))
    return {name: sha256(file) for name, file in files.items()}


def platform() -> Dict[str, str]:
    """Return what ties an engine to this device: the releases of its software, and its GPU."""
    cuda = cudart.load()
    release = ROOT / "etc/nv_tegra_release"
    line = release.read_text(encoding="utf-8", errors="replace").strip() if release.is_file() else ""
    return {
        "tensorrt": nvinfer.version(),
        "cuda": cuda.runtime_version(),
        "gpu": cuda.device_name(),
        "compute_capability": cuda.compute_capability(),
        "l4t": line or jetson.l4t(ROOT) or "",
    }


def obtain(recipe: Recipe, keep: bool, report: Report) -> Engine:
    """Return a kept engine, or build one and keep it; with `keep` false build it, and leave nothing behind.

    Raises:
        AgentError: It cannot be built, or not be kept.
    """
    if not keep:
        return _engine(building.build(recipe, b"", report))
    wanted = identity(recipe)
    place = folder() / (_digest(wanted) + ".plan")
    return _kept(place, wanted) or _build(recipe, place, wanted, report)


def _kept(place: Path, wanted: Dict[str, Any]) -> Optional[Engine]:
    """Read an engine that is whole and is what its name says."""
    try:
        meta = read_json(_meta(place))
        plan = place.read_bytes()
    except (AgentError, OSError):
        return None  # never built, removed, or cut short
    if not isinstance(meta, dict) or meta.get("identity") != wanted:
        return None
    if meta.get("plan_sha256") != hashlib.sha256(plan).hexdigest():
        return None
    with suppress(OSError):  # the oldest are removed first, by when they were used last
        os.utime(str(place))
    return Engine(plan, {**meta["facts"], "cached": True, "plan_bytes": len(plan)})


def _build(recipe: Recipe, place: Path, wanted: Dict[str, Any], report: Report) -> Engine:
    timing_file = place.with_name("timings-%s.cache" % _digest(platform()))
    built = building.build(recipe, _read_timings(timing_file), report)
    try:
        with replacing(place) as stream:
            stream.write(built.plan)
        digest = hashlib.sha256(built.plan).hexdigest()
        write_json(_meta(place), {"identity": wanted, "plan_sha256": digest, "facts": built.facts})
        # Another process may have added to the timings while this one built.
        _write_timings(timing_file, building.merged_timings(built.timings, _read_timings(timing_file)))
        _remove_oldest(place)
    except OSError as error:
        raise AgentError(
            "the engine cannot be kept in %s (%s); EDGEKD_ENGINE_CACHE may name a folder with more room"
            % (place.parent, error.strerror)
        ) from error
    return _engine(built)


def _engine(built: Built) -> Engine:
    return Engine(built.plan, {**built.facts, "cached": False, "plan_bytes": len(built.plan)})


def _meta(place: Path) -> Path:
    return place.with_suffix(".json")


def _digest(document: Dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode("utf-8")).hexdigest()


def _read_timings(path: Path) -> bytes:
    """Read a timing cache; b"" if there is none or it is damaged: its digest comes before it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    digest, timings = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return timings if hashlib.sha256(timings).digest() == digest else b""


def _write_timings(path: Path, timings: bytes) -> None:
    with replacing(path) as stream:
        stream.write(hashlib.sha256(timings).digest() + timings)


def _remove_oldest(newest: Path) -> None:
    """Keep the engines that were used last, as many as the bounds allow, and in any case the newest."""
    plans = []
    for plan in newest.parent.glob("*.plan"):
        with suppress(FileNotFoundError):  # another process removes it at this moment
            plans.append((plan == newest, plan.stat().st_mtime, plan.stat().st_size, plan))
    total = 0
    for index, (is_newest, _, size, plan) in enumerate(sorted(plans, reverse=True)):
        total += size
        if not is_newest and (index >= _MOST_ENGINES or total > _MOST_BYTES):
            _meta(plan).unlink(missing_ok=True)
            plan.unlink(missing_ok=True)
