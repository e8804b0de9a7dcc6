"""Runtimes: one module each, found by its file name, that opens ONNX files as sessions.

A backend module has

    runtime() -> {"name": ..., "version": ..., ...}           what is installed
    check(options)                                            AgentError for an option it cannot honour
    warm()                                                    bring the runtime itself to its resting state
    prepare(path, options, shapes, report) -> facts           build what takes long, once, before anything is timed
    open(path, options, shapes) -> Session                    load a model
    throughput(path, options, feeds, cores, seconds) -> Throughput

and FIXED_SHAPES, which says whether a model is built for exactly the shapes it gets. It raises AgentError on import
when its runtime is not installed.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Protocol, Tuple, cast

import numpy as np

from edgekd.agent.errors import AgentError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Feeds = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model: its name, its shape (None: a dynamic axis) and its numpy type name."""

    name: str
    shape: Tuple[Optional[int], ...]
    dtype: str


@dataclass(frozen=True)
class Throughput:
    """A saturated run: inferences finished, the seconds from first start to last end, threads that computed."""

    inferences: int
    seconds: float
    threads: int


class Session(Protocol):
    """A loaded model."""

    @property
    def inputs(self) -> Tuple[Tensor, ...]:
        """The model's inputs as its file declares them."""

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return a call that runs the model once on fixed buffers, copies and synchronisation included.

        The call keeps the buffers alive. It is what is timed, so it does nothing else.
        """

    def run(self, feeds: Feeds) -> Dict[str, Array]:
        """Return the outputs by name, as arrays of the caller's own."""

    def facts(self, feeds: Feeds) -> Dict[str, Any]:
        """Tell what really runs: {"provider", "precision": {precision: layers}, "layers": [...], ...}.

        A layer is {"name", "type", "precision", "computes"}, "origins" where the runtime tells which of the file's
        nodes it came from, "input" where it tells the type of its first input, and "times_ns", one sample for each
        profiled run. "times_of" says what a sample is, "times_reason" why there are none.
        It may load the model a second time to find out, so it is never called in a process that times.
        """


class Backend(Protocol):
    """What every module of this package offers."""

    FIXED_SHAPES: bool
    """Whether a model is built for exactly the shapes it gets; it is then evaluated in the shapes that are timed."""

    def runtime(self) -> Dict[str, Any]:
        """Return name and version of the runtime, and which devices it sees.

        "simulated" says why the runtime is only a stand-in, where it is one.
        """

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise AgentError for an option that is unknown or cannot be honoured here."""

    def warm(self) -> None:
        """Load what the runtime loads once per process, so that it is not counted as a model's memory."""

    def prepare(
        self,
        path: Path,
        options: Mapping[str, Any],
        shapes: Mapping[str, Tuple[int, ...]],
        report: Callable[[str], None],
    ) -> Dict[str, Any]:
        """Build what takes long and is kept, such as an engine; return facts about it, {} where there is nothing."""

    def open(
        self, path: Path, options: Mapping[str, Any], shapes: Optional[Mapping[str, Tuple[int, ...]]] = None
    ) -> Session:
        """Load a model; `shapes` are the only input shapes that it will get, if they are known."""

    def throughput(
        self, path: Path, options: Mapping[str, Any], feeds: Feeds, cores: int, seconds: float
    ) -> Throughput:
        """Run a model on as many cores, saturated, for about so many seconds."""


def available() -> List[str]:
    """Return the names of the backends there are, whether their runtime is installed or not."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Backend:
    """Import the backend of this name.

    Raises:
        AgentError: There is no such backend, or its runtime is not installed.
    """
    if name not in available():
        raise AgentError("there is no backend %r; there are %s" % (name, ", ".join(available())))
    return cast("Backend", importlib.import_module("%s.%s" % (__name__, name)))


def take_options(backend: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> Dict[str, Any]:
    """Return a backend's options with its defaults filled in.

    Raises:
        AgentError: An option is unknown, or its value is of another type than the default.
    """
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise AgentError(
            "the backend %s has no option %s; it has %s" % (backend, ", ".join(unknown), ", ".join(sorted(defaults)))
        )
    for name, value in options.items():
        if type(value) is not type(defaults[name]):
            raise AgentError("option %s of %s is %r; a value like %r is meant" % (name, backend, value, defaults[name]))
    return {**defaults, **options}


def check_feeds(inputs: Tuple[Tensor, ...], feeds: Feeds) -> Dict[str, Array]:
    """Return the feeds as contiguous arrays, checked against the model's inputs.

    Raises:
        AgentError: A name, a type or a shape does not fit.
    """
    wanted = {tensor.name: tensor for tensor in inputs}
    if set(wanted) != set(feeds):
        raise AgentError("the model's inputs are %s, the job feeds %s" % (_names(wanted), _names(feeds)))
    for name, array in feeds.items():
        tensor = wanted[name]
        fits = len(tensor.shape) == array.ndim and all(
            want is None or want == have for want, have in zip(tensor.shape, array.shape)
        )
        if not fits or array.dtype.name != tensor.dtype:
            shape = "x".join("?" if axis is None else str(axis) for axis in tensor.shape)
            given = "x".join(str(axis) for axis in array.shape)
            raise AgentError(
                "input %r of the model is %s [%s], the job feeds %s [%s]"
                % (name, tensor.dtype, shape, array.dtype.name, given)
            )
    return {name: np.ascontiguousarray(array) for name, array in feeds.items()}


def count_precisions(layers: List[Dict[str, Any]]) -> Dict[str, int]:
    """Count the layers that multiply and accumulate by precision: {"int8": 9, "float32": 2}."""
    counts: Dict[str, int] = {}
    for layer in layers:
        if layer["computes"]:
            counts[layer["precision"]] = counts.get(layer["precision"], 0) + 1
    return counts


def _names(mapping: Mapping[str, Any]) -> str:
    return ", ".join(sorted(mapping)) or "(none)"
