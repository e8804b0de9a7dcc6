import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.data.loading.arrays import Split
from edgekd.data.loading.splitting import choose, hold_out, leave_out, subset
from edgekd.errors import UsageError

labels = st.lists(st.integers(0, 6), min_size=2, max_size=300).map(lambda values: np.array(values, np.int64))
seeds = st.integers(0, 2**63)


def numbered(targets: np.ndarray) -> Split:
    return Split(np.arange(len(targets), dtype=np.float32)[:, None], targets)


@given(labels, seeds, st.data())
def test_a_choice_has_the_count_and_each_class_its_share(targets: np.ndarray, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(targets)))
    chosen = choose(targets, count, (seed,))
    assert len(chosen) == len(set(chosen.tolist())) == count
    assert (np.diff(chosen) > 0).all()
    for label in np.unique(targets):
        share = count * np.mean(targets == label)
        assert abs(np.sum(targets[chosen] == label) - share) < 1
    np.testing.assert_array_equal(chosen, choose(targets, count, (seed,)))


@given(labels, seeds, st.data())
def test_training_and_validation_divide_the_samples(targets: np.ndarray, seed: int, data: st.DataObject) -> None:
    validation = data.draw(st.integers(1, len(targets) - 1) | st.floats(0.5 / len(targets), 1 - 1 / len(targets)))
    count = validation if isinstance(validation, int) else round(validation * len(targets))
    if count == 0:
        return
    train, held = hold_out(numbered(targets), validation, (seed,))
    assert len(held) == count
    together = np.concatenate([train.inputs, held.inputs])[:, 0].astype(int)
    assert sorted(together) == list(range(len(targets)))
    for split in (train, held):
        np.testing.assert_array_equal(split.targets, targets[split.inputs[:, 0].astype(int)])


def test_the_choice_is_fixed_for_ever() -> None:
    """A change here would change every split, and with it every result that was ever reported."""
    assert choose(np.arange(20) % 4, 8, (0, 2)).tolist() == [0, 3, 4, 5, 6, 9, 14, 19]


def test_the_seed_and_the_purpose_change_the_choice() -> None:
    targets = np.arange(1000) % 10
    choices = {tuple(choose(targets, 100, seed)) for seed in ((0, 0), (0, 1), (1, 0), (2**70, 0))}
    assert len(choices) == 4


def test_every_sample_is_as_likely_as_another() -> None:
    """Of 40 samples 10 are chosen, 4000 times: each 1000 +- 27 (one standard deviation of a binomial)."""
    counts = np.zeros(40)
    for seed in range(4000):
        counts[choose(np.zeros(40, np.int64), 10, (seed,))] += 1
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_targets_that_are_no_classes_are_chosen_at_random() -> None:
    chosen = choose(np.random.default_rng(0).normal(size=(50, 3)), 20, (0,))
    assert len(set(chosen.tolist())) == 20


@pytest.mark.parametrize(("validation", "count"), [(1.0, 10), (0.01, 0), (10, 10), (11, 11), (0, 0)])
def test_a_side_without_samples_is_refused(validation: float, count: int) -> None:
    with pytest.raises(UsageError, match=f"validation: {validation} holds out {count} of 10 training samples"):
        hold_out(numbered(np.zeros(10, np.int64)), validation, (0,))


def test_no_validation_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no validation split; say how much"):
        hold_out(numbered(np.zeros(10, np.int64)), None, (0,))


def test_more_samples_than_there_are_is_refused() -> None:
    split = numbered(np.zeros(10, np.int64))
    assert subset(split, None, (0,), "test") is split
    assert len(subset(split, 4, (0,), "test")) == 4
    with pytest.raises(UsageError, match="data: 11 test samples are asked for; there are 10"):
        subset(split, 11, (0,), "test")


def test_classes_are_left_out() -> None:
    split = numbered(np.arange(20) % 4)
    left = leave_out(split, (1, 3), tuple("abcd"))
    assert left.targets.tolist() == [0, 2] * 5
    assert left.inputs[:, 0].tolist() == list(range(0, 20, 2))
    assert leave_out(split, (), ()) is split
    for omit, classes, message in [
        ((4,), tuple("abcd"), "data.omit: there is no class 4: they count from 0 to 3"),
        ((0,), (), "data.omit: there is no class 0: the targets are no class indices"),
        ((0, 1, 2, 3), tuple("abcd"), "data.omit: without the classes 0, 1, 2, 3 no training sample is left"),
    ]:
        with pytest.raises(UsageError, match=message):
            leave_out(split, omit, classes)
