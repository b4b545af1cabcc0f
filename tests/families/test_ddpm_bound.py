"""DDPM's bound against sums of exact Gaussian KLs, and against the entropy of the data."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.core.contracts import Batch, DataSpec
from pipeline.core.random import KeyedRandom
from pipeline.diffusion.schedule import CosineBetaConfig
from pipeline.families.ddpm import model as ddpm
from tests.support.exact import CodeDenoiser, GridRandom, NodeRandom, code_grid, images, noise_grid, normal_nodes
from tests.support.gaussian_ddpm import (
    LEVELS,
    MEAN,
    SCHEDULES,
    SIDE,
    SPEC,
    STD,
    STEPS,
    TINY,
    Fixed,
    X,
    betas,
    bits,
    expected_bound,
    model,
    predictions,
    schedules,
)


@predictions
@schedules
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ends_of_the_bound(schedule, prediction, variance):
    ends = model(schedule, prediction, variance).prior_and_reconstruction(images(X, 2, SIDE), GridRandom())
    prior, reconstruction, _ = expected_bound(betas(schedule), variance)
    assert bits(ends.prior) == pytest.approx(prior, rel=1e-4, abs=1e-9)
    assert bits(ends.reconstruction) == pytest.approx(reconstruction, rel=1e-4)
    assert ends.prior.shape == ends.reconstruction.shape == (2,)


@predictions
@schedules
@pytest.mark.parametrize("variance", ["small", "large"])
def test_diffusion_term_is_the_sum_over_all_steps(schedule, prediction, variance):
    """However the model draws its steps: what it finds at a step is that step's KL over the step's share of the draws."""
    count, side = 4000, 8
    x, noise = code_grid(side, MEAN, STD, LEVELS), noise_grid(side)
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    found = model(schedule, prediction, variance).diffusion_term(images(x, count, side), uniform, GridRandom())
    nats = found.nats.numpy() / (side**2 * math.log(2))
    step = np.rint(found.time.numpy() * STEPS).astype(int)
    np.testing.assert_allclose(found.time, step / STEPS, atol=1e-12)
    assert sorted(set(step)) == list(range(2, STEPS + 1))
    expected = expected_bound(betas(schedule), variance, x, noise)[2]
    share = np.array([expected[t - 2] / nats[step == t].mean() for t in range(2, STEPS + 1)])
    np.testing.assert_allclose(share, [np.mean(step == t) for t in range(2, STEPS + 1)], atol=1.5 / count)
    assert share.sum() == pytest.approx(1, rel=2e-4)
    assert nats.mean() == pytest.approx(expected.sum(), abs=1e-3)


def test_steps_are_drawn_where_the_bound_is():
    """Single draws scatter less than they would with steps drawn evenly."""
    count, side = 1000, 8
    x = code_grid(side, MEAN, STD, LEVELS)
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    nats = model("cosine", "v").diffusion_term(images(x, count, side), uniform, GridRandom()).nats.numpy()
    evenly = (STEPS - 1) * expected_bound(betas("cosine"), "small", x, noise_grid(side))[2] * side**2 * math.log(2)
    assert nats.std() < 0.7 * evenly.std()


def test_any_uniform_number_is_a_step():
    uniform = torch.tensor([0.0, 1e-12, 1 - 1e-12], dtype=torch.float64)
    found = model("linear", "x").diffusion_term(images(X, 3, SIDE), uniform, GridRandom())
    assert (found.time * STEPS).tolist() == pytest.approx([2.0, 2.0, STEPS])


def test_with_the_exact_denoiser_the_bound_comes_down_to_the_entropy_of_the_codes():
    """Of 5-bit data with s = 5 bins. What T steps cost is C/T: it halves with every doubling."""
    rows, levels, count = 64, 32, 300
    x = code_grid(rows, 0.05, 0.3, levels)
    values, counts = np.unique(x, return_counts=True)
    p = counts / rows
    nodes, weights = normal_nodes(81)
    batch, rng = images(x, len(nodes), 1), NodeRandom(nodes)
    gaps = []
    for steps in (2000, 4000, 8000):
        config = ddpm.Config(schedule=CosineBetaConfig(kind="cosine-beta", steps=steps), prediction="v", network=TINY)
        built = ddpm.build(config, DataSpec((1, rows, 1), levels, 10)).eval()
        built.network = CodeDenoiser("v", built.schedule, values, p)
        ends = built.prior_and_reconstruction(batch, rng)
        nats = weights @ (ends.prior + ends.reconstruction).numpy()
        for i in range(count):
            uniform = torch.full((len(nodes),), (i + 0.5) / count, dtype=torch.float64)
            nats += weights @ built.diffusion_term(batch, uniform, rng).nats.numpy() / count
        gaps.append(nats / (rows * math.log(2)) + p @ np.log2(p))
    assert 0 < gaps[2] < 0.04
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.15)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.1)


def test_the_shortest_chain():
    """T = 2 has one diffusion term, at any time, and decodes with the std of its posterior."""
    config = ddpm.Config(schedule=CosineBetaConfig(kind="cosine-beta", steps=2), prediction="x", network=TINY)
    built = ddpm.build(config, SPEC)
    built.network = Fixed(torch.full((2, 1, SIDE, SIDE), 0.1))
    ends = built.prior_and_reconstruction(images(X, 2, SIDE), GridRandom())
    diffusion = built.diffusion_term(images(X, 2, SIDE), torch.tensor([0.1, 0.9], dtype=torch.float64), GridRandom()).nats
    b = betas("cosine", 2)
    alpha_bar = np.cumprod(1 - b)
    decoder = stats.norm(0.1, math.sqrt(b[1] * (1 - alpha_bar[0]) / (1 - alpha_bar[1])))
    expected = -np.mean(np.log2(decoder.cdf(X + 1 / LEVELS) - decoder.cdf(X - 1 / LEVELS)))
    assert bits(ends.reconstruction) == pytest.approx(expected, rel=1e-5)
    difference = alpha_bar[0] / (1 - alpha_bar[0]) - alpha_bar[1] / (1 - alpha_bar[1])
    assert bits(diffusion) == pytest.approx(0.5 * difference * np.mean((X - 0.1) ** 2) / math.log(2), rel=1e-4)


def test_the_bound_measures_a_model_with_clipped_x_hat():
    """A network that says 5 for x is judged, and samples with `clip`, as if it had said 1."""
    half = torch.tensor([0.5], dtype=torch.float64)
    batch = Batch(torch.full((1, 1, SIDE, SIDE), 1 - 1 / LEVELS), torch.zeros(1, dtype=torch.int64))
    far, one = model("linear", "x"), model("linear", "x")
    far.network, one.network = Fixed(torch.full_like(batch.x, 5.0)), Fixed(torch.full_like(batch.x, 1.0))
    assert far.prior_and_reconstruction(batch, GridRandom()) == one.prior_and_reconstruction(batch, GridRandom())
    assert far.diffusion_term(batch, half, GridRandom()) == one.diffusion_term(batch, half, GridRandom())
    assert float(far.reverse(batch.x, 0 * half, half, None, KeyedRandom(0, 0)).x_hat.max()) == 5.0


def test_real_valued_data_have_no_bits():
    config = ddpm.Config(schedule=SCHEDULES["linear"], network=TINY)
    with pytest.raises(AssertionError):
        ddpm.build(config, DataSpec((1, SIDE, SIDE), None, 10)).prior_and_reconstruction(images(X, 1, SIDE), GridRandom())
