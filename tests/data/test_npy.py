from pathlib import Path

import numpy as np
import pytest
from sources import samples, write_arrays

from edgekd import data
from edgekd.errors import UsageError

RNG = np.random.default_rng(2)


def load(root: Path) -> data.Data:
    return data.load(str(root), validation=0.2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_arrays(tmp_path / "mine", samples())


@pytest.mark.parametrize(
    "inputs",
    [
        RNG.integers(0, 256, (20, 6, 5), np.uint8),
        RNG.integers(0, 256, (20, 6, 5, 3), np.uint8),
        RNG.integers(0, 256, (20, 3, 6, 5), np.uint8),
        RNG.normal(size=(20, 3, 6, 5)).astype(np.float32),
        RNG.normal(size=(20, 7)),
        RNG.normal(size=(20, 7)).astype(">f2"),
        RNG.integers(0, 30_000, (20, 9)),
    ],
    ids=lambda inputs: f"{inputs.dtype}{inputs.shape[1:]}",
)
def test_rows_are_what_the_same_arrays_in_an_npz_become(tmp_path: Path, inputs: np.ndarray) -> None:
    arrays = {"x_train": inputs, "y_train": np.arange(20) % 2, "x_test": inputs[::-1][:8], "y_test": np.arange(8) % 2}
    np.savez(tmp_path / "same.npz", **arrays)
    for key, array in arrays.items():
        np.save(tmp_path / f"{key}.npy", np.ascontiguousarray(array))
    found, truth = load(tmp_path), load(tmp_path / "same.npz")
    assert found.train.inputs.dtype == truth.train.inputs.dtype
    chosen = np.array([9, 2, 3, 4, 0, 9])
    np.testing.assert_array_equal(found.train.inputs[chosen], truth.train.inputs[chosen])
    np.testing.assert_array_equal(found.test.inputs, truth.test.inputs)
    assert (found.classes, found.preprocessing) == (truth.classes, truth.preprocessing)


@pytest.mark.parametrize("name", ["validation", "val"])
def test_a_validation_split_is_used_as_it_is(root: Path, name: str) -> None:
    held = RNG.integers(0, 256, (9, 6, 5), np.uint8)
    np.save(root / f"x_{name}.npy", held)
    np.save(root / f"y_{name}.npy", np.arange(9) % 3)
    read = load(root)
    assert (len(read.train), len(read.validation)) == (60, 9)
    np.testing.assert_allclose(read.validation.inputs[:, 0], held / 255, rtol=1e-6)


def test_what_is_there_is_told(root: Path) -> None:
    assert data.describe(str(root)) == f"{root} with x_test.npy, x_train.npy, y_test.npy, y_train.npy"


def test_classes_may_be_named(root: Path) -> None:
    (root / "classes.txt").write_text("cat\ndog\nfish\nyak\n")
    (root / "x_train.npy").touch()
    with pytest.raises(UsageError, match="no training sample has the label 3"):
        load(root)
    (root / "classes.txt").write_text("cat\ndog\nfish\n")
    assert load(root).classes == ("cat", "dog", "fish")
    (root / "classes.txt").write_text("cat\ndog\ncat\n")
    with pytest.raises(UsageError, match=r"classes.txt: a name is there twice: cat"):
        load(root)


nan = RNG.normal(size=(60, 5))
nan[31, 2] = np.nan
large = RNG.normal(size=(60, 5))
large[7, 0] = 1e300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "has no array y_test.npy (it has: x_test.npy, x_train.npy, y_train.npy; needed: x_train.np"),
        ({"x_train": None, "X_train": np.zeros(3)}, 'has no array x_train.npy; did you mean "X_train"?'),
        ({"x_val": np.zeros((3, 6, 5), np.uint8)}, "has no array y_val.npy"),
        ({"x_test": np.zeros((12, 6, 5), np.float32)}, "only some inputs are uint8"),
        ({"x_train": nan, "x_test": np.zeros((12, 5))}, "x_train.npy: the inputs of sample 31 have values that are no"),
        ({"x_train": np.zeros((60, 5)), "x_test": nan[25:37]}, "test: the inputs of sample 6 have values that are"),
        ({"x_train": np.zeros((0, 6, 5), np.uint8)}, "x_train.npy: there are no samples"),
        ({"x_train": np.zeros((60, 6, 4), np.uint8)}, "a sample of the test inputs is float32 (1, 6, 5), of the train"),
        ({"x_train": np.zeros((59, 6, 5), np.uint8)}, "train: 59 inputs but 60 targets"),
        ({"x_train": np.zeros((60, 6, 5), bool), "x_test": np.ones((12, 6, 5), bool)}, "x_train.npy: is bool; it must"),
        ({"x_train": np.asfortranarray(np.zeros((60, 6, 5), np.uint8))}, "(Fortran order); save numpy.ascontiguousarr"),
        ({"y_train": np.eye(60)}, "y_train.npy: labels have shape (60, 60); one-hot labels become indices"),
        ({"x_train": np.array([None] * 60)}, "holds pickled Python objects, which are never read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(root: Path, changes: dict[str, np.ndarray | None], message: str) -> None:
    for key, array in changes.items():
        if array is None:
            (root / f"{key}.npy").unlink()
        else:
            np.save(root / f"{key}.npy", array)
    with pytest.raises(UsageError) as caught:
        load(root)
    assert message in str(caught.value)
    assert "mine" in str(caught.value)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_what_is_finite_in_the_file_must_be_so_for_the_network(root: Path) -> None:
    np.save(root / "x_train.npy", large)
    np.save(root / "x_test.npy", np.zeros((12, 5)))
    with pytest.raises(UsageError, match="the inputs of sample 7 have values that are not finite"):
        load(root)


def test_damaged_files_are_refused(root: Path) -> None:
    path = root / "x_train.npy"
    whole = path.read_bytes()
    other = bytearray(whole)
    other[20] ^= 0xFF
    for damaged, message in {
        whole[:-1]: r"is damaged or truncated \(1927 bytes\): its header says 1800 bytes, 1799 are there",
        whole[:40]: r"is damaged or truncated \(40 bytes\)",
        bytes(other): r"is damaged or truncated \(1928 bytes\)",
        b"": r"is no npy file; save one array with numpy.save",
        b"x,y\n1,2\n": r"is no npy file; save one array with numpy.save",
    }.items():
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=f"x_train.npy: {message}"):
            load(root)
    np.savez(root / "other.npz", a=np.zeros(3))
    (root / "other.npz").rename(path)
    with pytest.raises(UsageError, match=r"x_train.npy: is no npy file"):
        load(root)
