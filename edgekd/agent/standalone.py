"""`bench`: ONNX files measured on the device itself, with nothing but this agent.

A job folder is made and measured as a host's would be. What is printed is a preview: a host computes the same from the
measurement folder (--out), with intervals.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import numpy as np

from edgekd.agent import onnx_file, preview
from edgekd.agent.backends import Tensor
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_npz, sha256, write_json, write_npz
from edgekd.agent.job import Job
from edgekd.agent.measuring import measure
from edgekd.agent.method import FULL, PRECISIONS, QUICK, Model, Power

if TYPE_CHECKING:
    from edgekd.agent.backends import Array

SEED = 0
BUILDS = ("tensorrt",)
"""Backends that build a file in a precision."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what `bench` takes."""
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL.onnx")
    parser.add_argument("--against", type=Path, metavar="TEACHER.onnx", help="what the others are compared with")
    parser.add_argument("--backend", default="onnxruntime", help="runtime (default: onnxruntime)")
    parser.add_argument("--options", type=_options, default={}, metavar="JSON", help='its options: {"threads": 2}')
    parser.add_argument(
        "--precision", choices=[name for name in PRECISIONS if name != "bf16"], help="what TensorRT builds the files in"
    )
    parser.add_argument("--inputs", type=Path, metavar="FILE.npz", help="the batch that is timed (default: random)")
    parser.add_argument(
        "--shape", type=_shape, action="append", default=[], metavar="NAME=1x3x224x224", help="shape of a random input"
    )
    parser.add_argument("--batch-size", type=_positive, help="of random inputs, where the model leaves it open")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, and wider noise")
    parser.add_argument("--meter", default="auto", help="power meter, auto or none (default: auto)")
    parser.add_argument("--lock-clocks", action="store_true", help="jetson_clocks during the measurement; needs sudo")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the measurement folder")
    parser.add_argument("--json", action="store_true", help="for machines")


