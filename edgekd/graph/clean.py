"""Make an exported ONNX graph small, readable and reproducible."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgekd.version import __version__

_SCOPES = "pkg.torch.onnx.name_scopes"
_SLOTS = {
    "Conv": ("", "weight", "bias"),
    "Gemm": ("", "weight", "bias"),
    "MatMul": ("", "weight"),
    "MatMulInteger": ("", "weight"),
}
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def clean(proto: ModelProto, metadata: Mapping[str, str]) -> None:
    """Rewrite an exported model in place.

    The exporter notes on every node where in the Python source it came from, which can double a small file and makes it
    depend on where that source lies; and it numbers names over the life of the process, so that the second export of a
    network differs from the first. Neither is part of the network. Names come from the network's own modules instead,
    which is also what a per-layer table shows.
    """
    _name_batch(proto.graph)
    _name_pools(proto.graph)
    _rename(proto.graph)
    strip(proto)
    proto.producer_name = "edgekd"
    proto.producer_version = __version__
    helper.set_model_props(proto, dict(sorted(metadata.items())))


def strip(proto: ModelProto) -> None:
    """Remove what is not the network: notes, stored shapes, unused operator sets; and put attributes into one order."""
    graph = proto.graph
    graph.name = "network"
    proto.doc_string = graph.doc_string = ""
    # Stored shapes say nothing that shape inference does not, and mislead tools that change the graph.
    del graph.value_info[:], graph.metadata_props[:], graph.quantization_annotation[:]
    items: list[NodeProto | TensorProto | ValueInfoProto] = [
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.initializer,
    ]
    for item in items:
        item.doc_string = ""
        del item.metadata_props[:]
    for node in graph.node:  # the exporter's order changes from process to process
        # opset 17 and older do not know this attribute, and 0 is its default
        known = [entry for entry in node.attribute if (entry.name, entry.i) != ("noop_with_empty_axes", 0)]
        attributes = sorted(known, key=lambda entry: entry.name)
        del node.attribute[:]
        node.attribute.extend(attributes)
    used = {node.domain for node in graph.node}
    kept = [entry for entry in proto.opset_import if not entry.domain or entry.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


def _name_batch(graph: GraphProto) -> None:
    """Call the free axis "batch" where the exporter has a symbol of its own."""
    symbols = {value.type.tensor_type.shape.dim[0].dim_param for value in graph.input} - {""}
    for value in [*graph.input, *graph.output]:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in symbols:
                axis.dim_param = "batch"


def _name_pools(graph: GraphProto) -> None:
    """Write means over the image as GlobalAveragePool: only that has integer and blocked-layout kernels."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if not _is_image_mean(node, constants, ranks):
            nodes.append(node)
            continue
        source, result = node.input[0], node.output[0]
        keeps_axes = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
        pooled = result if keeps_axes else f"{result}_pooled"
        replacements = [helper.make_node("GlobalAveragePool", [source], [pooled])]
        if not keeps_axes:
            replacements.append(helper.make_node("Flatten", [pooled], [result], axis=1))
        for replacement in replacements:
            replacement.metadata_props.extend(node.metadata_props)
        nodes += replacements
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)


def _is_image_mean(node: NodeProto, constants: Mapping[str, TensorProto], ranks: Mapping[str, int]) -> bool:
    if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
        return False
    axes = numpy_helper.to_array(constants[node.input[1]])
    return ranks.get(node.input[0]) == 4 and sorted(int(axis) % 4 for axis in axes) == [2, 3]


def _drop_unused(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _rename(graph: GraphProto) -> None:
    """Name nodes after their modules, values after their nodes, constants after their first user."""
    names = {value.name: value.name for value in [*graph.input, *graph.output]}
    taken = set(names.values())
    for node in graph.node:
        if node.op_type not in _QUANTIZERS:
            _name_node(node, _scope(node), names, taken)
    first_users = _first_users(graph.node)
    for node in graph.node:
        if node.op_type in _QUANTIZERS:
            source = names.get(node.input[0])
            if source is None:  # a constant: named for what its layer uses it as
                user, slot = first_users[node.output[0]]
                base = _slot_name(user, slot)
            else:
                base = source.removesuffix("_quantized") + ("_quantized" if node.op_type[0] == "Q" else "_dequantized")
            _name_node(node, base, names, taken)
    for tensor in graph.initializer:
        user, slot = first_users[tensor.name]
        names[tensor.name] = tensor.name = _unique(_constant_name(user, slot), taken)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]


def _name_node(node: NodeProto, base: str, names: dict[str, str], taken: set[str]) -> None:
    kept = next((names[name] for name in node.output if name in names), None)
    node.name = _unique(base, taken) if kept is None else base
    for index, value in enumerate(node.output):
        if value and value not in names:
            names[value] = node.name if index == 0 else _unique(f"{node.name}_{index}", taken)
    names.setdefault("", "")


def _scope(node: NodeProto) -> str:
    """Return the dotted name of the module that a node belongs to, with the operator where a module has several."""
    kept = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    scopes = ast.literal_eval(kept)
    module = str(scopes[-2]) if len(scopes) > 1 else ""
    if module.startswith("_empty_nn_module_stack"):  # torch's placeholder for a call that belongs to no module
        module = ""
    operator = node.op_type.lower()
    if node.op_type in _SLOTS and module:
        return module
    return f"{module}.{operator}" if module else operator


def _first_users(nodes: Iterable[NodeProto]) -> dict[str, tuple[NodeProto, int]]:
    users: dict[str, tuple[NodeProto, int]] = {}
    for node in nodes:
        for slot, name in enumerate(node.input):
            users.setdefault(name, (node, slot))
    return users


def _constant_name(user: NodeProto, slot: int) -> str:
    if user.op_type in _QUANTIZERS:
        return f"{user.name}_{('integers', 'scale', 'zero_point')[slot]}"
    return _slot_name(user, slot)


def _slot_name(user: NodeProto, slot: int) -> str:
    slots = _SLOTS.get(user.op_type, ())
    return f"{user.name}.{slots[slot] if slot < len(slots) else slot}"


def _unique(base: str, taken: set[str]) -> str:
    name, number = base, 1
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    taken.add(name)
    return name
