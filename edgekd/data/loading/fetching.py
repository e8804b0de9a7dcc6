"""Downloading a gzipped file whose content is known."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import tempfile
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

_TIMEOUT_S = 20
_LARGEST = 256 * 2**20  # bytes; no file of this kind is larger, whatever a server sends


def fetch(urls: Sequence[str], path: Path, sha256: str) -> Path:
    """Download a gzipped file from the first address that has it; it appears at the path only when it is whole.

    Args:
        urls: addresses of the same file, tried in this order. They need no encryption: the content is checked.
        sha256: hex digest of the uncompressed content.

    Raises:
        OSError: No address gave it, or it cannot be written; the message has a line for each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310  # addresses are constants
                packed = answer.read(_LARGEST)
            found = hashlib.sha256(gzip.decompress(packed)).hexdigest()
        except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
            failures.append(f"{url}: {error}")
            continue
        if found == sha256:
            _write(packed, path)
            return path
        failures.append(f"{url}: has other content (sha256 {found[:16]}..., expected {sha256[:16]}...)")
    raise OSError("\n".join(failures))


def _write(content: bytes, path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.replace(temporary, path)  # noqa: PTH105  # atomic
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
