"""Weights that lie in other files: where they are, whether they may be read, and one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

SMALL_BYTES = 65536
"""Tensors up to this size are taken into memory by `take_small`: scales, zero points, shapes."""
_HALF_BYTES = frozenset({TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1})
_SEVERAL_IN_ONE = frozenset(
    kind for kind in helper.get_all_tensor_dtypes()
    if any(word in TensorProto.DataType.Name(kind) for word in ("INT2", "INT4", "FLOAT4", "FLOAT6", "COMPLEX"))
)  # fmt: skip
"""Types whose values share a stored number, or take two."""


def tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Yield every stored tensor: weights and attributes, of the graph, of those inside its nodes, and of functions."""
    yield from _of_graph(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _of_node(node)


def place(tensor: TensorProto) -> tuple[str, int, int | None]:
    """Return location, offset and length (None: not told) of a tensor in another file, as the model gives them."""
    told: dict[str, str | bytes] = {entry.key: entry.value for entry in tensor.external_data}
    location, length = told.get("location", ""), told.get("length")
    if isinstance(location, bytes):  # so protobuf gives what is no text
        location = location.decode(errors="replace")
    return location.replace("\0", "\ufffd"), int(told.get("offset") or 0), int(length) if length else None


def is_external(tensor: TensorProto) -> bool:
    """Return whether a tensor lies in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def files(path: Path, proto: ModelProto) -> list[Path]:
    """Return the files that hold a model's weights, where they would be; in or outside of its folder."""
    folder = path.resolve().parent
    locations = {place(tensor)[0] for tensor in tensors(proto) if is_external(tensor)}
    return [(folder / location).resolve() for location in sorted(locations)]


def problems(path: Path, proto: ModelProto) -> Iterator[str]:
    """Yield what is wrong with weights in other files.

    A foreign model must not choose what is read: its files lie in its own folder, links to others included.
    """
    folder = path.resolve().parent
    for tensor in tensors(proto):
        if not is_external(tensor):
            continue
        try:
            location, offset, length = place(tensor)
        except ValueError:
            yield f"{tensor.name}: its offset or length is no number"
            continue
        file = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
            yield f"{tensor.name} is in {location or 'a file without a name'}, outside its folder: not read"
        elif not _is_file(file):
            yield f"{tensor.name} is in {location}, which is not beside it"
        else:
            yield from _size_problems(tensor, file, offset, length)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def misfits(proto: ModelProto) -> Iterator[str]:
    """Yield which tensors in the model itself hold another number of values than their shapes say."""
    for tensor in tensors(proto):
        if is_external(tensor):
            continue
        if _is_none(tensor):
            yield f"{tensor.name}: its type or shape {list(tensor.dims)} is none"
        elif tensor.HasField("raw_data"):
            if len(tensor.raw_data) != size_bytes(tensor):
                yield f"{tensor.name}: {len(tensor.raw_data)} bytes for the shape {list(tensor.dims)}"
        else:
            held, wanted = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))), prod(tensor.dims)
            if held != wanted and (tensor.data_type not in _SEVERAL_IN_ONE or held > wanted):
                yield f"{tensor.name}: {held} values for the shape {list(tensor.dims)}"


def _is_none(tensor: TensorProto) -> bool:
    return tensor.data_type not in helper.get_all_tensor_dtypes() or any(size < 0 for size in tensor.dims)


def _size_problems(tensor: TensorProto, file: Path, offset: int, length: int | None) -> Iterator[str]:
    if _is_none(tensor):
        yield f"{tensor.name}: its type or shape {list(tensor.dims)} is none"
        return
    wanted, size = size_bytes(tensor), file.stat().st_size
    if offset < 0 or (length is not None and length < 0):
        yield f"{tensor.name}: its offset or length is negative"
    elif length is not None and length != wanted:
        yield f"{tensor.name}: {length} bytes are named, its type and shape take {wanted}"
    elif offset + wanted > size:
        yield f"{tensor.name}: it ends at byte {offset + wanted} of {file.name}, which has {size}: cut short"


def size_bytes(tensor: TensorProto) -> int:
    """Return how many bytes a tensor's values take when stored raw."""
    count = prod(tensor.dims)
    if tensor.data_type in _HALF_BYTES:
        return (count + 1) // 2
    return count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def array(tensor: TensorProto, folder: Path) -> NDArray[np.generic]:
    """Return a tensor's values, read from its file if it lies in one. The tensor itself stays as it is."""
    if not is_external(tensor):
        return numpy_helper.to_array(tensor)
    copy = TensorProto()
    copy.CopyFrom(tensor)
    load_external_data_for_tensor(copy, str(folder))
    copy.ClearField("data_location")
    return numpy_helper.to_array(copy)


def take_small(proto: ModelProto, folder: Path) -> None:
    """Take small tensors into the model, so that only weights of some size stay in other files."""
    for tensor in tensors(proto):
        if is_external(tensor) and size_bytes(tensor) <= SMALL_BYTES:
            load_external_data_for_tensor(tensor, str(folder))
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for inner in [attribute.g, *attribute.graphs]:
            yield from _of_graph(inner)
