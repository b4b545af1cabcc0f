"""The slides' chain x_t = x_0 + t unit Gaussian steps, walked on random numbers, against the kernel after rescaling."""

import numpy as np
import pytest
import torch

from pipeline.diffusion.gaussian import diffuse, posterior, transition
from pipeline.diffusion.schedule import RandomWalkConfig

STEPS, WALKS = 12, 200_000
BUILT = RandomWalkConfig(kind="random-walk", steps=STEPS).build()


@pytest.fixture(scope="module")
def walks():
    """(STEPS + 1, WALKS): x_0 of unit variance, not Gaussian, then the sums."""
    rng = np.random.default_rng(0)
    start = rng.choice([-1.0, 1.0], WALKS)
    return np.concatenate([start[None], start + rng.normal(size=(STEPS, WALKS)).cumsum(0)])


def level(t):
    return BUILT.gamma(torch.full((1,), t / STEPS, dtype=torch.float64))


def images(values):
    return torch.tensor(values).reshape(1, 1, 1, -1)


@pytest.mark.parametrize("t", [1, 5, 12])
def test_the_forward_chain(t, walks):
    """x_t / sqrt(1 + t), step by step and at once, has the same variance whatever t, and the same share of x_0."""
    noise = images(np.random.default_rng(1).normal(size=WALKS))
    at_once = diffuse(images(walks[0]), level(t), noise).flatten().numpy()
    stepped = transition(images(walks[t - 1] / np.sqrt(t)), level(t - 1), level(t), noise).flatten().numpy()
    for found in (at_once, stepped, walks[t] / np.sqrt(1 + t)):
        assert found.var() == pytest.approx(1, abs=0.02)
        assert np.mean(found * walks[0]) == pytest.approx(1 / np.sqrt(1 + t), abs=0.01)


@pytest.mark.parametrize("t", [2, 5, 12])
def test_the_way_back(t, walks):
    """E[x_{t-1} | x_t, x_0] is linear: least squares on the walks finds (1 - 1/t) x_t + x_0 / t and variance 1 - 1/t."""
    regressors = np.stack([walks[t], walks[0]], 1)
    coefficients, residual, *_ = np.linalg.lstsq(regressors, walks[t - 1], rcond=None)
    assert coefficients == pytest.approx([1 - 1 / t, 1 / t], abs=0.02)
    assert residual[0] / WALKS == pytest.approx(1 - 1 / t, rel=0.02)
    made = posterior(images(walks[0]), images(walks[t] / np.sqrt(1 + t)), level(t - 1), level(t))
    mean, std = (np.sqrt(t) * value.flatten().numpy() for value in (made.mean, made.std))
    np.testing.assert_allclose(mean, (1 - 1 / t) * walks[t] + walks[0] / t, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(std**2, 1 - 1 / t, rtol=1e-9)
    left = walks[t - 1] - mean
    assert left.mean() == pytest.approx(0, abs=0.01)
    assert np.mean(left * walks[t]) == pytest.approx(0, abs=0.02)
    assert left.var() == pytest.approx(float(std[0]) ** 2, rel=0.02)


def test_the_first_step_back_is_the_data(walks):
    made = posterior(images(walks[0]), images(walks[1] / np.sqrt(2)), level(0), level(1))
    np.testing.assert_allclose(made.mean.flatten(), walks[0], atol=1e-9)
    assert float(made.std.max()) == 0
