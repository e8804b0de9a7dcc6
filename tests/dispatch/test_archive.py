"""Zip files that mean harm, or were harmed: each is refused, and nothing of it is anywhere afterwards."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.dispatch.archive import MAX_RATIO, extract
from edgekd.errors import StageError, UsageError

ALLOWED = ("top.json", "data/*.npz")
GOOD = {"top.json": b'{"a": 1}\n' * 20, "data/one.npz": os.urandom(60), "data/two.npz": b""}
Entry = tuple[str | zipfile.ZipInfo, bytes]


def pack(path: Path, entries: list[Entry], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return pack(tmp_path / "good.zip", list(GOOD.items()))


def unpack(archive: Path, target: Path, *, max_bytes: int = 10**8, max_files: int = 20) -> dict[str, bytes]:
    extract(archive, target, allowed=ALLOWED, max_bytes=max_bytes, max_files=max_files)
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def refused(archive: Path, target: Path, **limits: int) -> str:
    """Return the message of the refusal, after a look that nothing else is there than before."""
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(UsageError) as error:
        unpack(archive, target, **limits)
    assert sorted(target.parent.rglob("*")) == before
    assert str(archive) in str(error.value)
    return str(error.value)


def member(name: str, **fields: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def attributes(kind: int) -> int:
    return (kind | 0o777) << 16


def test_a_good_archive_is_unpacked_whole(good, tmp_path):
    assert unpack(good, tmp_path / "out") == GOOD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.zip", "out"]


NAMES = {
    "../top.json": "leads out of the archive",
    "data/../../top.json": "leads out of the archive",
    "data/..": "leads out of the archive",
    "/etc/passwd": "is an absolute path",
    "//host/share/top.json": "is an absolute path",
    "data\\..\\..\\top.json": "has a backslash in its name",
    "C:/top.json": "has a drive letter in its name",
    "c:top.json": "has a drive letter in its name",
    "data/one.npz\0.json": "is none of the files that are expected",
    "other.json": "is none of the files that are expected (top.json, data/*.npz)",
    "data/deep/one.npz": "is none of the files that are expected",
    "data/one.npz/": "is none of the files that are expected",
    "data/": "is none of the files that are expected",
    "data//one.npz": "is none of the files that are expected",
    "./top.json": "is none of the files that are expected",
    "data/.hidden.npz": "is none of the files that are expected",
    "data/one\n.npz": "is none of the files that are expected",
    "data/on\u202ee.npz": "is none of the files that are expected",
    "": "is none of the files that are expected",
}


@pytest.mark.parametrize(("name", "problem"), NAMES.items(), ids=[repr(name) for name in NAMES])
def test_a_name_that_leads_elsewhere(name, problem, tmp_path):
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name
    message = refused(pack(tmp_path / "bad.zip", [("top.json", b"{}"), (info, b"evil")]), tmp_path / "out")
    assert problem in message
    assert repr(name) in message


KINDS: dict[str, tuple[zipfile.ZipInfo, str]] = {
    "link": (member("data/one.npz", external_attr=attributes(stat.S_IFLNK)), "is a link"),
    "folder": (member("data/one.npz", external_attr=attributes(stat.S_IFDIR)), "is no plain file"),
    "fifo": (member("data/one.npz", external_attr=attributes(stat.S_IFIFO)), "is no plain file"),
    "device": (member("data/one.npz", external_attr=attributes(stat.S_IFBLK)), "is no plain file"),
    "bzip2": (member("data/one.npz", compress_type=zipfile.ZIP_BZIP2), "is packed by method 12"),
    "lzma": (member("data/one.npz", compress_type=zipfile.ZIP_LZMA), "is packed by method 14"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_is_no_plain_file(kind, tmp_path):
    info, problem = KINDS[kind]
    message = refused(pack(tmp_path / "bad.zip", [("top.json", b"{}"), (info, b"/etc/passwd")]), tmp_path / "out")
    assert f"'data/one.npz' {problem}" in message


def altered(archive: Path, *, central: Callable[[bytearray, int], None]) -> Path:
    """Change the last entry of the table of contents: `central` gets the file's bytes and where the entry starts."""
    content = bytearray(archive.read_bytes())
    central(content, content.rfind(b"PK\x01\x02"))
    archive.write_bytes(content)
    return archive


@pytest.mark.parametrize("bit", [0x1, 0x40, 0x2000])
def test_an_encrypted_member(bit, good, tmp_path):
    def encrypt(content: bytearray, at: int) -> None:
        content[at + 8 : at + 10] = struct.pack("<H", bit)

    assert "'data/two.npz' is encrypted" in refused(altered(good, central=encrypt), tmp_path / "out")


def test_a_name_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        bad = pack(tmp_path / "bad.zip", [("top.json", b"{}"), ("top.json", b"[]")])
    assert "'top.json' is in it 2 times" in refused(bad, tmp_path / "out")


def test_a_file_where_a_folder_must_be(tmp_path):
    bad = pack(tmp_path / "bad.zip", [("a.npz", b""), ("a.npz/b.npz", b"")])
    with pytest.raises(UsageError, match=r"'a\.npz' is a file and a folder"):
        extract(bad, tmp_path / "out", allowed=("*.npz", "*.npz/*.npz"), max_bytes=100, max_files=5)


def test_a_name_that_differs_from_the_one_before_its_content(good, tmp_path):
    def rename(content: bytearray, at: int) -> None:
        content[at + 46 : at + 58] = b"data/six.npz"

    assert "differ" in refused(altered(good, central=rename), tmp_path / "out")


