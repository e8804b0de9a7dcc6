"""Mixed batches against the formulas of the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from edgekd.options import Augment, Training
from edgekd.training.mixing import mix, mixes
from edgekd.training.objective import Batch, Mixing, label_loss

from .small import TASK, convnet, images, labels, train


def shares(augment: Augment, count: int = 2000) -> np.ndarray:
    inputs = torch.zeros(2, 1, 32, 32)
    return np.array([mix(inputs, augment, seed)[1].share for seed in range(count)])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_shares_of_mixup_have_the_beta_distribution(alpha):
    assert stats.kstest(shares(Augment(mixup=alpha)), stats.beta(alpha, alpha).cdf).pvalue > 1e-4


def test_mixup_adds_the_partners():
    inputs = torch.randn(6, 5)
    mixed, how = mix(inputs, Augment(mixup=0.5), 3)
    assert sorted(how.partner.tolist()) == list(range(6))
    torch.testing.assert_close(mixed, how.share * inputs + (1 - how.share) * inputs[how.partner])


def test_cutmix_pastes_a_rectangle_and_the_share_is_what_was_kept():
    inputs = torch.arange(4.0)[:, None, None, None].expand(4, 2, 16, 24).contiguous()
    areas = []
    for seed in range(300):
        mixed, how = mix(inputs, Augment(cutmix=1.0), seed)
        for sample, partner in enumerate(how.partner.tolist()):
            if partner == sample:
                continue
            pasted = mixed[sample, 0] == partner
            assert bool((pasted | (mixed[sample, 0] == sample)).all())
            assert float(pasted.float().mean()) == pytest.approx(1 - how.share)
            assert int(pasted.sum()) == int(pasted.any(1).sum()) * int(pasted.any(0).sum())
        areas.append(1 - how.share)
    # The centre is anywhere, so the edges cut the rectangle; uncut, its area would be uniform with a mean of 1/2.
    assert 0.2 < np.mean(areas) < 0.45
    assert torch.equal(inputs[1], torch.ones(2, 16, 24))


def test_with_both_each_has_every_other_batch():
    inputs = torch.arange(8.0)[:, None, None, None].expand(8, 1, 16, 16)
    mixed = [mix(inputs, Augment(mixup=1.0, cutmix=1.0), seed)[0] for seed in range(400)]
    pasted = sum(bool((one == one.round()).all()) for one in mixed)
    assert 150 < pasted < 250


def test_the_seed_decides():
    inputs = torch.randn(8, 1, 6, 6)
    one, again, other = (mix(inputs, Augment(mixup=1.0, cutmix=1.0), seed) for seed in (1, 1, 2))
    assert torch.equal(one[0], again[0])
    assert not torch.equal(one[0], other[0])


def test_the_loss_of_a_mixed_batch_is_that_of_the_mixed_labels():
    """Cross-entropy is linear in the target: the mix of the losses is the loss with the mixed one-hot labels."""
    outputs, targets = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    mixing = Mixing(torch.tensor([1, 2, 0, 4, 3]), 0.3)
    batch = Batch(outputs, targets, torch.arange(5), mixing=mixing)
    one_hot = torch.eye(3, dtype=torch.float64)
    mixed = 0.3 * one_hot[targets] + 0.7 * one_hot[targets[mixing.partner]]
    expected = -(mixed * outputs.log_softmax(1)).sum(1).mean()
    assert float(label_loss(TASK, outputs, batch)) == pytest.approx(float(expected), rel=1e-6)


def test_the_objective_sees_what_the_network_saw(tmp_path):
    """Teacher and student are shown one mixed view: the batch holds it, and how it was mixed."""
    data, seen = images(), []

    def look(outputs, batch):
        own = torch.from_numpy(data.train.inputs)[batch.samples]
        mixed = batch.mixing.share * own + (1 - batch.mixing.share) * own[batch.mixing.partner]
        torch.testing.assert_close(batch.inputs, mixed)
        seen.append(batch.mixing.share)
        return labels(outputs, batch)

    train(convnet(), data, tmp_path, Training(epochs=2, batch_size=16, augment=Augment(mixup=1.0)), objective=look)
    assert len(set(seen)) == 8


def test_nothing_is_mixed_unless_asked_for():
    assert [mixes(one) for one in (Augment(crop=1), Augment(mixup=0.1), Augment(cutmix=0.1))] == [False, True, True]
