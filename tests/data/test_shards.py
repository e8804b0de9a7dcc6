from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sources import encoded, samples, write_shards, write_tar

from edgekd import data
from edgekd.errors import UsageError

RNG = np.random.default_rng(4)


def load(root: Path, **options: object) -> data.Data:
    return data.load(str(root), validation=0.2, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four shards of 16, 16, 16 and 12 training samples, and one of 12 for the test."""
    return write_shards(tmp_path / "mine", samples())


def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(entry.name, tar.extractfile(entry).read()) for entry in tar.getmembers()]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "npy"])
def test_a_sample_is_what_tarfile_and_pillow_or_numpy_make_of_it(tmp_path: Path, suffix: str) -> None:
    write_shards(tmp_path, samples((6, 5, 3)), suffix)
    truth = []
    for path in sorted(tmp_path.glob("train-*.tar")):
        for name, content in members(path):
            if name.endswith(suffix):
                file = io.BytesIO(content)
                truth.append(np.load(file) if suffix == "npy" else np.asarray(Image.open(file)))
    read = data.load(str(tmp_path), validation=0.2)
    assert len(truth) == 60
    assert read.train.inputs.reader.shape == (60, 3, 6, 5)
    chosen = np.array([47, 0, 21, 22, 47])
    expected = np.moveaxis(np.stack(truth)[read.train.inputs.samples[chosen]], 3, 1) / 255
    np.testing.assert_allclose(read.train.inputs[chosen], expected, rtol=1e-6)
    assert read.classes == ("0", "1", "2")
    assert read.preprocessing["scale"] == 1 / 255


def test_names_are_cut_at_the_first_dot_and_other_members_are_left_alone(root: Path) -> None:
    extra = [("notes.txt", b"x"), ("a/b.c/000016.png", encoded(np.full((6, 5), 7, np.uint8), "png"))]
    extra += [("a/b.c/000016.seg.png", b"mask"), ("a/b.c/000016.CLS", b" 1 "), ("a/b.c/000017.txt", b"caption")]
    path = root / "train-000000.tar"
    long = f"{'deep/' * 40}000000"
    write_tar(path, [*members(path), *extra, (f"{long}.cls", b"2"), (f"{long}.png", extra[1][1])])
    read = load(root)
    assert read.train.inputs.reader.shape == (62, 1, 6, 5)
    held = np.concatenate([read.train.targets, read.validation.targets])
    assert np.bincount(held).tolist() == [20, 21, 21]
    sevens = read.train.inputs.reader.read(np.array([16, 17]))
    np.testing.assert_allclose(sevens, 7 / 255, rtol=1e-6)


def test_one_colour_image_anywhere_makes_all_of_them_rgb(root: Path) -> None:
    path = root / "test-000000.tar"
    colour = RNG.integers(0, 256, (6, 5, 3), np.uint8)
    write_tar(path, [*members(path), ("9.png", encoded(colour, "png")), ("9.cls", b"0")])
    read = load(root)
    assert read.train.inputs.shape == (48, 3, 6, 5)
    np.testing.assert_allclose(read.test.inputs[12], np.moveaxis(colour, 2, 0) / 255, rtol=1e-6)


@pytest.mark.parametrize("name", ["validation", "val"])
def test_a_validation_split_is_used_as_it_is(root: Path, name: str) -> None:
    (root / f"{name}-000000.tar").write_bytes((root / "train-000001.tar").read_bytes())
    read = load(root)
    assert (len(read.train), len(read.validation)) == (60, 16)


def test_arrays_of_numbers_are_taken_as_they_are(tmp_path: Path) -> None:
    values = {split: (RNG.normal(size=(len(y), 4)), y) for split, (_, y) in samples().items()}
    read = load(write_shards(tmp_path, values, "npy"))
    assert (read.train.inputs.shape, read.train.inputs.dtype, read.preprocessing) == ((48, 4), np.float32, {})
    np.testing.assert_array_equal(read.test.inputs, values["test"][0].astype(np.float32))
    assert load(write_shards(tmp_path, values, "npy")).classes == ("0", "1", "2")


def test_what_is_there_is_told_and_classes_may_be_named(root: Path) -> None:
    assert data.describe(str(root)) == f"{root} with 4 train, 1 test tar files"
    (root / "classes.txt").write_text("cat\ndog\nfish\n")
    assert load(root).classes == ("cat", "dog", "fish")


IMAGE = encoded(np.zeros((6, 5), np.uint8), "png")
BAD_ARRAY = encoded(np.array([[1.0, np.inf]]), "npy")


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ([("9.png", IMAGE)], 'train-000001.tar: the sample 9 has no label (9.cls, or 9.json with "label")'),
        ([("9.png", IMAGE), ("9.json", b'{"caption": "x"}')], "the sample 9 has no label"),
        ([("9.cls", b"1")], "train-000001.tar: the sample 9 has no input (.bmp, .jpeg, .jpg, .npy, .png)"),
        ([("9.png", IMAGE), ("9.json", b"[" * 100_000)], "train-000001.tar: 9.json: is not JSON: b'[[["),
        ([("9.png", IMAGE), ("9.cls", b"9" * 30)], "train-000001.tar: 9.cls: the label is larger than"),
        ([("9.npy", b"PK\3\4 nothing"), ("9.cls", b"1")], "train-000001.tar: 9.npy: is no array of numbers"),
        ([("9.png", IMAGE), ("9.cls", b"cat")], "train-000001.tar: 9.cls: is not an integer: b'cat'"),
        ([("9.png", IMAGE), ("9.json", b'{"label": "cat"}')], "9.json: the label is 'cat'; it must be an integer"),
        ([("9.png", IMAGE), ("9.json", b"{")], "9.json: is not JSON: b'{'"),
        ([("9.png", IMAGE), ("9.cls", b"7"), ("x/9.png", IMAGE), ("x/9.cls", b"-2")], "found -2 with 8 classes"),
        (
            [("9.png", IMAGE), ("9.cls", b"1"), ("9.png", IMAGE)],
            "train-000001.tar: the sample 9 has two members for its input, 9.png and 9.png; each sample needs a key of",
        ),
        ([("9.png", IMAGE), ("9.cls", b"1"), ("9.jpg", IMAGE)], "two members for its input, 9.png and 9.jpg"),
        ([("9.png", IMAGE), ("9.cls", b"1"), ("9.cls", b"1")], "two members for its label, 9.cls and 9.cls"),
        (
            [("9.png", encoded(np.zeros((7, 5), np.uint8), "png")), ("9.cls", b"1")],
            "train-000001.tar: 9.png is of another kind than the inputs before it, images of 5 x 7 pixels and images "
            "of 5 x 6 pixels; all must be alike: scale images first",
        ),
        ([("9.npy", encoded(np.zeros((6, 5)), "npy")), ("9.cls", b"1")], "arrays float64 (6, 5) and images of 5 x 6"),
        ([("9.png", b"no image"), ("9.cls", b"1")], "train-000001.tar: 9.png: is no image"),
        ([("9.npy", b"no array"), ("9.cls", b"1")], "train-000001.tar: 9.npy: is no array of numbers"),
        ([("9.npy", BAD_ARRAY), ("9.cls", b"1")], "train-000001.tar: 9.npy: has values that are not finite"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(root: Path, added: list[tuple[str, bytes]], message: str) -> None:
    path = root / "train-000001.tar"
    write_tar(path, [*members(path), *added])
    with pytest.raises(UsageError) as caught:
        load(root)
    assert message in str(caught.value)
    assert "mine" in str(caught.value)


def test_shards_of_another_kind_are_refused(root: Path) -> None:
    write_tar(root / "test-000001.tar", {"0.png": encoded(np.zeros((8, 8), np.uint8), "png"), "0.cls": b"0"})
    with pytest.raises(
        UsageError, match=r"test-000001.tar: the inputs are images of 8 x 8 pixels, those of .*000000.tar"
    ):
        load(root)


def test_damaged_shards_are_refused(root: Path) -> None:
    path = root / "train-000002.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
        middle = tar.getmembers()[9]
    content = last.offset_data + 512
    broken = bytearray(whole)
    broken[middle.offset + 148] ^= 0xFF  # its checksum
    for damaged, message in {
        b"": "is no tar file, or is damaged: empty file",
        b"text" * 1000: "is no tar file, or is damaged",
        gzip.compress(whole): "is no tar file, or is damaged: .*compressed ones must be unpacked",
        whole[: middle.offset_data + 3]: "is (truncated|no tar file, or is damaged: unexpected end)",
        whole[: middle.offset]: f"is truncated: it has no end mark after byte {middle.offset}",
        whole[: middle.offset + 100]: f"is truncated: it has no end mark after byte {middle.offset}",
        whole[:content]: f"is truncated: it has no end mark after byte {content}",
        bytes(broken): f"is damaged: there is no tar header at byte {middle.offset}",
    }.items():
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=f"train-000002.tar: {message}"):
            load(root)
    write_tar(path, {"README.md": b"nothing else"})
    with pytest.raises(UsageError, match=r"train-000002.tar: has no samples"):
        load(root)


def test_a_missing_split_is_said(root: Path) -> None:
    (root / "test-000000.tar").rename(root / "tset-000000.tar")
    with pytest.raises(
        UsageError, match=r'has no test-\*.tar; did you mean "tset"\? .*; it has: .*, \.\.\. 5 in all\)'
    ):
        data.describe(str(root))
    for path in root.glob("*.tar"):
        path.rename(path.with_name(f"{path.name}.gz"))
    with pytest.raises(
        UsageError, match=r"has no train-\*.tar \(needed: .*, not compressed; it has: train-000000.tar.gz, "
    ):
        data.describe(str(root))
