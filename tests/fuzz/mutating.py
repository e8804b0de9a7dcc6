"""Inputs that are almost right: those of a corpus with a few changes."""

from __future__ import annotations

import random
from collections.abc import Sequence

LONGEST = 1 << 16
_WORDS = (
    b"", b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80", b"-1", b"0", b"1e999", b"NaN", b"9" * 25, b"null", b"true",
    b"[", b"{", b"}", b'"', b"'", b"[]", b"{}", b": ", b"- ", b"&a ", b"*a", b"<<: ", b"!!python/object:os.system ",
    b"\n", b"\r", b"../", b"/", b"\\", b"\xed\xa0\x80", b"\\ud800", b"\x1b[2J", b"PK\x03\x04", b"PK\x05\x06",
    b"\x93NUMPY", b"\x1f\x8b",
)  # fmt: skip


def mutated(seeds: Sequence[bytes], pick: random.Random) -> bytes:
    """Return one of the seeds after one to six changes."""
    content = bytearray(pick.choice(seeds))
    for _ in range(pick.randint(1, 6)):
        at = pick.randint(0, len(content))
        end = min(len(content), at + pick.choice((1, 1, 2, 4, 16, 64)))
        kind = pick.randrange(7)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << pick.randrange(8)
        elif kind == 1 and at < len(content):
            content[at] = pick.randrange(256)
        elif kind == 2:
            del content[at:end]
        elif kind == 3:
            content[at:at] = content[at:end] * pick.choice((1, 2, 50))
        elif kind == 4:
            content[at:end] = pick.choice(_WORDS)
        elif kind == 5:
            content[at:at] = pick.choice(_WORDS)
        elif kind == 6:
            other = pick.choice(seeds)
            start = pick.randint(0, len(other))
            content[at:end] = other[start : start + pick.choice((4, 32, 256))]
    return bytes(content[:LONGEST])
