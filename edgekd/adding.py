"""Complete a run with the result of a bundle: a measurement that was made where this machine cannot reach.

All of it, a report on it included, is verified in a folder of its own. Then the measurement takes its place, and last
run.json, by which it counts: a run that was left between the two is as it was.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekd import rundir
from edgekd.agent import PROTOCOL
from edgekd.agent.bundling import CPU, CPU_BACKEND, CPU_OPTIONS, FORMAT, MEASUREMENT, RESULT_FILE
from edgekd.artifact import file_digest
from edgekd.dispatch import archive
from edgekd.errors import EdgekdError, UsageError
from edgekd.report import build
from edgekd.report.evidence import RUN_SCHEMA, check_seal, read_json, read_measurement

ALLOWED = (
    RESULT_FILE,
    *(f"{MEASUREMENT}/{name}" for name in ("measurement.json", "outputs/*.npz", "samples/*.npz", "samples/*.json")),
)
"""What an agent writes."""
MAX_BYTES = 16 << 30
MAX_FILES = 10_000
_LONGEST_NAME = 100  # characters of a device's

_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Model(BaseModel):
    """One file that was measured."""

    model_config = _STRICT

    sha256: _Sha256
    precision: str | None


class _Told(BaseModel):
    """result.json: what a result is of, and the digest of every other file in it."""

    model_config = _STRICT

    format: int
    device: str
    run_id: str
    job_sha256: _Sha256
    protocol: int
    models: Annotated[dict[str, _Model], Field(min_length=1)]
    files: dict[str, _Sha256]


@dataclass(frozen=True)
class _Found:
    """A verified result.

    Args:
        device: the bundle's.
        folder: its measurement.
        content: of measurement.json; its digest vouches for all other files.
    """

    device: str
    folder: Path
    content: Mapping[str, Any]
    digest: str

    @property
    def substituted(self) -> Mapping[str, Any] | None:
        """{"asked", "used"} where another runtime than the device's was measured."""
        found: Mapping[str, Any] | None = self.content.get("substituted")
        return found


def add(run: Path, result: Path) -> str:
    """Put the measurement of a result.zip into the run that its bundle belongs to.

    The report is not rebuilt: `report.build.write` does that. A result measured with ONNX Runtime on a processor in
    place of the device is never the device's: it becomes a device of its own, `cpu`, `cpu-2`...

    Returns:
        What was done, for people.

    Raises:
        UsageError: there is no such run or result; the result is damaged, of another run or another version; or the
            device has a measurement already. The run is as it was.
        StageError: there is no room. The run is as it was.
    """
    path = run / rundir.RUN_FILE
    if not path.is_file():
        raise UsageError(f"{run} is not a run: it has no {rundir.RUN_FILE}. Give the directory that a run wrote.")
    before, content = path.read_bytes(), read_json(path)
    _check_content(path, content)
    with tempfile.TemporaryDirectory(prefix="edgekd-") as temporary, _named(Path(temporary), result):
        found = _verified(Path(temporary) / "result", result, content)
        name = _name(run, content["devices"], found)
        if name is None:
            return f"{result} is in this run already; nothing was changed"
        completed = {**content, "devices": {**content["devices"], name: _entry(content["devices"], found)}}
        _try_report(Path(temporary) / "trial", run, completed, name, found)
        with rundir.replacing(run / "measurements" / name) as folder:
            _copy(Path(temporary) / "trial" / "measurements" / name, folder)
            if path.read_bytes() != before:
                raise UsageError(f"{path} was changed by another process meanwhile; add {result} again")
        rundir.write(run, completed)
    return _told(name, found)


def _check_content(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a run.json of another version, or one that somebody made: its devices become folders."""
    if content.get("schema") != RUN_SCHEMA:
        raise UsageError(
            f"{path} has schema {content.get('schema')!r}; this edgekd reads {RUN_SCHEMA}: use its version"
        )
    check_seal(path, content)
    devices = content.get("devices")
    if not isinstance(content.get("run_id"), str) or not isinstance(devices, dict):
        raise UsageError(f"{path} has no run_id or no devices: no run wrote it")
    for name, device in devices.items():
        if name in ("", "..") or Path(name).name != name or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise UsageError(f"{path}: {name!r:.60} is no name of a device")
        if not isinstance(device, dict) or not isinstance(device.get("profile"), dict):
            raise UsageError(f"{path}: the device {name!r:.60} has no profile: no run wrote it")


def _copy(source: Path, target: Path) -> None:
    """Copy a folder's files; unlike `shutil.copytree`, with the error that says why one could not be."""
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.relative_to(source))


@contextmanager
def _named(temporary: Path, result: Path) -> Iterator[None]:
    """Tell of every problem as one of the file that the user named."""
    try:
        yield
    except UsageError:
        raise
    except EdgekdError as error:
        if type(error) is not EdgekdError:
            raise
        said = str(error)
        for folder in (temporary / "result", temporary / "trial"):
            said = said.replace(f"{folder}/", "").replace(str(folder), str(result))
        raise UsageError(f"{result} cannot be added: {said}") from error


def _verified(folder: Path, result: Path, run: Mapping[str, Any]) -> _Found:
    """Unpack a result and return it after every check."""
    archive.extract(result, folder, allowed=ALLOWED, max_bytes=MAX_BYTES, max_files=MAX_FILES)
    if not (folder / RESULT_FILE).is_file():
        raise EdgekdError(f"it has no {RESULT_FILE}; give the result.zip that `python3 agent.pyz bundle` wrote")
    content = read_json(folder / RESULT_FILE)
    _check_versions(content)
    try:
        told = _Told.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([RESULT_FILE, *map(str, first["loc"])])
        raise EdgekdError(f"{where}: {first['msg']} (found {first['input']!r:.60})") from error
    _check_files(folder, told.files)
    found = _Found(
        told.device,
        folder / MEASUREMENT,
        read_measurement(folder / MEASUREMENT).content,
        told.files[f"{MEASUREMENT}/measurement.json"],
    )
    _check_run(told, run)
    _check_measurement(found, told, run)
    return found


