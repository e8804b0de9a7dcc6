"""Where a plug-in is, and whether what a recipe says about it can be true. Nothing of it is imported."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from edgekd.document import suggest
from edgekd.errors import UsageError
from edgekd.plugin.signature import Parameter, Signature, definitions, imports

_NAME = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*)")
_INSTALLED = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True)
class Plugin:
    """A function or class that was found in the source of a module.

    Args:
        name: "package.module:function".
        path: the module's file.
        source_digest: sha256 (hex) over that file and the files of the same project that it imports, directly or not;
            of an installed package over that file and the list of what was installed. It cannot see files that are
            read, or modules that are imported by a computed name.
        parameters: the keyword arguments; those without a default are required.
        accepts_any: there may be more arguments than `parameters`.
    """

    name: str
    module: str
    function: str
    path: Path
    source_digest: str
    parameters: tuple[Parameter, ...]
    accepts_any: bool


def look_in(folder: Path) -> None:
    """Let plug-ins be found in a folder, such as that of the recipe; the working directory always is one.

    The folder goes after the standard library and before installed packages, as a script's own folder nearly does, but
    so that a user's `queue.py` breaks nothing.
    """
    entry = str(folder.resolve())
    if entry not in (str(Path(known).resolve()) for known in sys.path):
        first_installed = (i for i, known in enumerate(sys.path) if _INSTALLED & set(Path(known).parts))
        sys.path.insert(next(first_installed, len(sys.path)), entry)


def locate(name: str) -> Plugin:
    """Find a plug-in by its name without importing it or the packages around it.

    Raises:
        UsageError: The name is no "package.module:function", or there is no such module or function.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        hint = f"; a file is named by its module: {_module_of_file(name)}" if ".py" in name or "/" in name else ""
        raise UsageError(f'"{name}" is not of the form "package.module:function"{hint}')
    module, function = match["module"], match["function"]
    path = find_module(module, name)
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UsageError(f"{name}: {path}{line} is not valid Python: {getattr(error, 'msg', error)}") from error
    found = definitions(tree)
    signature = found.get(function, found.get("*"))
    if signature is None:
        called = sorted(one for one in found if not one.startswith("_"))
        there = f"it has: {', '.join(called)}" if called else "it is empty"
        raise UsageError(f'{name}: {path} has no "{function}"{suggest(function, called)} ({there})')
    if function not in found:
        signature = Signature()
    digest = _source_digest(module, path)
    return Plugin(name, module, function, path, digest, signature.parameters, signature.accepts_any)


