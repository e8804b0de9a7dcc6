"""Inputs that atheris finds by what they make a parser run: `python -m fuzz.guided TARGET [options of libFuzzer]`.

Run it in tests/, with `pip install atheris`. It ends at the first mistake, and leaves that input as crash-*.
"""

from __future__ import annotations

import sys
import tempfile
import warnings

import atheris

with atheris.instrument_imports(include=["edgekd"]):
    from fuzz.targets import CORPUS, TARGETS, check


def main() -> None:
    """Fuzz one target until a mistake, or as long as `-max_total_time=SECONDS` says."""
    program, name, *options = sys.argv
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as found:  # libFuzzer keeps what it finds in the first folder
        atheris.Setup([program, *options, found, str(CORPUS / name)], lambda content: check(TARGETS[name], content))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
