"""The command line. A command's module is imported only when the command is called, so that help is instant."""

from __future__ import annotations

import errno
import importlib
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from types import FrameType

import click

from edgekd import error_codes
from edgekd.cli.complaint import complain
from edgekd.errors import EdgekdError, StageError, UsageError
from edgekd.log import without_secrets
from edgekd.version import __version__

INTERRUPTED = 130
_GO_ON = "what is finished is kept: run the same command again to go on"
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)

COMMANDS = {
    "pipeline": "Distill, prune, quantize, export, validate and measure: the whole chain, one verdict.",
    "study": "Say whether the teacher helps: methods and seeds, with and without it.",
    "search": "Try other values of a recipe's own: losses, learning rate, student, teacher.",
    "bench": "Measure ONNX files side by side on a device.",
    "validate": "Check ONNX files before they are shipped, against a reference.",
    "explain": "Say why a model is as slow, or as inexact, as it is on a device.",
    "report": "Rebuild a run's report, and complete it with what devices gave.",
    "baseline": "Keep the figures of a run in a file, and check later runs against it.",
    "compare": "Say what changed between runs, and what of it is noise.",
    "recipe": "List, show, copy and check recipes.",
    "device": "List and show device profiles, and probe devices.",
    "cache": "List, verify and clean the store.",
    "doctor": "Check this installation: what works, what is missing, and how to get it.",
}
"""Every command's one line of help; its module in this package has its name, and a click command `command`."""

EPILOG = """Exit codes: 0 all gates passed, 1 a gate failed or could not be measured, 2 wrong input (found before
any work), 3 a stage failed, 4 a device could not be reached or is pending, 130 interrupted (run again)."""


class Commands(click.Group):
    """A group whose commands are modules, imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of their use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module."""
        if cmd_name not in COMMANDS:
            near = get_close_matches(cmd_name, COMMANDS, n=1)
            if near and not cmd_name.startswith("-"):
                ctx.fail(f"No such command {cmd_name!r}. Did you mean {near[0]!r}?")
            return None
        command = importlib.import_module(f"{__name__}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="edgekd %(version)s")
def cli() -> None:
    """Take a large trained network to a small device, and prove it there.

    `edgekd pipeline` runs the default recipe on this machine's processor; nothing is downloaded.
    """


def main() -> None:
    """Run the command line and exit with its code; the user sees messages, not tracebacks."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = cli(standalone_mode=False) or 0
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last resort; a bug is told as one
        code = _tell(error, as_json=_wants_json(sys.argv[1:]))
    sys.exit(code if isinstance(code, int) else 0)


def _tell(error: BaseException, *, as_json: bool) -> int:
    """Tell what ended the command, and return the exit code."""
    if isinstance(error, click.ClickException):
        if isinstance(error, click.UsageError) and error.ctx and not as_json:
            click.echo(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n", err=True)
        return complain(error_codes.USAGE, error.format_message(), UsageError.exit_code, as_json=as_json)
    if isinstance(error, EdgekdError):
        return complain(error_codes.code(error), str(error), error.exit_code, log=error.log, as_json=as_json)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        if as_json:
            return complain(error_codes.INTERRUPTED, _GO_ON, INTERRUPTED, as_json=True)
        click.echo(f"interrupted; {_GO_ON}", err=True)
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        told = f"{error.filename or 'the disk'}: {error.strerror}"
        return complain(error_codes.DISK, told, StageError.exit_code, as_json=as_json)
    told = f"internal error: {type(error).__name__}: {error}; please report it with {_keep_traceback(error)}"
    return complain(error_codes.BUG, told, StageError.exit_code, as_json=as_json)


def _wants_json(arguments: Sequence[str]) -> bool:
    """Return whether a command line asks for JSON; it may be one that could not be read."""
    command: click.Command | None = cli
    for word in arguments:
        if isinstance(command, Commands):
            command = command.get_command(click.Context(command), word) if word in COMMANDS else None
        elif isinstance(command, click.Group):
            command = command.commands.get(word)
    options = (one for one in (command.params if command else ()) if isinstance(one, click.Option))
    option = next((one for one in options if "--json" in one.opts), None)
    if option is None or "--json" not in arguments:
        return False
    following = arguments[arguments.index("--json") + 1 :][:1]
    return option.is_flag or not following or following[0].startswith("-")  # else a file is named


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _keep_traceback(error: BaseException) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="edgekd-error-", suffix=".txt", delete=False) as file:
        file.write(without_secrets("".join(traceback.format_exception(error))))
    return file.name