def check_arguments(plugin: Plugin, arguments: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the keyword arguments for a plug-in, one text for each."""
    known = [parameter.name for parameter in plugin.parameters]
    listed = f"(arguments: {', '.join(map(str, plugin.parameters)) or 'none'})"
    unknown = [] if plugin.accepts_any else [argument for argument in arguments if argument not in known]
    missing = [one.name for one in plugin.parameters if one.default is None and one.name not in arguments]
    return [
        *(f'{plugin.name} has no argument "{one}"{suggest(one, known)} {listed}' for one in unknown),
        *(f'{plugin.name} needs the argument "{one}" {listed}' for one in missing),
    ]


def find_module(module: str, name: str) -> Path:
    """Return the source file of a module; `name` is what the user wrote.

    Raises:
        UsageError: There is no such module, or it is no Python source file.
    """
    look_in(Path.cwd())
    importlib.invalidate_caches()
    parts = module.split(".")
    spec = None
    searched: Sequence[str] = [entry for entry in sys.path if _is_users(entry)]
    for index, part in enumerate(parts):
        full = ".".join(parts[: index + 1])
        # Without a parent nothing is imported to find a spec; with one, only its folders are looked at.
        spec = _top_spec(full) if spec is None else _inner_spec(full, searched)
        if spec is None:
            raise UsageError(f'{name}: there is no module "{full}"{_near(part, full, searched)} {_looked(searched)}')
        if spec.submodule_search_locations is None and index < len(parts) - 1:
            raise UsageError(f'{name}: "{full}" is a module ({spec.origin}), not a package with modules in it')
        searched = list(spec.submodule_search_locations or ())
    assert spec is not None
    if spec.origin is None:
        raise UsageError(f'{name}: "{module}" is a folder; name a module in it {_looked(searched)}')
    if not spec.origin.endswith(".py"):
        raise UsageError(f'{name}: "{module}" is not Python source ({spec.origin})')
    return Path(spec.origin)


def is_installed(path: Path) -> bool:
    """Tell whether a file belongs to the standard library or to an installed package, not to the user's project."""
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    return bool(_INSTALLED & set(path.parts)) or path.resolve().is_relative_to(standard)


def _top_spec(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except ValueError:  # an imported module without a spec, such as __main__
        return None


def _inner_spec(module: str, folders: Sequence[str]) -> ModuleSpec | None:
    """Find a module in the folders of its package. PathFinder would need that package to be imported."""
    portions: list[str] = []
    for folder in folders:
        finder = pkgutil.get_importer(folder)
        spec = finder.find_spec(module) if finder is not None else None
        if spec is not None and spec.loader is not None:
            return spec
        portions += (spec.submodule_search_locations or ()) if spec is not None else ()
    if not portions:
        return None
    namespace = ModuleSpec(module, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


def _is_users(entry: str) -> bool:
    folder = Path(entry or ".").resolve()
    scripts = Path(sysconfig.get_path("scripts")).resolve()
    return folder.is_dir() and folder != scripts and not is_installed(folder)


def _near(part: str, full: str, folders: Sequence[str]) -> str:
    around = full.removesuffix(part)
    return suggest(part, _modules(folders)).replace('"', f'"{around}', 1)


def _looked(folders: Sequence[str]) -> str:
    modules = ", ".join(sorted(_modules(folders))[:12]) or "none"
    return f"(looked in {', '.join(str(Path(folder).resolve()) for folder in folders)}; modules there: {modules})"


def _modules(folders: Sequence[str]) -> set[str]:
    entries = [entry for folder in folders for entry in Path(folder).iterdir()]
    files = {entry.stem for entry in entries if entry.suffix == ".py" and entry.stem != "__init__"}
    packages = {entry.name for entry in entries if entry.is_dir() and any(entry.glob("*.py"))}
    return {module for module in files | packages if module.isidentifier()}


def _module_of_file(name: str) -> str:
    path, _, function = name.partition(":")
    return f'"{path.removesuffix(".py").strip("./").replace("/", ".")}:{function or "FUNCTION"}"'


def _source_digest(module: str, path: Path) -> str:
    top = module.partition(".")[0]
    if top == "edgekd":  # what ships is known by the version of the stages that use it
        return hashlib.sha256(path.read_bytes()).hexdigest()
    record = _record(top) if is_installed(path) else None
    if record is not None:  # to follow the imports of a large package takes a minute
        return hashlib.sha256(path.read_bytes() + record.encode()).hexdigest()
    depth = module.count(".") + (path.name == "__init__.py")
    root = path.parents[depth]
    only = top if is_installed(path) else None
    digests: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _local_file(root, name)
        if name in digests or file is None or (only and name.partition(".")[0] != only):
            continue
        content = file.read_bytes()
        digests[name] = hashlib.sha256(content).hexdigest()
        waiting += [name.rpartition(".")[0]] if "." in name else []  # a package's __init__ runs too
        waiting += _imported(content, name, file)
    return hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()


def _record(package: str) -> str | None:
    """Return the list of files, with their digests, that was installed with a package; None where there is none."""
    try:
        return importlib.metadata.distribution(package).read_text("RECORD")
    except importlib.metadata.PackageNotFoundError:
        return None


def _imported(content: bytes, module: str, file: Path) -> set[str]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return set()  # it is in the digest; that it cannot be imported shows when it is
    return imports(tree, module, file.name == "__init__.py")


def _local_file(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    files = (base / "__init__.py", base.with_name(f"{base.name}.py"))
    return next((file for file in files if file.is_file()), None)
