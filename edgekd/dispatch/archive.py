"""Zip files that somebody sent: read so that none of them can do harm.

Names, kinds and sizes are checked before anything is read; what is read is counted and must match its checksum; and
nothing is at its place before all of it is good.
"""

from __future__ import annotations

import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from edgekd.artifact import storage_error
from edgekd.errors import UsageError

MAX_RATIO = 200
"""How many times larger than packed a file may be. What agents write stays below it."""
_SMALL_BYTES = 1 << 20  # so little does no harm, however well it is packed
_CHUNK = 1 << 20
_SHOWN = 8
_END = struct.Struct("<4s6xH10x")  # the signature of an archive's end, and the number of files in it
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OverflowError)


def extract(archive: Path, target: Path, *, allowed: Sequence[str], max_bytes: int, max_files: int) -> None:
    """Unpack a zip file into a new folder.

    Args:
        target: there must be none yet; it appears when all of the archive is known to be good.
        allowed: the names that may be in it; `*` stands for any text within one part of a path ("samples/*.npz").
        max_bytes: of all files together, unpacked.
        max_files: how many.

    Raises:
        UsageError: what is wrong with which file in it (all such are named), or that it is damaged.
        StageError: there is no room for it.
    """
    if not archive.is_file():
        raise UsageError(f"{archive}: there is no such file")
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as temporary:
        folder = Path(temporary) / "content"
        folder.mkdir()
        try:
            with zipfile.ZipFile(archive) as opened:
                members = opened.infolist()
                if _told_count(archive, len(opened.comment)) != len(members):
                    raise zipfile.BadZipFile("its table of contents is not as long as it says")
                _check(archive, members, allowed, max_bytes, max_files)
                for member in members:
                    _unpack(archive, opened, member, folder)
        except _DAMAGED as error:
            raise UsageError(
                f"{archive} is no zip file, or it was cut short or damaged ({error}); copy it again"
            ) from error
        except OSError as error:
            told = storage_error(f"unpacking {archive}", str(target.parent), error)
            if told is not error:
                raise told from error
            raise UsageError(f"{archive} is damaged ({error}); copy it again") from error
        folder.replace(target)


def _told_count(archive: Path, comment_bytes: int) -> int:
    """Return how many files the end of an archive promises: damage within its table of contents can swallow some."""
    with archive.open("rb") as stream:
        stream.seek(-(_END.size + comment_bytes), 2)
        signature, count = _END.unpack(stream.read(_END.size))
    if signature != b"PK\x05\x06":
        raise zipfile.BadZipFile("something was added to its end")
    return int(count)


def _check(
    archive: Path, members: list[zipfile.ZipInfo], allowed: Sequence[str], max_bytes: int, max_files: int
) -> None:
    """Refuse an archive whose table of contents is not one that we expect."""
    if len(members) > max_files:
        raise UsageError(f"{archive} holds {len(members)} files; at most {max_files} are expected")
    problems = [
        f"{member.orig_filename!r} {problem}"
        for member in members
        if (problem := _name_problem(member, allowed) or _kind_problem(member))
    ]
    problems += [f"{name!r} {problem}" for name, problem in _clashes([member.filename for member in members])]
    total = sum(member.file_size for member in members)
    if total > max_bytes:
        largest = max(members, key=lambda member: member.file_size)
        problems.append(
            f"its files are {total} bytes, unpacked; at most {max_bytes} are expected "
            f"(the largest: {largest.filename!r}, {largest.file_size})"
        )
    if sum(member.compress_size for member in members) > archive.stat().st_size:
        problems.append("its files overlap: together they are larger than the archive")
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise UsageError("\n  ".join([f"{archive} is refused, and nothing of it was kept:", *problems[:_SHOWN], *more]))


def _name_problem(member: zipfile.ZipInfo, allowed: Sequence[str]) -> str | None:
    name = member.orig_filename
    parts = name.split("/")
    if name.startswith("/"):
        return "is an absolute path"
    if "\\" in name:
        return "has a backslash in its name"
    if re.match("[A-Za-z]:", name):
        return "has a drive letter in its name"
    if ".." in parts:
        return "leads out of the archive"
    if name != member.filename or not any(_matches(parts, pattern.split("/")) for pattern in allowed):
        return f"is none of the files that are expected ({', '.join(allowed)})"
    return None


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether each part of a path is plain text and matches its part of a pattern."""
    return len(parts) == len(pattern) and all(
        re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", part) and fnmatchcase(part, one)
        for part, one in zip(parts, pattern, strict=True)
    )


def _kind_problem(member: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG):
        return "is no plain file"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is packed by method {member.compress_type}; expected are 0 (stored) and 8 (deflated)"
    if member.file_size > max(_SMALL_BYTES, MAX_RATIO * member.compress_size):
        return f"would become {member.file_size} bytes out of {member.compress_size}: a zip bomb"
    return None


def _clashes(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the names that cannot all be files of one folder."""
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    for name, count in Counter(names).items():
        if count > 1:
            yield name, f"is in it {count} times"
        if name in folders:
            yield name, "is a file and a folder"


def _unpack(archive: Path, opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    """Write one file; its checksum is compared when its end is read."""
    path = folder / member.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with opened.open(member) as source, path.open("xb") as sink:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > member.file_size:
                break
            sink.write(chunk)
    if size != member.file_size:
        raise UsageError(
            f"{archive}: {member.filename!r} is not as large as it says; the archive is damaged, copy it again"
        )