def _check_versions(content: Mapping[str, Any]) -> None:
    if content.get("format") != FORMAT or content.get("protocol") != PROTOCOL:
        raise EdgekdError(
            f"{RESULT_FILE} has format {content.get('format')!r} and protocol {content.get('protocol')!r}; this edgekd "
            f"reads {FORMAT} and {PROTOCOL}. Make the bundle with the version of edgekd that adds its result"
        )


def _check_files(folder: Path, told: Mapping[str, str]) -> None:
    """Compare what is there with what was sent."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {RESULT_FILE}
    problems = [f"{name} is missing" for name in sorted(set(told) - there)]
    problems += [f"{name} was added" for name in sorted(there - set(told))]
    problems += [
        f"{name} was changed" for name in sorted(there & set(told)) if file_digest(folder / name) != told[name]
    ]
    if f"{MEASUREMENT}/measurement.json" not in told:
        problems.append(f"{MEASUREMENT}/measurement.json is not listed in {RESULT_FILE}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise EdgekdError(f"{'; '.join(problems[:5])}{more}. Copy it from the device again")


def _check_run(told: _Told, run: Mapping[str, Any]) -> None:
    """Refuse the result of another run."""
    if told.run_id != run["run_id"]:
        raise EdgekdError(f"it belongs to the run {told.run_id!r:.100}; this is {run['run_id']!r}")
    devices = run["devices"]
    if told.device not in devices:
        raise EdgekdError(f"it was made for the device {told.device!r:.100}; this run has {', '.join(devices)}")
    models = devices[told.device].get("models") or {}
    for name, model in told.models.items():
        # A quantized file is sent in another form to a device that builds it in a precision (dispatch.variants).
        same = name in models and (model.precision == "int8" or models[name]["sha256"] == model.sha256)
        if not same:
            raise EdgekdError(f"its {name!r:.100} is not the one of this run: it was made of other files")


def _check_measurement(found: _Found, told: _Told, run: Mapping[str, Any]) -> None:
    """Refuse a measurement of something other than was asked for, unless it says so itself."""
    content, asked = found.content, run["devices"][told.device]["profile"]["backend"]
    used, substituted = content.get("backend"), found.substituted
    measured, expected = set(content["variants"]), set(told.models)
    if substituted is None:
        device, fits = told.device, used == asked and measured == expected
    else:
        fits = substituted == {"asked": asked, "used": CPU_BACKEND} and used == CPU_BACKEND and measured <= expected
        device = CPU
    if not fits or content.get("device") != device:
        raise EdgekdError(
            f"it was measured on {content.get('device')!r:.60} with {used!r:.60} ({', '.join(sorted(measured)):.200}), "
            f"which is not what the bundle for {told.device} asks for: {asked} ({', '.join(sorted(expected)):.200})"
        )
    if measured and content.get("reference") not in (None, *measured):
        raise EdgekdError(f"its reference {content.get('reference')!r:.60} was not measured")


def _name(run: Path, devices: Mapping[str, Any], found: _Found) -> str | None:
    """Return the device in run.json that the result becomes; None where it is there already."""

    def there(name: str) -> bool:
        path = run / "measurements" / name / "measurement.json"
        return devices[name].get("error") is None and path.is_file() and file_digest(path) == found.digest

    if found.substituted is not None:
        names = (CPU if number == 1 else f"{CPU}-{number}" for number in count(1))
        name = next(name for name in names if name not in devices or there(name))
        return None if name in devices else name
    if there(found.device):
        return None
    if devices[found.device].get("error") is None:
        raise EdgekdError(
            f"{run} has another measurement of {found.device} already, and keeps it. To measure again, make a new run "
            "with --bundle and another --out (what is finished is taken from the store), and measure its bundle"
        )
    return found.device


def _entry(devices: Mapping[str, Any], found: _Found) -> dict[str, Any]:
    """Return the device's entry for run.json."""
    asked = devices[found.device]
    if found.substituted is None:
        return {**asked, "error": None}
    return {
        **asked,
        "profile": {"backend": CPU_BACKEND, "options": dict(CPU_OPTIONS)},
        "models": {name: model for name, model in asked["models"].items() if name in found.content["variants"]},
        "builds": [],
        "error": None,
        "in_place_of": found.device,
    }


def _try_report(trial: Path, run: Path, completed: Mapping[str, Any], name: str, found: _Found) -> None:
    """Build a report on the new device alone: whatever it cannot be made of is refused before it is in the run."""
    target = trial / "measurements" / name
    target.parent.mkdir(parents=True)
    found.folder.replace(target)
    rundir.write(trial, {**completed, "devices": {name: completed["devices"][name]}})
    if (run / "labels.npz").is_file():
        shutil.copyfile(run / "labels.npz", trial / "labels.npz")
    build.build(trial)


def _told(name: str, found: _Found) -> str:
    simulated = " It is simulated, so it counts as no measurement." if found.content.get("simulated") else ""
    if found.substituted is None:
        return f"{name}: its measurement was added.{simulated}"
    asked = found.substituted["asked"]
    return (
        f"{name}: a measurement with {CPU_BACKEND} on the processor was added, made of the bundle for {found.device}. "
        f"It says nothing of {found.device} with {asked}, which still waits for its own.{simulated}"
    )
