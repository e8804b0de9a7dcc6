import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edgekd.data.loading import idx
from edgekd.errors import UsageError

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def encode(array: np.ndarray, code: int) -> bytes:
    """Write IDX as its description says, independently of the reader."""
    head = bytes([0, 0, code, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.sampled_from(sorted(CODES)).flatmap(lambda kind: arrays(kind, array_shapes(max_dims=4, max_side=4))),
    st.booleans(),
)
def test_what_was_written_is_read(tmp_path: Path, array: np.ndarray, zipped: bool) -> None:
    content = encode(array, CODES[array.dtype.str[1:]])
    path = tmp_path / "any-name"
    path.write_bytes(gzip.compress(content, 1) if zipped else content)
    read = idx.read(path)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_the_header_is_that_of_the_official_files() -> None:
    assert idx.header(np.zeros((60000, 28, 28), np.uint8)).hex() == "00000803" + "0000ea60" + "0000001c" * 2
    assert idx.header(np.zeros(10000, np.uint8)).hex() == "00000801" + "00002710"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file: it begins with nothing"),
        (b"\x89PNG....", "is no IDX file: it begins with 89504e47"),
        (b"\0\0\x07\1\0\0\0\1x", "is no IDX file: it begins with 00000701"),
        (b"\0\0\x08\3\0\0\0\1", "is truncated: expected a header of 16 bytes, found 8"),
        (b"\0\0\x08\1\0\0\0\5abc", "is truncated: its header says uint8 (5,), expected 5 bytes of values, found 3"),
        (b"\0\0\x0c\1\0\0\0\2abc", "is truncated: its header says int32 (2,), expected 8 bytes of values, found 3"),
        (
            b"\0\0\x08\1\0\0\0\2abc",
            "is oversized: its header says uint8 (2,), expected 2 bytes of values, found more than 2",
        ),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_damaged_file_is_refused_with_what_was_expected(
    tmp_path: Path, content: bytes, message: str, zipped: bool
) -> None:
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(UsageError) as caught:
        idx.read(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    packed = gzip.compress(encode(np.arange(1000, dtype=np.int32), 0x0C))
    for damaged in (packed[: len(packed) // 2], packed[:-3], packed[:40] + b"\xff" * 40 + packed[80:]):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match="damaged or truncated"):
            idx.read(path)
    with pytest.raises(UsageError, match="absent: cannot be read: No such file"):
        idx.read(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x08\x03" + b"\xff" * 12, "GB; of a file of its size at most"),
        (gzip.compress(b"\0\0\x08\x02" + b"\xff" * 4 + b"\0\0\xff\xff", mtime=0), "GB; of a file of its size at most"),
        (b"\0\0\x08\xff" + b"\xff" * 1020, "it has 255 axes"),
        (b"\0\0\x08\x03\0\0\0\0" + b"\xff" * 8, "is empty"),
    ],
)
def test_a_header_that_asks_for_too_much_gets_no_room(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        idx.read(tmp_path / "a")
