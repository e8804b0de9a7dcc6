"""What was measured of random networks, kept: a second search, or one that was interrupted, measures only the rest.

    <store>/latency/<conditions>/<digest>.json

A folder is one kind of measurement: device, runtime, machine, reference, method. A file is one group of networks,
written whole; each network is known by the fingerprint of its structure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto

from edgekd import artifact
from edgekd.agent.files import sha256
from edgekd.agent.method import Method
from edgekd.agent.sealing import digest_of
from edgekd.dispatch import placing
from edgekd.dispatch.placing import Place
from edgekd.errors import DeviceError
from edgekd.search.timing import PERCENTILE, Timed, Timing

FOLDER = "latency"
_MACHINE = ("machine", "cpu", "architecture", "flags", "online_cores", "affinity")


def fingerprint(model: ModelProto) -> str:
    """Return the digest of all that decides how long a network takes: everything but the values of its weights."""
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    for tensor in bare.graph.initializer:
        if tensor.data_type != TensorProto.INT64:  # those say shapes
            for values in ("raw_data", "float_data", "int32_data", "double_data"):
                tensor.ClearField(values)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def conditions(name: str, place: Place, reference: Path, batch: int, method: Method) -> dict[str, Any]:
    """Return all that measurements must have in common to be of one kind.

    Raises:
        DeviceError: the device cannot be reached, or its runtime does not work.
    """
    device = place.device
    found = placing.probe(name, device)
    runtime = found["backends"].get(device.backend) or {"error": f"the agent there has no backend {device.backend!r}"}
    if "error" in runtime:
        raise DeviceError(f"device {name}: {runtime['error']}")
    return {
        "backend": device.backend,
        "options": dict(device.options),
        "precisions": list(device.precisions),
        "cores": None if device.cores is None else list(device.cores),
        "runtime": runtime,
        "machine": {key: found["environment"].get(key) for key in _MACHINE},
        "reference": sha256(reference),
        "batch_size": batch,
        "method": asdict(method),
        "percentile": PERCENTILE,
    }


def folder(store: Path, under: Mapping[str, Any]) -> Path:
    """Return where measurements under some conditions are kept."""
    return store / FOLDER / digest_of(under)[:32]


def read(kept: Path) -> Timing:
    """Return what is kept in a folder, networks by fingerprint; a file that is not whole counts as absent."""
    networks: dict[str, Timed] = {}
    floors = [0.0]
    for path in sorted(kept.glob("*.json")):
        try:
            text = path.read_text(encoding="utf-8")
            if path.stem != _name(text):
                continue
            content = json.loads(text)
            own = {str(key): Timed(**of) for key, of in content["networks"].items()}
            floors.append(float(content["noise_floor"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        networks |= own
    return Timing(networks, max(floors))


def keep(kept: Path, timing: Timing, under: Mapping[str, Any]) -> None:
    """Add a group of networks, named by their fingerprints, in one file that is there whole or not at all."""
    kept.mkdir(parents=True, exist_ok=True)
    content = {
        "conditions": dict(under),
        "noise_floor": timing.noise_floor,
        "networks": {name: asdict(timed) for name, timed in timing.networks.items()},
    }
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    artifact.write_text(kept / f"{_name(text)}.json", text)


def _name(text: str) -> str:
    """Return the name of a file by what it holds: one that is damaged has another."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
