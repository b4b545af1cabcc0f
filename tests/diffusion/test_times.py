import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.core.random import KeyedRandom
from pipeline.diffusion.times import LossSecondMoment, low_discrepancy, stratified


@pytest.mark.parametrize("count", [1, 2, 7, 64])
@pytest.mark.parametrize("offset", [0.0, 0.3, 0.999])
def test_one_time_in_each_stratum(count, offset):
    t = low_discrepancy(count, torch.tensor(offset))
    assert t.shape == (count,)
    assert t.dtype == torch.float64
    assert 0 <= float(t.min()) <= float(t.max()) < 1
    np.testing.assert_array_equal(np.sort(np.floor(t.numpy() * count)), np.arange(count))
    np.testing.assert_allclose(np.diff(np.sort(t)), 1 / count, atol=1e-9)


def test_each_time_is_uniform():
    """Over offsets, every single place of the grid covers [0, 1) evenly."""
    t = torch.stack([low_discrepancy(5, offset) for offset in torch.rand(2000, generator=torch.Generator().manual_seed(0))])
    for place in t.T:
        assert stats.kstest(place.numpy(), "uniform").pvalue > 1e-3


def test_stratified_is_keyed():
    first, again, other = (stratified(8, KeyedRandom(0, step)) for step in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)


def test_the_error_of_a_mean_is_that_of_an_evenly_spaced_sum():
    """The mean of t^2 over n times: no bias, variance 1/(12 n^2) to first order, where independent times have 4/(45 n)."""
    means = np.array([float((stratified(32, KeyedRandom(0, step)) ** 2).mean()) for step in range(400)])
    assert abs(means.mean() - 1 / 3) < 4 * means.std() / 20
    assert means.var() == pytest.approx(1 / (12 * 32**2), rel=0.2)


def filled(kept=3):
    """A history of 4 steps whose losses are 1, 2, 3, 4 times a sign and a size that change from loss to loss."""
    sampler = LossSecondMoment(4, kept, uniform_share=0.1)
    for size in (100.0, -1.0, 2.0, -3.0)[: kept + 1]:
        sampler.update(torch.arange(4), size * torch.arange(1.0, 5.0))
    return sampler


def test_steps_are_uniform_until_every_history_is_full():
    sampler = LossSecondMoment(3, kept=2)
    for steps in ([0, 0, 0, 1], [1, 2]):
        sampler.update(torch.tensor(steps), torch.tensor([5.0] * len(steps)))
        np.testing.assert_allclose(sampler.probabilities(), 1 / 3)
    sampler.update(torch.tensor([2]), torch.tensor([50.0]))
    assert float(sampler.probabilities()[2]) > 0.5


def test_probabilities_by_the_root_mean_square_of_the_last_losses():
    """Nichol and Dhariwal 2021, eq. 18: the oldest losses, a hundred times larger, have fallen out."""
    by_hand = np.arange(1, 5) * np.sqrt((1 + 4 + 9) / 3)
    np.testing.assert_allclose(filled().probabilities(), 0.9 * by_hand / by_hand.sum() + 0.1 / 4, rtol=1e-12)
    sampler = filled()
    sampler.update(torch.tensor([0]), torch.tensor([30.0]))
    last = np.array([np.sqrt((900 + 9 + 4) / 3), *by_hand[1:]])
    np.testing.assert_allclose(sampler.probabilities(), 0.9 * last / last.sum() + 0.1 / 4, rtol=1e-12)


def test_draws_follow_the_probabilities_and_weights_undo_them():
    sampler = filled()
    steps, weights = sampler.draw((torch.arange(10_000) + 0.5) / 10_000)
    probabilities = sampler.probabilities()
    np.testing.assert_allclose(torch.bincount(steps) / 10_000, probabilities, atol=2e-4)
    np.testing.assert_allclose(weights, 1 / (4 * probabilities[steps]), rtol=1e-12)
    losses = torch.tensor([3.0, -1.0, 7.0, 2.0]).double()
    assert float((weights * losses[steps]).mean()) == pytest.approx(float(losses.mean()), rel=1e-3)
    assert sampler.draw(torch.tensor([0.0, 1 - 2**-24]))[0].tolist() == [0, 3]


def test_the_history_is_state():
    other = LossSecondMoment(4, 3, uniform_share=0.1)
    other.load_state_dict(filled().state_dict())
    assert other.probabilities().equal(filled().probabilities())