def test_bombs(tmp_path):
    zeros = pack(tmp_path / "zeros.zip", [("data/one.npz", bytes(50_000_000))])
    assert zeros.stat().st_size < 100_000
    assert "'data/one.npz' would become 50000000 bytes out of" in refused(zeros, tmp_path / "out")
    assert "zip bomb" in refused(zeros, tmp_path / "out")

    half = os.urandom(600)
    many = pack(tmp_path / "many.zip", [(f"data/{k}.npz", half * 2) for k in range(10)])
    message = refused(many, tmp_path / "out", max_bytes=11_999)
    assert "its files are 12000 bytes, unpacked; at most 11999 are expected" in message
    assert "'data/0.npz'" in message
    assert len(unpack(many, tmp_path / "out", max_bytes=12_000)) == 10

    assert "holds 10 files; at most 9" in refused(many, tmp_path / "more", max_files=9)


def test_what_packs_well_but_is_small_or_below_the_ratio_is_no_bomb(tmp_path):
    content = {"data/one.npz": bytes(900_000), "data/two.npz": (os.urandom(20_000) + bytes(900_000)) * 3}
    archive = pack(tmp_path / "dense.zip", list(content.items()))
    with zipfile.ZipFile(archive) as opened:
        small, large = opened.infolist()
        assert small.file_size > MAX_RATIO * small.compress_size
        assert large.file_size < MAX_RATIO * large.compress_size
    assert unpack(archive, tmp_path / "out") == content


def test_files_that_share_their_content(tmp_path):
    """Many entries for one piece of data, which grows without limit from nothing (Fifield 2019)."""
    one = pack(tmp_path / "one.zip", [("data/0.npz", os.urandom(1000))], zipfile.ZIP_STORED).read_bytes()
    at, end = one.rfind(b"PK\x01\x02"), one.rfind(b"PK\x05\x06")
    entries = b"".join(one[at:end].replace(b"data/0", b"data/%d" % k) for k in range(5))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 5, 5, len(entries), at, 0)
    (tmp_path / "bad.zip").write_bytes(one[:at] + entries + tail)
    assert "its files overlap" in refused(tmp_path / "bad.zip", tmp_path / "out")


@pytest.mark.parametrize("claimed", [150, 250])
def test_a_size_that_is_not_true(claimed, tmp_path):
    """The content is 200 bytes, deflated; what is told is fewer or more, with a checksum that fits the lie."""
    content = bytes(range(200))
    archive = pack(tmp_path / "bad.zip", [("data/one.npz", content)])

    def lie(changed: bytearray, at: int) -> None:
        for field, start in ((changed.find(b"PK\x03\x04") + 14, 8), (at + 16, 8)):
            changed[field : field + 4] = struct.pack("<L", zlib.crc32(content[:claimed]))
            changed[field + start : field + start + 4] = struct.pack("<L", claimed)

    altered(archive, central=lie)
    if claimed < len(content):  # what was promised is there, and no more is read
        assert unpack(archive, tmp_path / "out") == {"data/one.npz": content[:claimed]}
    else:
        assert "'data/one.npz' is not as large as it says" in refused(archive, tmp_path / "out")


def test_a_wrong_checksum(good, tmp_path):
    content = good.read_bytes()
    start = content.find(GOOD["data/one.npz"])
    assert start > 0, "noise is not deflated"
    good.write_bytes(content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :])
    assert "damaged" in refused(good, tmp_path / "out")


def test_an_archive_that_is_cut_short_anywhere(good, tmp_path):
    whole = good.read_bytes()
    cut = tmp_path / "cut.zip"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        assert "is no zip file, or it was cut short" in refused(cut, tmp_path / "out")


def test_a_bit_that_flips_anywhere_is_noticed_or_does_no_harm(good, tmp_path):
    """What is accepted is what was sent: times, versions and comments of an archive are not its content."""
    whole = good.read_bytes()
    harmed = tmp_path / "harmed.zip"
    noticed = 0
    for position in range(len(whole)):
        flipped = whole[position] ^ (1 << position % 8)
        harmed.write_bytes(whole[:position] + bytes([flipped]) + whole[position + 1 :])
        target = tmp_path / f"out-{position}"
        try:
            found = unpack(harmed, target)
        except UsageError:
            noticed += 1
            assert not target.exists()
        else:
            assert found == GOOD, position
    assert noticed > len(whole) / 2


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file at all" * 100, bytes(1000)])
def test_what_is_no_zip_file(content, tmp_path):
    (tmp_path / "bad.zip").write_bytes(content)
    assert "is no zip file" in refused(tmp_path / "bad.zip", tmp_path / "out")


def test_an_archive_that_is_not_there(tmp_path):
    assert "there is no such file" in refused(tmp_path / "absent.zip", tmp_path / "out")
    assert "there is no such file" in refused(tmp_path, tmp_path / "out")


def test_all_problems_are_told_within_a_screen(tmp_path):
    bad = pack(tmp_path / "bad.zip", [(f"wrong-{k}", b"") for k in range(15)])
    message = refused(bad, tmp_path / "out")
    assert [f"'wrong-{k}'" in message for k in range(15)] == [True] * 8 + [False] * 7
    assert "and 7 more" in message
    assert len(message.splitlines()) == 10


def test_a_full_disk_is_no_damage(good, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StageError, match="no space left in"):
        extract(good, tmp_path / "out", allowed=ALLOWED, max_bytes=10**6, max_files=5)
    assert not (tmp_path / "out").exists()
