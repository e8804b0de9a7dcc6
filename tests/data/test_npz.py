from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd import data
from edgekd.errors import UsageError

RNG = np.random.default_rng(7)


def content(**changes: object) -> dict[str, np.ndarray]:
    """Return arrays that make a good file, with changes; None leaves a key out."""
    arrays: dict[str, object] = {
        "x_train": RNG.integers(0, 256, (40, 6, 5), np.uint8),
        "y_train": np.arange(40, dtype=np.uint8) % 4,
        "x_test": RNG.integers(0, 256, (12, 6, 5), np.uint8),
        "y_test": np.arange(12, dtype=np.int32) % 4,
        **changes,
    }
    return {key: np.asarray(array) for key, array in arrays.items() if array is not None}


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(**changes: object) -> Path:
        np.savez(tmp_path / "mine.npz", **content(**changes))
        return tmp_path / "mine.npz"

    return write


def load(path: Path) -> data.Data:
    return data.load(str(path), validation=0.25)


def test_grey_images_become_float_in_zero_to_one(save: Save) -> None:
    images = RNG.integers(0, 256, (40, 6, 5), np.uint8)
    images[0, 0, :2] = 0, 255
    test = RNG.integers(0, 256, (12, 6, 5), np.uint8)
    read = load(save(x_train=images, x_test=test))
    assert (len(read.train), len(read.validation), len(read.test)) == (30, 10, 12)
    assert read.test.inputs.shape == (12, 1, 6, 5)
    assert read.test.inputs.dtype == np.float32
    assert read.test.targets.dtype == np.int64
    np.testing.assert_allclose(read.test.inputs[:, 0], test / 255, rtol=1e-6)
    assert read.classes == ("0", "1", "2", "3")
    assert read.preprocessing["scale"] == 1 / 255
    assert read.name.endswith("mine.npz")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((6, 5, 3), (3, 6, 5)), ((6, 5, 1), (1, 6, 5)), ((3, 6, 5), (3, 6, 5)), ((1, 6, 5), (1, 6, 5)), ((30,), (30,))],
)
def test_the_channels_of_pixels_come_first(save: Save, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    test = RNG.integers(0, 256, (12, *shape), np.uint8)
    read = load(save(x_train=RNG.integers(0, 256, (40, *shape), np.uint8), x_test=test))
    assert read.test.inputs.shape[1:] == expected
    moved = np.moveaxis(test, -1, 1) if shape[-1] in (1, 3) else test
    np.testing.assert_allclose(read.test.inputs, moved / 255, rtol=1e-6)


def test_floats_and_tokens_are_taken_as_they_are(save: Save) -> None:
    floats = RNG.normal(size=(12, 6, 5, 3))
    read = load(save(x_train=RNG.normal(size=(40, 6, 5, 3)), x_test=floats))
    np.testing.assert_array_equal(read.test.inputs, floats.astype(np.float32))
    assert read.preprocessing == {}
    tokens = RNG.integers(0, 30000, (12, 9))
    read = load(save(x_train=RNG.integers(0, 30000, (40, 9)), x_test=tokens.astype(np.int32)))
    np.testing.assert_array_equal(read.test.inputs, tokens)
    assert read.test.inputs.dtype == np.int64


@pytest.mark.parametrize("suffix", ["validation", "val"])
def test_a_validation_split_of_the_file_is_used_as_it_is(save: Save, suffix: str) -> None:
    held = RNG.integers(0, 256, (8, 6, 5), np.uint8)
    read = load(save(**{f"x_{suffix}": held, f"y_{suffix}": np.arange(8) % 4}))
    assert len(read.train) == 40
    np.testing.assert_allclose(read.validation.inputs[:, 0], held / 255, rtol=1e-6)


def test_class_names_may_be_in_the_file(save: Save) -> None:
    assert load(save(classes=np.array(["a", "b", "c", "d"]))).classes == ("a", "b", "c", "d")


def test_the_digest_changes_with_one_pixel_one_label_or_one_name(save: Save) -> None:
    base = content(classes=np.array(["a", "b", "c", "d"]))
    seen = [load(save(**base)).digest]
    assert load(save(**base)).digest == seen[0]
    for key, at in (("x_train", (3, 2, 1)), ("x_test", (11, 5, 4)), ("y_test", (0,))):
        array = base[key].copy()
        array[at] = (array[at] + 1) % 4
        seen.append(load(save(**{**base, key: array})).digest)
    seen.append(load(save(**{**base, "classes": np.array(["a", "b", "c", "e"])})).digest)
    assert len(set(seen)) == len(seen)


nan = RNG.normal(size=(40, 5))
nan[31, 2] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x_train": None, "X_train": np.zeros(3)},
            'has no array x_train; did you mean "X_train"? (it has: y_train, x_test, y_test, X_train; needed: '
            "x_train, y_train, x_test, y_test; optional: x_validation, y_validation, classes)",
        ),
        ({"x_val": np.zeros((3, 6, 5), np.uint8)}, "has no array y_val"),
        ({"y_train": np.arange(40) % 4 + 1}, "no training sample has the label 0; labels count from 0 to 4"),
        ({"y_train": np.arange(40) % 2 * 2, "y_test": np.zeros(12, int)}, "no training sample has the label 1"),
        (
            {"y_test": np.arange(12) + 1, "classes": list("abcd")},
            "test: labels out of range: found 4 with 4 classes",
        ),
        ({"y_test": np.full(12, 12), "y_train": np.arange(40) % 10}, "labels out of range: found 12 with 10 classes"),
        ({"y_test": np.full(12, -1)}, "labels out of range: found -1 with 4 classes"),
        ({"y_train": np.arange(40) % 4 * 1.0}, "labels are float64 (40,); they must be integers of shape (N,)"),
        ({"y_train": np.eye(40)}, "one-hot labels become indices by argmax(axis=1)"),
        ({"y_train": np.arange(39) % 4}, "train: 40 inputs but 39 targets"),
        ({"y_train": np.zeros(0, int), "x_train": np.zeros((0, 6, 5), np.uint8)}, "train: there are no samples"),
        ({"x_test": np.zeros((12, 6, 4), np.uint8)}, "a sample of the test inputs is float32 (1, 6, 4), of the train"),
        ({"x_test": np.zeros((12, 1, 6, 5), np.float32)}, "only some inputs are uint8"),
        ({"x_train": nan, "x_test": np.zeros((12, 5))}, "the inputs of sample 31 have values that are not finite"),
        ({"x_train": np.zeros((40, 5), bool), "x_test": np.zeros((12, 5), bool)}, "x_train: is bool; it must be uint8"),
        ({"x_train": np.array([None] * 40)}, "holds pickled Python objects, which are never read"),
        ({"x_train": np.zeros((40, 3, 6, 3), np.uint8)}, "it cannot be told where the channels are"),
    ],
)
def test_what_is_wrong_is_said(save: Save, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(save(**changes))
    assert message in str(caught.value)
    assert "mine.npz" in str(caught.value)


def test_a_test_split_that_is_the_training_split_is_refused(save: Save) -> None:
    same = content()
    with pytest.raises(UsageError, match="the test split is the training split"):
        load(save(**{**same, "x_test": same["x_train"], "y_test": same["y_train"]}))


def test_damaged_files_are_refused(save: Save, tmp_path: Path) -> None:
    path = save()
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-10], b"", b"PK\3\4 nothing", b"x,y\n1,2\n"):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=rf"mine.npz: is no npz file, or is truncated \({len(damaged)} bytes\)"):
            load(path)
    flipped = bytearray(whole)
    flipped[400] ^= 0xFF
    path.write_bytes(bytes(flipped))
    with pytest.raises(UsageError, match=r"mine.npz: is damaged: Bad CRC-32"):
        load(path)
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UsageError, match="is a single array"):
        load(tmp_path / "single.npz")
    with pytest.raises(UsageError, match=r"absent.npz: there is no such file"):
        load(tmp_path / "absent.npz")


def test_a_relative_path_is_looked_for_in_the_data_folder_too(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save()
    assert "mine.npz with x_train" in data.describe("mine.npz", tmp_path)
    monkeypatch.setenv("EDGEKD_DATA", str(tmp_path))
    assert len(data.load("mine.npz", validation=5).validation) == 5
