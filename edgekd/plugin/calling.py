"""Running a user's own code: whatever it raises becomes one message with the user's file and line."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekd.errors import EdgekdError, StageError, UsageError
from edgekd.plugin.locating import Plugin, find_module, is_installed, locate, look_in


def load(name: str) -> Callable[..., Any]:
    """Import a plug-in and return it.

    Raises:
        UsageError: There is no such module or function.
        StageError: Its module failed while it was imported, or the name is nothing that can be called.
    """
    plugin = locate(name)
    try:
        found = getattr(_module(plugin), plugin.function)
    except EdgekdError:
        raise
    except (Exception, SystemExit) as error:
        raise StageError(f"{name}: cannot be imported: {_told(error)}") from error
    if not callable(found):
        raise StageError(f"{name} is {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]


def call(plugin: str | Plugin | Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a plug-in with keyword arguments and return what it returns.

    Raises:
        UsageError: There is no such module or function.
        StageError: It could not be imported, or it raised.
    """
    name = plugin.name if isinstance(plugin, Plugin) else plugin if isinstance(plugin, str) else _label(plugin)
    function = plugin if not isinstance(plugin, (str, Plugin)) else load(name)
    try:
        return function(**arguments)
    except EdgekdError:
        raise
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{key}={value!r}"[:60] for key, value in arguments.items())
        raise StageError(f"{name}({given}) failed: {_told(error)}") from error


def nameof(function: Callable[..., Any]) -> str:
    """Return the "package.module:function" of a function or class, under which another process finds it.

    One that is defined in the running script is known by the script's file name.

    Raises:
        UsageError: It has no such name: a lambda, something local or nested, an object, or code without a file.
    """
    label, remedy = _label(function), "define it with `def` or `class` at the top level of a module"
    qualified = getattr(function, "__qualname__", None)
    if not (inspect.isfunction(function) or inspect.isclass(function)) or qualified is None:
        raise UsageError(f"{label} is neither a function nor a class; {remedy}")
    if not qualified.isidentifier():
        raise UsageError(f"{label} cannot be found by its name; {remedy}")
    module = sys.modules.get(function.__module__)
    if module is None or getattr(module, qualified, None) is not function:
        raise UsageError(f"{label} is not what that name means in its module; {remedy}")
    if module.__name__ != "__main__":
        return f"{module.__name__}:{qualified}"
    return f"{_script(module, label)}:{qualified}"


def _script(main: ModuleType, label: str) -> str:
    """Return the module name of the running script."""
    if main.__spec__ is not None:  # python -m package.module
        return main.__spec__.name
    file = getattr(main, "__file__", None)
    if file is None:
        raise UsageError(
            f"{label} was typed into an interactive session; write it into a file and import it from there"
        )
    path = Path(file).resolve()
    if not path.stem.isidentifier():
        raise UsageError(f'{label} is in {path.name}, which cannot be imported: rename it to "name.py"')
    look_in(path.parent)
    if find_module(path.stem, label).resolve() != path:
        raise UsageError(f'{label} is in {path.name}, but the module "{path.stem}" is another one: rename the file')
    return path.stem


def _module(plugin: Plugin) -> ModuleType:
    """Import the module of a plug-in. The running script is not run a second time."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is not None and Path(file).resolve() == plugin.path.resolve():
        return main
    return importlib.import_module(plugin.module)


def _label(function: Callable[..., Any]) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}:{name}" if module and name else repr(function)


def _told(error: BaseException) -> str:
    """Return an error's type and message and the innermost line of the user's own code that led to it."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    here = Path(__file__).resolve().parents[1]
    users = [
        frame
        for frame in frames
        if not is_installed(Path(frame.filename)) and not Path(frame.filename).resolve().is_relative_to(here)
    ]
    place = f" ({users[-1].filename}:{users[-1].lineno})" if users else ""
    return f"{type(error).__name__}: {error}".rstrip(": ") + place
