"""Samplers on data whose best denoiser is known, and steps of diffusers' schedulers."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from pipeline.diffusion.gaussian import Reverse, alpha_sigma, kernel, per_image
from pipeline.diffusion.sampler import DDIM, Ancestral, Sampler, trajectory
from pipeline.diffusion.schedule import DiscreteSchedule, LinearLogSNRSchedule, cosine_betas, linear_betas
from pipeline.roles import Generative, Random
from pipeline.training.random import RowRandom
from tests.blocks import default, kind, members

MEAN, STD = 0.2, 0.3
SAMPLERS = [*(default(block) for block in members(Sampler)), default(DDIM, eta=0.5), default(DDIM, eta=1.0)]
samplers = pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda one: f"{kind(type(one))}-{getattr(one, 'eta', '')}")

LONG = DiscreteSchedule(linear_betas(1000))


class Exact(Generative):
    """The best denoiser of pixels from N(MEAN, STD^2)."""

    def __init__(self, schedule):
        self.schedule = schedule
        self.evaluations = 0

    def reverse(self, z_t, s, t, y, rng, clip=None):
        del y, rng
        self.evaluations += 1
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        alpha, sigma = (per_image(c, z_t) for c in alpha_sigma(gamma_t))
        x_hat = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (z_t - alpha * MEAN)
        return kernel(x_hat if clip is None else x_hat.clamp(-clip, clip), z_t, gamma_s, gamma_t)


class Odd(Exact):
    """Not the denoiser of anything: what holds for it holds for an untrained network too."""

    def reverse(self, z_t, s, t, y, rng, clip=None):
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        x_hat = 1.3 * torch.sin(3 * z_t) + 0.1 * z_t.flip(3)
        return kernel(x_hat if clip is None else x_hat.clamp(-clip, clip), z_t, gamma_s, gamma_t)


class Constant(Random):
    """Every draw is `value`, in float64."""

    def __init__(self, value):
        self.value = value

    def normal(self, shape, purpose):
        return torch.full(shape, self.value, dtype=torch.float64)

    def uniform(self, shape, purpose):
        raise AssertionError("samplers need no uniform numbers")


def sample(model, sampler, shape, steps, seed=0, first=0):
    rows = range(first, first + shape[0])
    return list(trajectory(model, sampler, shape, steps, lambda step: RowRandom(seed, rows, step)))


@samplers
@pytest.mark.parametrize(
    ("schedule", "tolerance"),
    [(LinearLogSNRSchedule(-13.3, 5.0), 0.035), (DiscreteSchedule(cosine_betas(200)), 0.035), (LONG, 0.06)],
    ids=["continuous", "cosine", "linear"],
)
def test_every_sampler_returns_the_density(sampler, schedule, tolerance):
    """200 steps leave a few per cent; 65 536 pixels add errors of 0.001 to the mean and of 0.3 per cent to the std."""
    x = sample(Exact(schedule), sampler, (64, 1, 32, 32), 200)[-1][0].double()
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.012)
    assert float(x.std()) == pytest.approx(STD, rel=tolerance)
    standard = (x - x.mean()) / x.std()
    assert float((standard**3).mean()) == pytest.approx(0, abs=0.05)
    assert float((standard**4).mean()) == pytest.approx(3, abs=0.12)
    neighbours = (standard[..., 1:] * standard[..., :-1]).mean()
    assert float(neighbours) == pytest.approx(0, abs=0.02)


def final_std(sampler, schedule, steps):
    """DDIM with eta = 0 is a map, and affine here: its slope is the std of the samples."""
    ends = [
        float(list(trajectory(Exact(schedule), sampler, (1, 1, 1, 1), steps, lambda _, v=value: Constant(v)))[-1][0])
        for value in (-1.0, 1.0)
    ]
    return (ends[1] - ends[0]) / 2


def test_ddim_converges_with_order_one():
    """The flow carries N(0, 1) at t = 1 by the ratio of the marginal stds to t = 0, where z is divided by alpha."""
    schedule = LinearLogSNRSchedule(-8.0, 6.0)

    def marginal(gamma):
        return math.sqrt((STD**2 + math.exp(gamma)) / (1 + math.exp(gamma)))

    exact = marginal(-8.0) / marginal(6.0) * math.sqrt(1 + math.exp(-8.0))
    errors = [abs(final_std(default(DDIM, clip=False), schedule, steps) - exact) for steps in (50, 100, 200, 400)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 1, atol=0.1)
    assert errors[-1] < 0.01 * STD


@pytest.mark.parametrize("clip", [True, False])
def test_ddim_with_eta_1_is_ancestral_on_the_full_chain(clip):
    model = Odd(DiscreteSchedule(linear_betas(100)))
    one = sample(model, default(DDIM, eta=1.0, clip=clip), (2, 1, 4, 4), 100)
    other = sample(model, default(Ancestral, clip=clip), (2, 1, 4, 4), 100)
    assert len(one) == len(other) == 101
    for (z, _), (w, _) in zip(one, other, strict=True):
        np.testing.assert_allclose(z, w, atol=3e-5)
    deterministic = sample(model, default(DDIM, clip=clip), (2, 1, 4, 4), 100)
    assert float((deterministic[-1][0] - one[-1][0]).abs().max()) > 0.1


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("prediction", "clip"), [("epsilon", True), ("sample", False), ("v_prediction", True)])
@pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2"])
def test_steps_of_diffusers(eta, prediction, clip, name):
    """50 of 1000 steps: from code index t to t - 20, and from 19 to the data."""
    theirs = DDIMScheduler(
        1000, beta_schedule=name, clip_sample=clip, prediction_type=prediction, set_alpha_to_one=True, steps_offset=0
    )
    theirs.set_timesteps(50)
    betas = linear_betas(1000) if name == "linear" else cosine_betas(1000)
    theirs.alphas_cumprod = torch.cumprod(1 - betas, 0)
    gamma = DiscreteSchedule(betas).table
    z, output, noise = torch.randn(3, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (19, 20, 480, 900):
        step = theirs.step(output, t, z, eta=eta, use_clipped_model_output=True, variance_noise=noise if eta else None)
        gamma_t, gamma_s = gamma[t + 1].expand(2), gamma[t - 19].expand(2)
        alpha, sigma = (theirs.alphas_cumprod[t] ** 0.5, (1 - theirs.alphas_cumprod[t]) ** 0.5)
        said = {"epsilon": (z - sigma * output) / alpha, "sample": output, "v_prediction": alpha * z - sigma * output}
        x_hat = said[prediction].clamp(-1, 1) if clip else said[prediction]
        reverse = kernel(x_hat, z, gamma_s, gamma_t)
        found = default(DDIM, eta=eta).step(reverse, gamma_s, gamma_t, lambda: noise)
        np.testing.assert_allclose(found, step.prev_sample, rtol=1e-6, atol=1e-7, err_msg=str(t))


@samplers
def test_an_image_does_not_depend_on_the_batch_it_was_made_in(sampler):
    model = Odd(LinearLogSNRSchedule(-13.3, 5.0))
    together = sample(model, sampler, (64, 1, 4, 4), 8)[-1][0]
    for size in (1, 7):
        pieces = [sample(model, sampler, (size, 1, 4, 4), 8, first=first)[-1][0] for first in range(0, 14, size)]
        np.testing.assert_allclose(torch.cat(pieces), together[:14], atol=1e-6)
    assert len(together.flatten(1).unique(dim=0)) == 64
    assert float((together - sample(model, sampler, (64, 1, 4, 4), 8, seed=1)[-1][0]).abs().min()) > 0


@samplers
def test_a_trajectory(sampler):
    """Noise first; one evaluation a step; what is seen on the way is x_hat, clipped; the data end of a chain adds no noise."""
    model = Exact(DiscreteSchedule(linear_betas(50)))
    seen = sample(model, sampler, (3, 2, 4, 4), 10)
    assert len(seen) == 11
    assert model.evaluations == 10
    assert seen[0][1] is None
    assert seen[0][0].equal(RowRandom(0, range(3), 0).normal((3, 2, 4, 4), "start"))
    assert all(z.shape == x_hat.shape == (3, 2, 4, 4) for z, x_hat in seen[1:])
    assert all(float(x_hat.abs().max()) <= 1 for _, x_hat in seen[1:])
    np.testing.assert_allclose(seen[-1][0], seen[-1][1], atol=1e-6)


@samplers
def test_clip_is_passed_on(sampler):
    class Wild(Exact):
        def reverse(self, z_t, s, t, y, rng, clip=None):
            x_hat = torch.full_like(z_t, 9.0)
            x_hat = x_hat if clip is None else x_hat.clamp(-clip, clip)
            return kernel(x_hat, z_t, self.schedule.gamma(s), self.schedule.gamma(t))

    model = Wild(DiscreteSchedule(linear_betas(50)))
    for clip, value in ((True, 1.0), (False, 9.0)):
        last = sample(model, sampler.model_copy(update={"clip": clip}), (1, 1, 2, 2), 3)[-1][0]
        np.testing.assert_allclose(last, value, rtol=1e-5)


def test_the_sample_is_divided_by_alpha_at_the_end():
    """A continuous schedule ends at z_0 = alpha_0 x + sigma_0 eps, and its alpha_0 may be far from 1."""

    class Still(Exact):
        def reverse(self, z_t, s, t, y, rng, clip=None):
            return Reverse(torch.full_like(z_t, 0.5), torch.zeros_like(z_t), torch.zeros_like(z_t), torch.zeros_like(z_t))

    model = Still(LinearLogSNRSchedule(-1.0, 5.0))
    seen = sample(model, default(Ancestral), (1, 1, 2, 2), 3)
    np.testing.assert_allclose(seen[-1][0], 0.5 * math.sqrt(1 + math.exp(-1.0)), rtol=1e-6)
    np.testing.assert_allclose(seen[-2][0], 0.5, rtol=1e-6)


def test_labels_reach_the_model():
    class Labelled(Exact):
        def reverse(self, z_t, s, t, y, rng, clip=None):
            return kernel(per_image(y, z_t) * torch.ones_like(z_t), z_t, self.schedule.gamma(s), self.schedule.gamma(t))

    y = torch.tensor([0.25, -0.5])
    rows = range(2)
    *_, (x, _) = trajectory(
        Labelled(DiscreteSchedule(linear_betas(50))), default(DDIM), (2, 1, 2, 2), 2, lambda step: RowRandom(0, rows, step), y
    )
    np.testing.assert_allclose(x[:, 0, 0, 0], y, atol=1e-6)
