"""The folder of a run: what was measured, raw, with all that a report is made of."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import sealing
from edgekd.agent.sealing import digest_of
from edgekd.artifact import Artifact, file_digest, storage_error
from edgekd.data import Data
from edgekd.errors import UsageError
from edgekd.log import without_secrets
from edgekd.steps import Step
from edgekd.version import __version__

RUN_FILE = "run.json"
SCHEMA = 1
_MARK = "unfinished"
_PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "torch", "torchao", "torch-pruning", "accelerate")


def new_id(name: str, started: datetime) -> str:
    """Return a run's identity: when, what, and a few letters that tell two runs of one second apart."""
    salt = digest_of([name, started.isoformat(), os.getpid()])[:4]
    return f"{started:%Y%m%d-%H%M%S}-{plain(name)}-{salt}"


def plain(name: str) -> str:
    """Return a name that can be a file's: other characters than letters, digits, `.`, `_` and `-` become `_`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_.-") or "unnamed"


def check_target(target: Path, mark: str = RUN_FILE) -> None:
    """Refuse a folder that holds something other than an earlier result of the same kind, or that cannot be written.

    Args:
        mark: the file by which such a result is known.

    Raises:
        UsageError: with the reason.
    """
    parent = target.absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise UsageError(f"--out {target}: {parent} is a file; name a folder")
    if target.is_dir() and any(target.iterdir()) and not (target / mark).is_file():
        kind = "run" if mark == RUN_FILE else mark.partition(".")[0]
        raise UsageError(f"--out {target} is not empty and is no earlier {kind}; name another folder")
    beside = parent.parent if parent == target.absolute() else parent  # where the new folder will be made
    try:  # permissions do not tell: the file system may be read-only, and root may do everything
        with tempfile.TemporaryDirectory(prefix=".write-", dir=beside):
            pass
    except OSError as error:
        raise UsageError(f"--out {target} cannot be written: {error.strerror}; name another folder") from error


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the target's place when the block succeeds, and vanishes when it does not."""
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    mark = f"{_MARK}-{plain(platform.node())}-{os.getpid()}"
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.{mark}.", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        old = folder.with_name(folder.name + ".old")
        if target.exists():
            target.replace(old)
        folder.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise storage_error(f"the run {target}", str(target.parent), error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove the unfinished folders of runs of this machine that were killed; an old run in their way comes back."""
    pattern = re.compile(
        rf"\.(?P<target>.+)\.{_MARK}-{re.escape(plain(platform.node()))}-(?P<pid>\d+)\.\w+(?P<old>\.old)?"
    )
    for path in list(parent.iterdir()):
        found = pattern.fullmatch(path.name)
        if found is None or _alive(int(found["pid"])):
            continue
        target = parent / found["target"]
        if found["old"] and not target.exists():
            path.replace(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_labels(folder: Path, targets: Mapping[str, np.ndarray]) -> None:
    """Keep the labels of the evaluated splits: with them every accuracy can be computed again."""
    np.savez(folder / "labels.npz", **targets)  # type: ignore[arg-type]


def provenance(started: datetime, **more: Any) -> dict[str, Any]:
    """Return where a run's numbers come from."""
    return {
        "started_at": started.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **host(),
        **more,
    }


def host() -> dict[str, Any]:
    """Return the command line of this process (addresses in it name no user and password), its versions and machine."""
    return {
        "command": [Path(sys.argv[0]).name, *map(without_secrets, sys.argv[1:])],
        "versions": {"edgekd": __version__, "python": platform.python_version()} | _installed(),
        "host": {"machine": platform.machine(), "system": f"{platform.system()} {platform.release()}"},
    }


def _installed() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write(folder: Path, content: dict[str, Any]) -> None:
    """Write run.json with its checksum, last of all raw files."""
    text = json.dumps({"edgekd": __version__, **content}, allow_nan=False)
    sealing.write(folder / RUN_FILE, json.loads(without_secrets(text)))


def model_facts(folder: Path, path: Path) -> dict[str, Any]:
    """Return what run.json says of an ONNX file."""
    return {"file": path.relative_to(folder).as_posix(), "size_bytes": path.stat().st_size, "sha256": file_digest(path)}


def export_files(folder: Path, made: Sequence[Step], artifacts: Mapping[str, Artifact]) -> dict[str, Path]:
    """Copy the ONNX files into the run's folder and return them by variant."""
    (folder / "models").mkdir()
    files = {}
    for step in made:
        if step.name == "export":
            found = artifacts[step.label]
            files[step.variant] = folder / "models" / f"{step.variant}.onnx"
            shutil.copyfile(found.path / found.facts["file"], files[step.variant])
    return files


def data_facts(data: Data) -> dict[str, Any]:
    """Return what run.json says of the data."""
    counts = {name: len(getattr(data, name).targets) for name in ("train", "validation", "test")}
    return {"name": data.name, "digest": data.digest, "counts": counts, "classes": list(data.classes)}
