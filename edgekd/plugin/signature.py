"""What a module defines and how it is called, read from its source and never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """One keyword argument of a function; `default` is its source text, None where the argument is required."""

    name: str
    default: str | None

    def __str__(self) -> str:
        return self.name if self.default is None else f"{self.name}={self.default}"


@dataclass(frozen=True)
class Signature:
    """The keyword arguments of something callable; `accepts_any` where there may be more than the source shows."""

    parameters: tuple[Parameter, ...] = ()
    accepts_any: bool = True


UNKNOWN = Signature()


def definitions(tree: ast.Module) -> dict[str, Signature]:
    """Return the names that a module has at its top level, also under `if`, `try` and `with`.

    The name "*" stands for those that cannot be seen: after `from x import *`, or with a module `__getattr__`.
    """
    found: dict[str, Signature] = {}
    for node in _statements(tree.body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found["*" if node.name == "__getattr__" else node.name] = _of_function(node)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = _of_class(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name.partition(".")[0]: UNKNOWN for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
            found |= dict.fromkeys(names, UNKNOWN)
    return found


def imports(tree: ast.Module, module: str, is_package: bool) -> set[str]:
    """Return the dotted names that a module may import, anywhere in it; `from a import b` gives `a` and `a.b`."""
    package = module if is_package else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            outer = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*outer, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
            for block in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, block, []))
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)


def _of_function(node: ast.FunctionDef | ast.AsyncFunctionDef, skipped: int = 0) -> Signature:
    if node.decorator_list:  # a decorator may take other arguments than the function below it
        return UNKNOWN
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    pairs = [*list(zip(positional, defaults, strict=True))[skipped:]]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    parameters = (Parameter(name.arg, None if default is None else ast.unparse(default)) for name, default in pairs)
    return Signature(tuple(parameters), arguments.kwarg is not None)


def _of_class(node: ast.ClassDef) -> Signature:
    if node.decorator_list:
        return UNKNOWN
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _of_function(item, skipped=1)
    return UNKNOWN if node.bases or node.keywords else Signature((), accepts_any=False)
