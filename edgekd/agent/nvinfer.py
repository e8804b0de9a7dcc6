"""TensorRT itself: imported once, with its log kept and its types named as numpy names them.

What a release has is asked of its classes (`hasattr`), never of its version: 8.5 to 11 run the same code.
"""

from __future__ import annotations

import functools
from typing import Any, Dict, List, Optional

from edgekd.agent.errors import AgentError

try:
    import tensorrt as trt
except (
    ImportError,
    OSError,
) as error:  # OSError: one of its libraries is missing, as libnvdla_compiler.so in some images
    raise AgentError(
        "TensorRT cannot be imported (%s). On a Jetson it belongs to the system's Python: write "
        "`python: /usr/bin/python3` in the device profile, or make the environment with "
        "`python3 -m venv --system-site-packages`; JetPack's package is python3-libnvinfer. "
        "In a container, image and JetPack must fit each other. On a PC: pip install tensorrt" % error
    ) from error

__all__ = ["LOG", "Log", "dtype", "flag", "load_plugins", "stand_in", "trt", "version"]

_KEPT = 50
_NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
_SKIPPED = "skipping tactic"  # the line before it tells of the same tactic how much memory there was


class Log(trt.ILogger):  # type: ignore[misc]
    """Keeps what TensorRT says: errors, warnings, and the tactics it had to skip, mostly for want of memory."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.errors: List[str] = []
        self.warnings: List[str] = []
        self.skipped_tactics = 0

    def log(self, severity: Any, msg: str) -> None:
        """Take a message; TensorRT calls this."""
        text = msg.strip()
        if _SKIPPED in text.lower():
            self.skipped_tactics += 1
        elif severity.name in ("ERROR", "INTERNAL_ERROR"):
            self.errors = [*self.errors, text][-_KEPT:]
        elif severity.name == "WARNING" and text not in self.warnings and len(self.warnings) < _KEPT:
            self.warnings.append(text)

    def said(self) -> str:
        """Return the last errors for a message, or that there were none."""
        return "; ".join(self.errors[-3:]) or "it gave no reason"


LOG = Log()
"""TensorRT keeps the first logger it is given for the whole process, so there is one."""


@functools.lru_cache(maxsize=None)
def load_plugins() -> None:
    """Make the operators known that TensorRT implements as plugins; an image without them still has all others."""
    trt.init_libnvinfer_plugins(LOG, "")


def version() -> str:
    """Return TensorRT's version."""
    return str(trt.__version__)


def stand_in() -> Optional[str]:
    """Return why this module is not NVIDIA's, or None if it is: classes of bindings have a metaclass of their own."""
    return "the module tensorrt is a stand-in written in Python" if type(trt.Builder) is type else None


def flag(name: str) -> Optional[Any]:
    """Return a builder flag, or None in a release that does not have it."""
    return getattr(trt.BuilderFlag, name, None)


def dtype(tensor_type: Any) -> str:
    """Return the numpy name of a TensorRT type; its own `nptype` fails in 8.5 with numpy 1.24.

    Raises:
        AgentError: numpy has no such type.
    """
    found = _dtypes().get(tensor_type)
    if found is None:
        raise AgentError("an input or output has TensorRT's type %s, which numpy does not have" % tensor_type)
    return found


@functools.lru_cache(maxsize=None)
def _dtypes() -> Dict[Any, str]:
    return {getattr(trt.DataType, name): found for name, found in _NUMPY.items() if hasattr(trt.DataType, name)}
