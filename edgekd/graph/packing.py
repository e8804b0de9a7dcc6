"""What zero weights are worth to whoever sends a file: how many there are in it, and its size when it is compressed."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from onnx import numpy_helper

from edgekd.graph.lint import files, read

LEVEL = 9
"""Of zlib: its best."""
CHUNK_BYTES = 1 << 20


def packing(path: Path) -> dict[str, float | int | None]:
    """Return {"zero_share", "compressed_bytes"} of an ONNX file, with the files beside it that hold its weights.

    The share is of the stored tensors of two axes or more, which the weights of convolutions and matrix products are,
    as floats or as integers; None where there is none.

    Raises:
        UsageError: it is no valid ONNX model.
    """
    weights = [numpy_helper.to_array(one) for one in read(path).graph.initializer if len(one.dims) > 1]
    count = sum(weight.size for weight in weights)
    zeros = sum(weight.size - int(np.count_nonzero(weight)) for weight in weights)
    return {
        "zero_share": zeros / count if count else None,
        "compressed_bytes": sum(_compressed(file) for file in files(path)),
    }


def _compressed(path: Path) -> int:
    packer, size = zlib.compressobj(LEVEL), 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            size += len(packer.compress(chunk))
    return size + len(packer.flush())
