import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekd import data
from edgekd.data.loading import arrays
from edgekd.errors import StageError, UsageError
from edgekd.options import Data as DataOptions

GOOD = """
import numpy as np

def splits(count=20):
    rng = np.random.default_rng(5)
    return tuple((rng.normal(size=(n, 3)), np.arange(n) % 2) for n in (count, 6, 8))

def without_validation():
    train, _, test = splits()
    return train, None, test

def regression():
    rng = np.random.default_rng(5)
    return tuple((rng.normal(size=(n, 3)), rng.normal(size=(n, 2))) for n in (20, 6, 8))

def whole():
    from edgekd.data import Data, Split
    parts = [Split(*pair) for pair in splits()]
    return Data("ignored", *parts, classes=("no", "yes"), preprocessing={"unit": "volt"})

def needs(argument):
    return splits()

def fails():
    raise FileNotFoundError("sensors.csv")

def nothing(): pass
def two(): return splits()[:2]
def triples(): return [(x, y, y) for x, y in splits()]
def lists(): return [(x.tolist(), y) for x, y in splits()]
def pixels(): return [(np.zeros((5, 4, 4), np.uint8), np.zeros(5, int))] * 3
def shapes():
    train, held, test = splits()
    return train, held, (test[0][:, :2], test[1])
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a user's module `mine_of_data`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine_of_data.py").write_text(GOOD)
    yield tmp_path
    sys.modules.pop("mine_of_data", None)


def test_the_digits_are_real_split_and_standardised() -> None:
    read = data.load("digits", validation=0.1, seed=0)
    assert (len(read.train), len(read.validation), len(read.test)) == (1213, 135, 449)
    assert read.train.inputs.shape[1:] == (1, 8, 8)
    assert read.train.inputs.dtype == np.float32
    assert read.classes == tuple("0123456789")
    values = np.concatenate([split.inputs for split in (read.train, read.validation)])
    assert abs(values.mean()) < 1e-3
    assert abs(values.std() - 1) < 1e-3
    pixels = (read.test.inputs * read.preprocessing["std"] + read.preprocessing["mean"]) / read.preprocessing["scale"]
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-4)
    assert (pixels.round().min(), pixels.round().max()) == (0, 16)


def test_the_splits_of_the_digits_have_no_sample_in_common_and_are_balanced() -> None:
    datasets = importlib.import_module("sklearn.datasets")
    read = data.load("digits", validation=0.1, seed=0)
    rows = [split.inputs.reshape(len(split), -1) for split in (read.train, read.validation, read.test)]
    unique = len(np.unique(datasets.load_digits().data, axis=0))
    assert len(np.unique(np.concatenate(rows), axis=0)) == unique == 1797
    for split in (read.train, read.validation, read.test):
        share = np.bincount(split.targets) / len(split)
        np.testing.assert_allclose(share, np.bincount(datasets.load_digits().target) / 1797, atol=2 / len(split))


def test_the_seed_moves_validation_but_never_the_test_split() -> None:
    first, second = (data.load("digits", validation=0.1, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(first.test.inputs, second.test.inputs)
    assert not np.array_equal(first.validation.inputs, second.validation.inputs)
    assert first.digest != second.digest
    again = data.load("digits", validation=0.1, seed=0)
    assert again.digest == first.digest


def test_short_forms_keep_the_balance() -> None:
    read = data.load("digits", validation=0.2, train_samples=200, test_samples=50)
    assert (len(read.train), len(read.validation), len(read.test)) == (160, 40, 50)
    assert np.bincount(read.test.targets).tolist() == [5] * 10
    with pytest.raises(UsageError, match="9999 training samples are asked for; there are 1348"):
        data.load("digits", validation=0.2, train_samples=9999)


def test_a_recipe_asks_for_the_same(tmp_path: Path) -> None:
    options = DataOptions(source="digits", validation=40, train_samples=200)
    assert data.of_recipe(options, seed=3) is data.load("digits", validation=40, train_samples=200, seed=3)


def test_the_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.data.digits.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'edgekd\[train\]'"):
        data.describe("digits")


@pytest.mark.parametrize("name", ["fashion-mnist", "fashion_mnist"])
def test_a_shipped_name_may_have_a_dash_or_an_underscore(name: str, tmp_path: Path) -> None:
    assert data.describe(name, tmp_path).startswith("fashion-mnist will be downloaded to ")


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UsageError) as caught:
        data.describe("mnits")
    assert str(caught.value) == (
        'data: there is no data set "mnits"; did you mean "mnist"? (shipped: digits, fashion-mnist, mnist; or the path '
        'of an .npz file or of a folder of images, arrays or tar files, or "package.module:function")'
    )


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKD_DATA", str(tmp_path))
    assert data.data_folder() == tmp_path
    assert data.data_folder(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("EDGEKD_DATA")
    assert data.data_folder() == Path.home() / ".cache" / "edgekd" / "data"


def test_a_function_gives_the_splits(mine: Path) -> None:
    read = data.load("mine_of_data:splits", validation=0.5)
    assert (len(read.train), len(read.validation), len(read.test)) == (20, 6, 8)
    assert read.train.inputs.dtype == np.float32
    assert read.train.targets.dtype == np.int64
    assert read.classes == ("0", "1")
    assert data.describe("mine_of_data:splits") == f"mine_of_data:splits in {mine / 'mine_of_data.py'}"
    held_out = data.load("mine_of_data:without_validation", validation=0.5)
    assert (len(held_out.train), len(held_out.validation)) == (10, 10)


def test_a_function_may_give_data_or_targets_of_another_kind(mine: Path) -> None:
    whole = data.load("mine_of_data:whole")
    assert (whole.name, whole.classes, whole.preprocessing) == ("mine_of_data:whole", ("no", "yes"), {"unit": "volt"})
    assert whole.test.inputs.dtype == np.float32
    regression = data.load("mine_of_data:regression")
    assert regression.classes == ()
    assert regression.test.targets.shape == (8, 2)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("nothing", StageError, "mine_of_data:nothing returned None; it must return (train, validation, test), each a"),
        ("two", StageError, "mine_of_data:two returned a tuple of 2; it must return"),
        ("triples", StageError, "returned a tuple of 3 as train; it must return"),
        ("lists", StageError, "mine_of_data:lists returned a list of 20 as the train inputs; it must return"),
        (
            "pixels",
            StageError,
            "returned an array uint8 (5, 4, 4) as the train inputs; they go to the network as they are",
        ),
        ("shapes", UsageError, "a sample of the test inputs is float32 (2,), of the train inputs float32 (3,)"),
        ("fails", StageError, "mine_of_data:fails() failed: FileNotFoundError: sensors.csv ("),
        ("needs", UsageError, 'mine_of_data:needs needs the argument "argument"'),
        ("absent", UsageError, 'has no "absent"'),
    ],
)
def test_a_function_that_gives_something_else(mine: Path, function: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        data.load(f"mine_of_data:{function}", validation=0.5)
    assert message in str(caught.value)


def test_the_digest_is_over_names_types_shapes_and_contents() -> None:
    def of(inputs: np.ndarray, name: str = "train") -> str:
        return arrays.digest({name: arrays.Split(inputs, np.zeros(2, np.int64))}, ("a",), {})

    base = np.arange(4, dtype=np.float32).reshape(2, 2)
    changed = base.copy()
    changed[1, 1] = np.nextafter(changed[1, 1], 4)
    others = [of(changed), of(base.reshape(2, 2, 1)), of(base.view(np.int32)), of(base, "test")]
    assert len({of(base), *others}) == 5
    assert of(np.asfortranarray(base)) == of(base)


def test_reading_a_users_data_imports_neither_torch_nor_scikit_learn(mine: Path) -> None:
    script = (
        "import sys\n"
        "from edgekd import data\n"
        "data.load('mine_of_data:splits', validation=0.5)\n"
        "print([name for name in ('torch', 'sklearn', 'scipy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=mine)
    assert done.stdout == "[]\n"


def test_a_recipe_may_fix_the_choice_of_samples() -> None:
    fixed = DataOptions(source="digits", validation=40, seed=3)
    assert data.of_recipe(fixed, seed=8) is data.load("digits", validation=40, seed=3)
    assert data.of_recipe(DataOptions(source="digits", validation=40, seed=0), seed=8).digest == (
        data.load("digits", validation=40, seed=0).digest
    )


def test_a_class_may_be_left_out_of_training_only() -> None:
    whole = data.load("digits", validation=0.1)
    read = data.of_recipe(DataOptions(source="digits", validation=0.1, omit=(3,)), seed=0)
    assert read.classes == whole.classes
    assert np.bincount(read.train.targets)[3] == 0
    np.testing.assert_array_equal(read.train.inputs, whole.train.inputs[whole.train.targets != 3])
    for name in ("validation", "test"):
        np.testing.assert_array_equal(getattr(read, name).targets, getattr(whole, name).targets)
        assert 3 in getattr(read, name).targets
    assert read.digest != whole.digest
    with pytest.raises(UsageError, match=r"data.omit: there is no class 10: they count from 0 to 9"):
        data.load("digits", validation=0.1, omit=(10,))


def test_a_class_that_training_lacks_anyway_may_be_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.random((20, 3)), "y_train": np.arange(20) % 2, "classes": list("abc")}
    np.savez(tmp_path / "mine.npz", **arrays, x_test=rng.random((9, 3)), y_test=np.arange(9) % 3)
    with pytest.raises(UsageError, match="no training sample has the label 2"):
        data.load(str(tmp_path / "mine.npz"), validation=0.2)
    assert len(data.load(str(tmp_path / "mine.npz"), validation=0.2, omit=(2,)).train) == 16
