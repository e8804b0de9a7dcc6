"""Every parser of what others made, each as a function of bytes: only the project's own errors may come out of it.

`test_fuzz.py` feeds them with inputs that hypothesis finds and with random ones; `guided.py` with those of atheris.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

from edgekd import address, artifact, profiles
from edgekd.adding import ALLOWED
from edgekd.agent import bundling, npy, onnx_file
from edgekd.agent import job as jobs
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_json
from edgekd.agent.meters import tegrastats
from edgekd.data.loading import idx, images, npz, tar
from edgekd.dispatch import archive, probing
from edgekd.dispatch.hearing import Hearing
from edgekd.errors import EdgekdError
from edgekd.graph import lint
from edgekd.recipe import Recipe
from edgekd.report import build, external
from edgekd.report.baseline import snapshot
from edgekd.report.evidence import read_measurement
from edgekd.report.study.evidence import read_study
from edgekd.stage import silent
from edgekd.validation.files import open_model

CORPUS = Path(__file__).parent / "corpus"
Target = Callable[[bytes], None]


@cache
def _folder() -> Path:
    """Return a folder for the inputs; in memory where there is one."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="edgekd-fuzz-", dir=shared if shared.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _file(name: str, content: bytes) -> Path:
    path = _folder() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def recipe(content: bytes) -> None:
    """A recipe."""
    Recipe.load(str(_file("recipe.yaml", content)))


def device(content: bytes) -> None:
    """A device profile."""
    profiles.load_device(str(_file("device.yaml", content)))


def job(content: bytes) -> None:
    """What a host asks an agent to measure."""
    jobs.parse(read_json(_file("job.json", content)))


def bundle(content: bytes) -> None:
    """What a bundle says of itself."""
    bundling.verify(_file("bundle/bundle.json", content).parent)


def manifest(content: bytes) -> None:
    """The manifest of an artifact: what is wrong with it is an answer, no error."""
    artifact.check(_file("artifact/manifest.json", content).parent)


def run(content: bytes) -> None:
    """run.json, from which a report is made."""
    build.build(_file("run/run.json", content).parent)


def measurement(content: bytes) -> None:
    """What a device sends of a measurement."""
    read_measurement(_file("measurement/measurement.json", content).parent)


def study(content: bytes) -> None:
    """study.json."""
    read_study(_file("study/study.json", content).parent)


def result_archive(content: bytes) -> None:
    """The zip that comes back from a bundle."""
    target = _folder() / "unpacked"
    shutil.rmtree(target, ignore_errors=True)
    archive.extract(_file("result.zip", content), target, allowed=ALLOWED, max_bytes=1 << 20, max_files=20)


def tegrastats_line(content: bytes) -> None:
    """What tegrastats prints."""
    tegrastats.parse(content.decode("utf-8", "replace"))


def events(content: bytes) -> None:
    """What an agent writes to its standard output."""
    hearing = Hearing(silent)
    for line in content.decode("utf-8", "replace").splitlines():
        hearing.take(line)


def probe(content: bytes) -> None:
    """What a device says of itself."""
    probing.read(content.decode("utf-8", "replace"))


def ssh_address(content: bytes) -> None:
    """Where a device is; what is accepted is no option, and one word."""
    with contextlib.suppress(ValueError):
        found = address.parse(content.decode("utf-8", "replace"))
        for word in (found.host, found.user or "x", str(found)):
            assert not word.startswith("-"), word
            assert word.split() == [word], word


def idx_file(content: bytes) -> None:
    """An IDX file, gzipped or not."""
    idx.read(_file("data.idx", content))


def npz_data(content: bytes) -> None:
    """A user's data in one file."""
    npz.load(_file("data.npz", content))


def npy_array(content: bytes) -> None:
    """One array, read and mapped."""
    with contextlib.suppress(ValueError):
        npy.array(BytesIO(content), len(content))
    with contextlib.suppress(ValueError):
        npy.mapped(_file("array.npy", content))


def tar_shard(content: bytes) -> None:
    """A tar file of samples."""
    found = SimpleNamespace(get=lambda kind, files, find: find(), progress=silent)
    tar.index(_file("shard.tar", content), found)  # type: ignore[arg-type]


def image(content: bytes) -> None:
    """An image of a data set."""
    size, grey = images.look(BytesIO(content), "image")
    if size[0] * size[1] < 1 << 20:
        images.decode(BytesIO(content), "L" if grey else "RGB", size, "image")


def power_trace(content: bytes) -> None:
    """What an external power meter said."""
    external.parse(content.decode("utf-8", "replace"), "meter.csv")


def baseline(content: bytes) -> None:
    """A baseline in git."""
    snapshot.read(_file("baseline.json", content))


def onnx_model(content: bytes) -> None:
    """An ONNX file with its metadata, as the agent, `bench` and `validate` read it."""
    path = _file("model.onnx", content)
    with contextlib.suppress(AgentError):
        onnx_file.inputs(path)
    with contextlib.suppress(EdgekdError):
        lint.inspect(path)
    open_model(path)


TARGETS: dict[str, Target] = {
    one.__name__: one
    for one in (
        recipe, device, job, bundle, manifest, run, measurement, study, result_archive, tegrastats_line, events, probe,
        ssh_address, idx_file, npz_data, npy_array, tar_shard, image, power_trace, baseline, onnx_model,
    )
}  # fmt: skip


def check(target: Target, content: bytes) -> None:
    """Feed a target; whatever it raises besides the project's own errors is a mistake in the project."""
    with contextlib.suppress(EdgekdError, AgentError):
        target(content)


def seeds(name: str) -> list[bytes]:
    """Return the corpus of a target: valid inputs, and such as once did harm."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
