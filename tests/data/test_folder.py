from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd import data
from edgekd.errors import StageError, UsageError

RNG = np.random.default_rng(11)


def paint(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def grey(height: int = 6, width: int = 5) -> np.ndarray:
    return RNG.integers(0, 256, (height, width), np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes with 8 training and 3 test images each, grey, 6 rows by 5 columns."""
    for split, count in (("train", 8), ("test", 3)):
        for label in ("cat", "dog"):
            for index in range(count):
                paint(tmp_path / split / label / f"{index}.png", grey())
    return tmp_path


def load(root: Path) -> data.Data:
    return data.load(str(root), validation=4)


def test_grey_images_have_one_channel_and_the_folders_name_the_classes(root: Path) -> None:
    exact = grey()
    paint(root / "test" / "cat" / "0.png", exact)
    (root / "test" / "cat" / "notes.txt").write_text("not an image")
    read = load(root)
    assert read.classes == ("cat", "dog")
    assert (len(read.train), len(read.validation)) == (12, 4)
    assert np.bincount(read.validation.targets).tolist() == [2, 2]
    assert read.test.inputs.shape == (6, 1, 6, 5)
    assert read.test.targets.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(read.test.inputs[0, 0], exact / 255, rtol=1e-6)
    assert data.describe(str(root)) == f"{root} with 16 train, 6 test images"


def test_one_colour_image_makes_all_of_them_rgb(root: Path) -> None:
    colour = RNG.integers(0, 256, (6, 5, 3), np.uint8)
    paint(root / "test" / "dog" / "2.png", colour)
    read = load(root)
    assert read.train.inputs.shape == (12, 3, 6, 5)
    np.testing.assert_allclose(read.test.inputs[5], np.moveaxis(colour, 2, 0) / 255, rtol=1e-6)
    np.testing.assert_array_equal(read.train.inputs[:, 0], read.train.inputs[:, 2])
    assert read.preprocessing["mode"] == "RGB"


@pytest.mark.parametrize("name", ["validation", "val", "valid"])
def test_a_validation_folder_is_used_as_it_is(root: Path, name: str) -> None:
    paint(root / name / "dog" / "a.jpg", grey())
    read = load(root)
    assert (len(read.train), len(read.validation)) == (16, 1)
    assert read.validation.targets.tolist() == [1]


def test_changed_images_are_read_again(root: Path) -> None:
    before = load(root)
    assert load(root) is before
    paint(root / "train" / "dog" / "more.png", grey())
    assert load(root).digest != before.digest


def test_what_is_wrong_is_said(root: Path) -> None:
    def message() -> str:
        with pytest.raises(UsageError) as caught:
            load(root)
        return str(caught.value)

    paint(root / "test" / "dgo" / "0.png", grey())
    assert 'the class "dgo" is not in' in message()
    assert 'did you mean "dog"? (test may have only the classes of train: cat, dog)' in message()
    (root / "test" / "dgo" / "0.png").rename(root / "odd.png")
    assert message() == f"{root / 'test' / 'dgo'}: has no images (.bmp, .jpeg, .jpg, .png)"
    (root / "test" / "dgo").rmdir()

    paint(root / "train" / "dog" / "7.png", grey(7, 5))
    assert (
        f"{root / 'train' / 'dog' / '7.png'}: is 5 x 7 pixels, {root / 'train' / 'dog' / '0.png'} is 5 x 6" in message()
    )
    (root / "train" / "dog" / "7.png").write_text("text")
    assert message() == f"{root / 'train' / 'dog' / '7.png'}: is no image"
    Image.fromarray(grey().astype(np.uint16)).save(root / "train" / "dog" / "7.png")
    assert "7.png: is of mode I;16" in message()
    paint(root / "train" / "dog" / "7.png", RNG.integers(0, 256, (6, 5, 3), np.uint8))
    whole = (root / "train" / "dog" / "7.png").read_bytes()
    (root / "train" / "dog" / "7.png").write_bytes(whole[:60])
    assert "7.png: the image is damaged: " in message()

    (root / "test").rename(root / "tset")
    assert message() == (
        f'{root}: has no folder "test"; did you mean "tset"? (images lie in {root}/train/CLASS and {root}/test/CLASS; '
        "it has: train, tset)"
    )
    with pytest.raises(UsageError, match="there is no such folder"):
        data.describe(str(root / "absent"))


def test_streamed_images_are_those_that_pillow_reads(root: Path) -> None:
    read = data.load(str(root), validation=4, stream=True)
    reader = read.train.inputs.reader
    paths = [root / name.decode() for name in reader.names.tolist()]
    assert paths == [*sorted((root / "train" / "cat").iterdir()), *sorted((root / "train" / "dog").iterdir())]
    truth = np.stack([np.asarray(Image.open(path)) for path in paths])[:, None] / 255
    chosen = np.array([11, 3, 4, 0])
    np.testing.assert_allclose(read.train.inputs[chosen], truth[read.train.inputs.samples[chosen]], rtol=1e-6)
    assert read.train.inputs.reader.sample_bytes == np.mean([path.stat().st_size for path in paths])


def test_what_is_wrong_with_streamed_images_is_said_before_training(root: Path) -> None:
    path = root / "train" / "dog" / "7.png"
    for write, message in [
        (lambda: paint(path, grey(7, 5)), f"{path}: is 5 x 7 pixels, {path.with_name('0.png')} is 5 x 6; all images"),
        (lambda: path.write_text("text"), f"{path}: is no image"),
        (lambda: [paint(one, grey(7, 5)) for one in path.parent.iterdir()], "is 5 x 7 pixels, "),
    ]:
        write()
        with pytest.raises(UsageError, match=message):
            data.load(str(root), validation=4, stream=True)


def test_an_image_that_changes_its_size_during_training_is_named(root: Path) -> None:
    inputs = data.load(str(root), validation=4, stream=True).train.inputs
    for path in (root / "train" / "dog").iterdir():
        paint(path, grey(7, 5))
    with pytest.raises(StageError, match=r"png: is not 5 x 6 pixels, as it was when the data were read first"):
        inputs[:]
