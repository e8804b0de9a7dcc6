"""A job for a device that cannot be reached: one zip file that is carried there and measures itself.

`edgekd.agent.bundling` is its other half, on the device.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from edgekd.agent import PROTOCOL
from edgekd.agent.bundling import BUNDLE_FILE, FORMAT, JOB, write_zip
from edgekd.agent.files import read_json, sha256
from edgekd.artifact import storage_error
from edgekd.dispatch.pack import agent_pyz
from edgekd.version import __version__

AGENT, README = "agent.pyz", "README.txt"

_RUNTIMES = {
    "onnxruntime": "ONNX Runtime (pip install onnxruntime)",
    "openvino": "OpenVINO (pip install openvino)",
    "tensorrt": "TensorRT with its Python module (on a Jetson both come with JetPack, for /usr/bin/python3)",
}
"""What each backend needs, for people."""


def write(target: Path, job: Path, *, device: str, run_id: str) -> None:
    """Write a bundle in one step; the same job gives the same bytes.

    Args:
        target: the zip file; an earlier one is replaced.
        job: a folder as `dispatch.job.write` fills it.
        device: the name that run.json has for the device.
        run_id: the run that the result will complete.

    Raises:
        StageError: there is no room, or the folder cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="edgekd-") as temporary:
            agent, readme = Path(temporary) / AGENT, Path(temporary) / README
            agent_pyz(agent)
            readme.write_text(_readme(target.name, device, run_id, read_json(job / "job.json")["backend"]), "utf-8")
            files = {AGENT: agent, README: readme}
            files |= {f"{JOB}/{path.relative_to(job).as_posix()}": path for path in job.rglob("*") if path.is_file()}
            content = {
                "format": FORMAT,
                "device": device,
                "run_id": run_id,
                "edgekd": __version__,
                "protocol": PROTOCOL,
                "files": {name: sha256(files[name]) for name in sorted(files)},
            }
            write_zip(target, {**files, BUNDLE_FILE: json.dumps(content, indent=1).encode() + b"\n"})
    except OSError as error:
        raise storage_error(f"the bundle {target}", str(target.parent), error) from error


def _readme(name: str, device: str, run_id: str, backend: str) -> str:
    substitute = f"""
There is no {backend} where you are? This measures with ONNX Runtime (pip install onnxruntime) on the processor:

    python3 {AGENT} bundle --device cpu

The report then shows a device of its own, cpu; {device} stays without a measurement.
"""
    kept = (
        ".\nEngines are kept in ~/.cache/edgekd/engines, so that each is built once"
        if backend == "tensorrt"
        else ", and nothing outside this folder is changed"
    )
    return f"""{name}: a measurement to be made on the device "{device}"

It belongs to the run {run_id} of edgekd {__version__}, and holds the networks, the samples that they are measured
with, and the program that measures them. Nothing is installed{kept}.

Needed on the device
    Python 3.8 or newer
    numpy
    {_RUNTIMES.get(backend, backend)}

1. Unzip this file there, into any folder; in that folder:

       python3 {AGENT} bundle

   Nothing else should run on the device meanwhile. It writes result.zip.

2. Bring result.zip to the machine that has the run (RUN is the run's folder) and add it:

       edgekd report RUN --add result.zip
{substitute if backend != "onnxruntime" else ""}"""
