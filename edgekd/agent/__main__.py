"""`python -m edgekd.agent`, or `python3 agent.pyz`: the agent's command line.

`run` talks to a host, as `events` says. The other commands talk to people: what was asked for on standard output,
"error: ..." on standard error and exit code 1 where it cannot be had, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Callable, Dict, List, NoReturn, Optional, Tuple

from edgekd.agent import __version__, bundling, child, events, probe, serving, standalone
from edgekd.agent.errors import AgentError
from edgekd.agent.measuring import measure

Command = Tuple[str, Callable[[ArgumentParser], None], Callable[[Namespace], int]]


def _run_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", type=Path, help="directory with job.json")
    parser.add_argument("out", type=Path, help="directory for the measurement; absent or empty")


def _run(chosen: Namespace) -> int:
    return events.reported(lambda: measure(chosen.job, chosen.out, events.progress))


def _serve_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="directory with manifest.json and job")
    seconds = serving.LEASE_SECONDS
    about = "remove the directory when nobody has come for its results for so long (default: %g)" % seconds
    parser.add_argument("--lease", type=float, default=seconds, metavar="SECONDS", help=about)


def _serve(chosen: Namespace) -> int:
    return serving.serve(chosen.folder, chosen.lease)


def _follow_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="directory that is served")
    parser.add_argument("offset", type=int, help="0, or where an earlier call left off")


def _follow(chosen: Namespace) -> int:
    return serving.follow(chosen.folder, chosen.offset)


# Name: (what --help says, what adds its arguments, what does it and returns the exit code).
COMMANDS: Dict[str, Command] = {
    "run": ("measure a job directory", _run_arguments, _run),
    "bench": ("measure ONNX files here and print a preview", standalone.add_arguments, standalone.command),
    "probe": ("tell what this device is and what can be measured on it", probe.add_arguments, probe.command),
    "bundle": ("measure the bundle that was unzipped here", bundling.add_arguments, bundling.command),
    "serve": ("measure what a host has sent, whether it stays connected or not", _serve_arguments, _serve),
    "follow": ("print what a serving agent tells, from a byte offset on", _follow_arguments, _follow),
}


def main(arguments: Optional[List[str]] = None) -> int:
    """Run a command line and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["child"]:  # not for people: the task file, and the descriptor for its events
        return child.main(given[1], int(given[2]))
    parser = argparse.ArgumentParser(prog=_program(), description="Measures models on this device.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (about, add_arguments, _) in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + "."))
    chosen = parser.parse_args(given)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return COMMANDS[chosen.command][2](chosen)
    except AgentError as error:
        print("error: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever listened is gone, and nobody else wants the rest. Python must not fail once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _program() -> str:
    """Return how this agent was called, for its own --help."""
    packed = Path(sys.argv[0]).suffix == ".pyz"
    return "python3 %s" % Path(sys.argv[0]).name if packed else "python -m edgekd.agent"


def _interrupt(number: int, frame: object) -> NoReturn:
    """Turn SIGTERM into the way out that ends the children."""
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
