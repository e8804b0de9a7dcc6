"""The agent as one file, `agent.pyz`: it runs wherever there are Python 3.8, numpy and a runtime.

The same sources give the same bytes on every host, so that a device can keep the file and know it by its SHA-256.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import edgekd.agent
from edgekd.agent.files import replacing, sha256

SHEBANG = b"#!/usr/bin/env python3\n"

# Read by whatever Python a board has: Python 2.7 must get as far as the message.
MAIN = '''\
"""The measuring agent of edgekd %(version)s."""

import sys


def main():
    if sys.version_info < (3, 8):
        return "error: the agent needs Python 3.8 or newer; %%s is Python %%d.%%d" %% (
            sys.executable, sys.version_info[0], sys.version_info[1])
    try:
        import numpy
    except ImportError as error:
        return ("error: numpy is not installed for %%s: sudo apt install python3-numpy, or "
                "%%s -m pip install numpy (%%s)" %% (sys.executable, sys.executable, error))
    del numpy
    from edgekd.agent.__main__ import main as agent
    return agent()


if __name__ == "__main__":
    sys.exit(main())
'''

PACKAGE = '''\
"""The part of edgekd that runs on a device."""
'''


def agent_pyz(target: Path) -> str:
    """Write the agent's zip file and return its SHA-256."""
    with replacing(target) as stream:
        stream.write(SHEBANG)
        # Stored, not deflated: compressed bytes depend on the version of zlib.
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, content in sorted(_members().items()):
                member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                member.create_system = 3  # Unix, whatever this host is
                member.external_attr = 0o644 << 16
                archive.writestr(member, content)
    target.chmod(0o755)
    return sha256(target)


def _members() -> dict[str, bytes]:
    """Return the files of the zip by name."""
    package = Path(edgekd.agent.__file__).parent
    members = {
        f"edgekd/agent/{path.relative_to(package).as_posix()}": path.read_bytes() for path in package.rglob("*.py")
    }
    main = MAIN % {"version": edgekd.agent.__version__}
    return {"__main__.py": main.encode("ascii"), "edgekd/__init__.py": PACKAGE.encode("ascii"), **members}
