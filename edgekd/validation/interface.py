"""Does the model take and give what the reference does: names, types, shapes, free axes?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edgekd.graph.lint import Port
from edgekd.validation.checks import Check, judged

_SHOWN = 3


def pairs(reference: Sequence[Port], model: Sequence[Port]) -> dict[str, str]:
    """Return the model's name for each of the reference's: the same one, else whatever is left over at its place."""
    ours, theirs = [port.name for port in model], [port.name for port in reference]
    left = iter([name for name in ours if name not in theirs])
    found = {name: name if name in ours else next(left, None) for name in theirs}
    return {name: own for name, own in found.items() if own is not None}


def compare(kind: str, reference: Sequence[Port], model: Sequence[Port]) -> Check:
    """Return whether inputs or outputs are the reference's.

    A size that is fixed where the reference's is free is told and not refused: many runtimes want fixed sizes.
    """
    paired, wrong, notes = pairs(reference, model), [], []
    by_name = {port.name: port for port in model}
    if len(reference) != len(model):
        wrong.append(f"{len(model)} {kind} ({_names(model)}), the reference has {len(reference)} ({_names(reference)})")
    for theirs in reference:
        if theirs.name not in paired:
            continue
        ours = by_name[paired[theirs.name]]
        if ours.name != theirs.name:
            wrong.append(f"{ours.name} is called {theirs.name} in the reference")
        if ours.dtype != theirs.dtype:
            wrong.append(f"{ours.name} is {ours.dtype}, the reference's {theirs.dtype}")
        if _clash(ours, theirs):
            wrong.append(f"{ours.name} has the shape {list(ours.shape)}, the reference's {list(theirs.shape)}")
        elif narrowed := [str(b) for a, b in zip(ours.shape, theirs.shape, strict=True) if _fixed(a) and not _fixed(b)]:
            notes.append(f"{ours.name} {list(ours.shape)} fixes {', '.join(narrowed)}, free in the reference")
    told = "; ".join([*wrong[:_SHOWN], *notes[:_SHOWN]]) or ", ".join(map(shown, model))
    return judged(kind, not wrong, told,
                  remedy="export with the names, types and order that the application uses, or convert the application "
                  "together with the model")  # fmt: skip


def declared_problems(
    outputs: Sequence[Port], sizes: Mapping[str, int], given: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    """Yield where the shapes of outputs are not those that the file declares.

    Args:
        outputs: as declared.
        sizes: of the free axes by name, as they were fed.
        given: the shapes that came out.
    """
    for port in outputs:
        shape = given.get(port.name)
        if shape is None or (not port.shape and len(shape)):  # nothing is declared
            continue
        wanted = [sizes.get(str(size)) if isinstance(size, str) else size for size in port.shape]
        if len(shape) != len(wanted) or any(
            want is not None and want != have for want, have in zip(wanted, shape, strict=True)
        ):
            yield f"{port.name} is declared {list(port.shape)}, and came out as {list(shape)}"


def free_axes(inputs: Sequence[Port], feeds: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the size that each named free axis has in what is fed (shapes by input)."""
    return {
        axis: int(size)
        for port in inputs if port.name in feeds
        for axis, size in zip(port.shape, feeds[port.name], strict=True)
        if isinstance(axis, str) and axis != "?"
    }  # fmt: skip


def shown(port: Port) -> str:
    """Return a port as a user writes it."""
    return f"{port.name} {port.dtype}{list(port.shape)}"


def _clash(ours: Port, theirs: Port) -> bool:
    if len(ours.shape) != len(theirs.shape):
        return True
    return any(_fixed(a) and _fixed(b) and a != b for a, b in zip(ours.shape, theirs.shape, strict=True))


def _fixed(size: int | str) -> bool:
    return isinstance(size, int)


def _names(ports: Sequence[Port]) -> str:
    return ", ".join(port.name for port in ports)