def command(chosen: Namespace) -> int:
    """Measure and print; the exit code is 1 where a file does not run here."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekd-bench-")))
        job_dir, out = work / "job", chosen.out or work / "measurement"
        inputs = write_job(job_dir, chosen)
        measurement = measure(job_dir, out, _progress)
        told = preview.summary(measurement, out)
    told["inputs"] = inputs
    print(json.dumps(told, indent=1) if chosen.json else preview.text(told))
    if chosen.out is not None:
        print("kept: %s" % chosen.out, file=sys.stderr)
    return 1 if any(model["error"] for model in told["models"].values()) else 0


def write_job(folder: Path, chosen: Namespace) -> str:
    """Write the job that a command line asks for, and return what its inputs are.

    Raises:
        AgentError: A file is missing, the inputs do not fit or have no size, or an option is not for this backend.
    """
    files = _named(chosen.models, chosen.against)
    if chosen.precision is not None and chosen.backend not in BUILDS:
        raise AgentError(
            "--precision is for %s, which builds a file in it; %s runs a file as it is" % (BUILDS[0], chosen.backend)
        )
    feeds, inputs = _feeds(files, chosen)
    folder.mkdir(parents=True)
    models = []
    for name, path in files.items():
        # The model's own folder, not a copy: its weights may lie in other files beside it.
        (folder / name).symlink_to(path.resolve().parent, target_is_directory=True)
        models.append(Model(name, "%s/%s" % (name, path.resolve().name), sha256(path), chosen.precision))
    write_npz(folder / "inputs.npz", feeds)
    job = Job(
        device="this device",
        backend=chosen.backend,
        options=chosen.options,
        models=tuple(models),
        reference=None if chosen.against is None else next(iter(files)),
        latency_inputs="inputs.npz",
        batch_size=_batch(feeds),
        method=QUICK if chosen.quick else FULL,
        power=Power(meter=chosen.meter),
        lock_clocks=chosen.lock_clocks,
        files={"inputs.npz": sha256(folder / "inputs.npz")},
        seed=SEED,
    )
    write_json(folder / "job.json", job.to_json())
    return inputs


def random_feeds(inputs: List[Tensor], shapes: Dict[str, Tuple[int, ...]], batch: int) -> Dict[str, Array]:
    """Return one batch of random inputs: standard normal, or 0 and 1 for integers, which are valid as ids and masks.

    Args:
        inputs: As the file declares them.
        shapes: Shapes that the user gave.
        batch: Size of a first axis that is open.

    Raises:
        AgentError: A shape is given for an input that does not exist, or is open, or does not fit.
    """
    names = [tensor.name for tensor in inputs]
    for name in shapes:
        if name not in names:
            raise AgentError("--shape names %r; the model's inputs are %s" % (name, ", ".join(names)))
    random = np.random.default_rng(SEED)
    feeds = {}
    for tensor in inputs:
        shape = shapes.get(tensor.name) or _size(tensor, batch)
        declared = tensor.shape
        if len(shape) != len(declared) or any(want not in (None, have) for want, have in zip(declared, shape)):
            raise AgentError(
                "input %r of the model is %s; %s does not fit" % (tensor.name, _written(declared), _written(shape))
            )
        kind = np.dtype(tensor.dtype)
        if kind.kind not in "biuf":
            raise AgentError("input %r is %s: give inputs by --inputs FILE.npz" % (tensor.name, tensor.dtype))
        values = random.standard_normal(shape) if kind.kind == "f" else random.integers(0, 2, shape)
        feeds[tensor.name] = values.astype(kind)
    return feeds


def _feeds(files: Dict[str, Path], chosen: Namespace) -> Tuple[Dict[str, Array], str]:
    """Return the inputs, and what they are."""
    if chosen.inputs is not None:
        if chosen.shape or chosen.batch_size:
            raise AgentError("--inputs has the shapes; leave out --shape and --batch-size")
        return read_npz(chosen.inputs), str(chosen.inputs)
    first: Optional[str] = None
    feeds: Dict[str, Array] = {}
    for name, path in files.items():
        found = random_feeds(onnx_file.inputs(path), dict(chosen.shape), chosen.batch_size or 1)
        if first is None:
            first, feeds = name, found
        elif {key: (array.shape, array.dtype) for key, array in found.items()} != {
            key: (array.shape, array.dtype) for key, array in feeds.items()
        }:
            raise AgentError(
                "%s takes %s, %s takes %s: bench them one by one" % (first, _shown(feeds), name, _shown(found))
            )
    return feeds, "random (seed %d): %s" % (SEED, _shown(feeds))


def _size(tensor: Tensor, batch: int) -> Tuple[int, ...]:
    shape = [batch if index == 0 and size is None else size for index, size in enumerate(tensor.shape)]
    sizes = tuple(size for size in shape if size is not None)
    if len(sizes) < len(shape):
        raise AgentError(
            "input %r of the model is %s, whose ? may be anything: say --shape %s=%s"
            % (tensor.name, _written(tensor.shape), tensor.name, _written(shape).replace("?", "64"))
        )
    return sizes


def _batch(feeds: Dict[str, Array]) -> int:
    first = next(iter(feeds.values()), None)
    return 1 if first is None or not first.ndim else max(1, len(first))


def _named(models: List[Path], against: Optional[Path]) -> Dict[str, Path]:
    """Return the files by variant: their stems, numbered where two are equal; the teacher first."""
    files: Dict[str, Path] = {}
    for path in [*([] if against is None else [against]), *models]:
        if not path.is_file():
            raise AgentError("there is no file %s" % path)
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("._-") or "model"
        name, count = stem, 2
        while name in files:
            name, count = "%s-%d" % (stem, count), count + 1
        files[name] = path
    return files


def _shown(feeds: Dict[str, Array]) -> str:
    return ", ".join("%s %s[%s]" % (name, array.dtype, _written(array.shape)) for name, array in feeds.items())


def _written(shape: Any) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "a scalar"


def _options(text: str) -> Dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError("%r is not JSON: %s" % (text, error)) from error
    if not isinstance(options, dict):
        raise ArgumentTypeError('%r is no JSON object, such as {"threads": 2}' % text)
    return options


def _shape(text: str) -> Tuple[str, Tuple[int, ...]]:
    found = re.fullmatch(r"(.+)=([1-9]\d*(?:x[1-9]\d*)*)", text)
    if not found:
        raise ArgumentTypeError("%r is not like NAME=1x3x224x224" % text)
    return found.group(1), tuple(int(size) for size in found.group(2).split("x"))


def _positive(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise ArgumentTypeError("%r is not a number of samples" % text)
    return int(text)


def _progress(phase: str, done: int, total: int, detail: str) -> None:
    """Keep people company: one line that changes on a terminal, else a line whenever a part is done."""
    line = "%s %d/%d %s" % (phase, done, total, detail)
    if sys.stderr.isatty():
        last = done == total
        sys.stderr.write("\r\033[K%s%s" % (line[:100], "\n" if last else ""))
    elif done == total:
        sys.stderr.write(line.rstrip() + "\n")
    sys.stderr.flush()
