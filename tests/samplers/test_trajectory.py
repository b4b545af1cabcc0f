"""Samplers on data whose best denoiser is known, and steps of diffusers' schedulers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from pydantic import ValidationError

from pipeline.config import plugins
from pipeline.core.contracts import Generative, Random
from pipeline.core.random import KeyedRandom, RowRandom
from pipeline.diffusion.gaussian import Reverse, per_image, posterior
from pipeline.diffusion.schedule import DiscreteSchedule, LinearLogSNRSchedule, cosine_betas, linear_betas
from pipeline.samplers.ancestral import Ancestral
from pipeline.samplers.base import SamplerContext
from pipeline.samplers.ddim import DDIM
from pipeline.samplers.posterior import Posterior
from pipeline.samplers.trajectory import sample as end_of_trajectory
from pipeline.samplers.trajectory import trajectory
from tests.support.blocks import default, kind
from tests.support.denoisers import Drawing, gaussian, two

BLOCKS = [plugins.module("samplers", kind).Config for kind in plugins.names("samplers")]
SAMPLERS = [
    *(default(block) for block in BLOCKS),
    default(DDIM, eta=0.5),
    default(DDIM, eta=1.0),
    default(Ancestral, variance="small"),
    default(Ancestral, variance="large"),
]


def name(sampler):
    return "-".join(
        [kind(type(sampler)), *(str(getattr(sampler, key)) for key in ("eta", "variance") if hasattr(sampler, key))]
    )


samplers = pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
CONTINUOUS = LinearLogSNRSchedule(-13.3, 5.0)
LONG = DiscreteSchedule(linear_betas(1000))


class Odd(Generative):
    """Not the denoiser of anything: what holds for it holds for an untrained network too."""

    def __init__(self, schedule):
        self.schedule = schedule

    def reverse(self, z_t, s, t, y, rng, clip=None):
        return self.said(1.3 * torch.sin(3 * z_t) + 0.1 * z_t.flip(3), z_t, s, t, clip)

    def said(self, x_hat, z_t, s, t, clip):
        x_hat = x_hat if clip is None else x_hat.clamp(-clip, clip)
        return posterior(x_hat, z_t, self.schedule.gamma(s), self.schedule.gamma(t))


class Says(Odd):
    """x_hat, whatever is asked."""

    def __init__(self, schedule, x_hat):
        super().__init__(schedule)
        self.x_hat = x_hat

    def reverse(self, z_t, s, t, y, rng, clip=None):
        return self.said(self.x_hat * torch.ones_like(z_t), z_t, s, t, clip)


class Constant(Random):
    """Every draw is `value`."""

    def __init__(self, value):
        self.value = value

    def normal(self, shape, purpose):
        return self.value * torch.ones(shape, dtype=torch.float64)

    def uniform(self, shape, purpose):
        raise AssertionError("samplers need no uniform numbers")


def sample(model, sampler, shape, steps, seed=0, first=0):
    rows = range(first, first + shape[0])
    return list(trajectory(model, sampler, shape, steps, lambda step: RowRandom(seed, rows, step)))


def one_step(sampler, model, times, z, noise=0.0):
    """z_s of the first step of a longer context."""
    context = SamplerContext(model, torch.tensor([*times, 0.0], dtype=torch.float64), lambda _: Constant(noise), clip=1.0)
    return sampler.step(context, 0, z, None)[0]


@samplers
@pytest.mark.parametrize("data", [gaussian, two], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(
    ("schedule", "tolerance"),
    [(CONTINUOUS, 0.035), (DiscreteSchedule(cosine_betas(200)), 0.035), (LONG, 0.065)],
    ids=["continuous", "cosine", "linear"],
)
def test_every_sampler_returns_the_density(sampler, data, schedule, tolerance):
    """200 steps of first order leave a few per cent of the std, 40 of second order no more; 16 384 pixels add errors of 0.003
    to the mean, 0.6 per cent to the std, 0.004 to the share of the left component and 0.02 to the skewness."""
    model = data(schedule)
    *_, (x, _) = trajectory(model, sampler, (16, 1, 32, 32), 40 if sampler.solver else 200, lambda step: KeyedRandom(0, step))
    x, (mean, std, skewness) = x.double(), model.moments()
    assert float(x.mean()) == pytest.approx(mean, abs=0.012)
    assert float(x.std()) == pytest.approx(std, rel=tolerance)
    standard = (x - x.mean()) / x.std()
    assert float((standard**3).mean()) == pytest.approx(skewness, abs=0.08)
    assert float((standard[..., 1:] * standard[..., :-1]).mean()) == pytest.approx(0, abs=0.03)
    if data is gaussian:
        assert float((standard**4).mean()) == pytest.approx(3, abs=0.15)
    else:
        assert float((x < -0.1).double().mean()) == pytest.approx(0.3, abs=0.016)


@pytest.mark.parametrize("data", [gaussian, two], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("steps", [2, 4])
def test_drawn_x_hat_give_the_density_in_any_number_of_steps(data, steps):
    """q(z_s | z_t) is the mean of q(z_s | z_t, x) over p(x | z_t). A model that says E[x | z_t] loses the spread."""
    draws = Drawing(LONG, *(value.tolist() for value in (data(LONG).p, data(LONG).mean, data(LONG).std)))
    mean, std, skewness = draws.moments()

    def run(model):
        *_, (x, _) = trajectory(
            model, default(Posterior, clip=False), (16, 1, 32, 32), steps, lambda step: KeyedRandom(1, step)
        )
        return x.double()

    x = run(draws)
    assert draws.evaluations == steps
    assert float(x.mean()) == pytest.approx(mean, abs=0.012)
    assert float(x.std()) == pytest.approx(std, rel=0.02)
    assert float((((x - x.mean()) / x.std()) ** 3).mean()) == pytest.approx(skewness, abs=0.08)
    assert float(run(data(LONG)).std()) < 0.9 * std


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("other", [default(Ancestral), default(Ancestral, variance="small"), default(Posterior)])
def test_ddim_with_eta_1_is_ancestral_on_the_full_chain(clip, other):
    model = Odd(DiscreteSchedule(linear_betas(100)))
    one = sample(model, default(DDIM, eta=1.0, clip=clip), (2, 1, 4, 4), 100)
    another = sample(model, other.model_copy(update={"clip": clip}), (2, 1, 4, 4), 100)
    assert len(one) == len(another) == 101
    for (z, _), (w, _) in zip(one, another, strict=True):
        np.testing.assert_allclose(z, w, atol=3e-5)
    for sampler in (default(DDIM, clip=clip), default(Ancestral, variance="large", clip=clip)):
        assert float((sample(model, sampler, (2, 1, 4, 4), 100)[-1][0] - one[-1][0]).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("sampler", "jump", "small"),
    [
        (default(DDIM, eta=1.0), 0.72319635, 0.10025635),
        (default(DDIM, eta=0.5), 0.72319635 / 2, 0.10025635 / 2),
        (default(DDIM), 0.0, 0.0),
        (default(Ancestral, variance="small"), 0.72319635, 0.10025635),
        (default(Posterior), 0.72319635, 0.10025635),
        (default(Ancestral, variance="large"), 0.77336903, float(linear_betas(1000)[500]) ** 0.5),
    ],
)
def test_noise_of_a_step_as_printed(sampler, jump, small):
    """DDIM's sigma and sigma hat from index 500 to 400 and to 499 of the linear chain, counted from 0."""
    model, z = Says(LONG, 0.3), torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
    for target, expected in ((0.401, jump), (0.5, small)):
        silent, loud = (float(one_step(sampler, model, [0.501, target], z, noise)) for noise in (0.0, 1.0))
        assert loud - silent == pytest.approx(expected, rel=1e-6)


def test_sigma_hat_leaves_the_mean_of_the_posterior():
    model, z = Says(LONG, 0.3), torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
    large, small = (
        one_step(default(Ancestral, variance=variance), model, [0.501, 0.401], z) for variance in ("large", "small")
    )
    assert large.equal(small)


def test_the_models_own_variance():
    """`model` takes the std that the model says, `small` and `large` do not; all are silent in the last step."""

    class Loud(Says):
        def reverse(self, *args, **kwargs):
            said = super().reverse(*args, **kwargs)
            return Reverse(said.mean, 5 * said.std, said.x_hat, said.eps_hat)

    model, z = Loud(LONG, 0.3), torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
    spread = {}
    for variance in ("model", "small", "large"):
        sampler = default(Ancestral, variance=variance)
        spread[variance] = float(one_step(sampler, model, [0.501, 0.401], z, 1.0) - one_step(sampler, model, [0.501, 0.401], z))
        x = float(list(trajectory(model, sampler, (1, 1, 1, 1), 3, lambda _: Constant(1.0)))[-1][0])
        assert x == pytest.approx(0.3, abs=1e-9)
    assert spread["model"] == pytest.approx(5 * 0.72319635, rel=1e-6)
    assert spread["small"] == pytest.approx(0.72319635, rel=1e-6)
    assert spread["large"] == pytest.approx(0.77336903, rel=1e-6)


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
    z, output, noise = torch.randn(3, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (19, 20, 480, 900):
        step = theirs.step(output, t, z, eta=eta, use_clipped_model_output=True, variance_noise=noise if eta else None)
        alpha, sigma = (theirs.alphas_cumprod[t] ** 0.5, (1 - theirs.alphas_cumprod[t]) ** 0.5)
        said = {"epsilon": (z - sigma * output) / alpha, "sample": output, "v_prediction": alpha * z - sigma * output}
        x_hat = said[prediction].clamp(-1, 1) if clip else said[prediction]
        times = torch.tensor([(t + 1) / 1000, (t - 19) / 1000, 0.0], dtype=torch.float64)
        context = SamplerContext(Says(DiscreteSchedule(betas), x_hat), times, lambda _: Constant(noise))
        found, _ = default(DDIM, eta=eta).step(context, 0, z, None)
        np.testing.assert_allclose(found, step.prev_sample, rtol=1e-6, atol=1e-7, err_msg=str(t))


@samplers
def test_an_image_does_not_depend_on_the_batch_it_was_made_in(sampler):
    model = Odd(CONTINUOUS)
    together = sample(model, sampler, (64, 1, 4, 4), 8)[-1][0]
    for size in (1, 7):
        pieces = [sample(model, sampler, (size, 1, 4, 4), 8, first=first)[-1][0] for first in range(0, 14, size)]
        np.testing.assert_allclose(torch.cat(pieces), together[:14], atol=1e-5)
    assert len(together.flatten(1).unique(dim=0)) == 64
    assert float((together - sample(model, sampler, (64, 1, 4, 4), 8, seed=1)[-1][0]).abs().min()) > 0


@samplers
@pytest.mark.parametrize("schedule", [CONTINUOUS, DiscreteSchedule(linear_betas(50))], ids=["continuous", "discrete"])
@pytest.mark.parametrize("steps", [1, 2, 10, 40])
def test_a_trajectory(sampler, schedule, steps):
    """Noise first; as many evaluations as the sampler says; what is seen on the way is x_hat, clipped; the data end of a chain
    adds no noise."""
    model = gaussian(schedule)
    seen = sample(model, sampler, (3, 2, 4, 4), steps)
    times = schedule.times(steps, sampler.spacing)
    assert len(seen) == len(times) <= steps + 1
    assert model.evaluations == sampler.evaluations(times)
    assert seen[0][1] is None
    assert seen[0][0].equal(RowRandom(0, range(3), 0).normal((3, 2, 4, 4), "start"))
    assert all(z.shape == x_hat.shape == (3, 2, 4, 4) for z, x_hat in seen[1:])
    assert all(float(x_hat.abs().max()) <= 1 for _, x_hat in seen[1:])
    np.testing.assert_allclose(seen[-1][0], seen[-1][1], atol=1e-6 if isinstance(schedule, DiscreteSchedule) else 0.05)


def test_grids_without_duplicates_cost_less():
    """DDIM's quadratic steps: 96 of 100 are different. The walk starts with N(0, 1) at their highest level, 801 of 1000."""
    asked = []

    class Asked(Says):
        def reverse(self, z_t, s, t, *args, **kwargs):
            asked.append((round(float(s[0]) * 1000), round(float(t[0]) * 1000)))
            return super().reverse(z_t, s, t, *args, **kwargs)

    sampler = default(DDIM, spacing="quadratic")
    seen = sample(Asked(LONG, 0.3), sampler, (1, 1, 2, 2), 100)
    assert len(asked) == len(seen) - 1 == sampler.evaluations(LONG.times(100, "quadratic")) == 96
    assert (asked[0][1], asked[-1]) == (801, (0, 1))
    assert all(before[0] == after[1] for before, after in pairwise(asked))


@samplers
def test_clip_is_passed_on(sampler):
    for clip, value in ((True, 1.0), (False, 9.0)):
        chosen = sampler.model_copy(update={"clip": clip})
        last = sample(Says(DiscreteSchedule(linear_betas(50)), 9.0), chosen, (1, 1, 2, 2), 3)[-1][0]
        np.testing.assert_allclose(last, value, rtol=1e-5)


def test_clipping_is_the_default():
    assert all(block(kind=kind(block)).clip is True for block in BLOCKS)


def test_the_sample_is_divided_by_alpha_at_the_end():
    """A continuous schedule ends at z_0 = alpha_0 x + sigma_0 eps, and its alpha_0 may be far from 1."""

    class Still(Odd):
        def reverse(self, z_t, s, t, y, rng, clip=None):
            return Reverse(torch.full_like(z_t, 0.5), torch.zeros_like(z_t), torch.zeros_like(z_t), torch.zeros_like(z_t))

    model = Still(LinearLogSNRSchedule(-1.0, 5.0))
    seen = sample(model, default(Ancestral), (1, 1, 2, 2), 3)
    np.testing.assert_allclose(seen[-1][0], 0.5 * math.sqrt(1 + math.exp(-1.0)), rtol=1e-6)
    np.testing.assert_allclose(seen[-2][0], 0.5, rtol=1e-6)


@samplers
def test_labels_reach_the_model(sampler):
    class Labelled(Odd):
        def reverse(self, z_t, s, t, y, rng, clip=None):
            return self.said(per_image(y, z_t) * torch.ones_like(z_t), z_t, s, t, clip)

    y = torch.tensor([0.25, -0.5])
    *_, (x, _) = trajectory(
        Labelled(DiscreteSchedule(linear_betas(50))), sampler, (2, 1, 2, 2), 2, lambda step: RowRandom(0, range(2), step), y
    )
    np.testing.assert_allclose(x[:, 0, 0, 0], y, atol=1e-6)


def test_a_walk_from_a_given_latent():
    start = torch.linspace(-1, 1, 8).reshape(2, 1, 2, 2)
    seen = list(trajectory(gaussian(LONG), default(DDIM), (2, 1, 2, 2), 5, lambda _: Constant(math.nan), start=start))
    assert seen[0][0].equal(start)
    assert bool(seen[-1][0].isfinite().all())


@pytest.mark.parametrize(
    ("block", "values", "message"),
    [
        (DDIM, {"eta": 1.5}, "less than or equal to 1"),
        (DDIM, {"eta": -0.1}, "greater than or equal to 0"),
        (Ancestral, {"variance": "optimal", "spacing": "logsnr"}, "spacing is 'logsnr'; allowed with variance: optimal"),
        (Ancestral, {"spacing": "linear"}, "'trailing', 'uniform', 'quadratic', 'respaced' or 'logsnr'"),
    ],
)
def test_samplers_that_do_not_exist(block, values, message):
    with pytest.raises(ValidationError, match=message):
        default(block, **values)


@pytest.mark.parametrize("sampler", [one for one in SAMPLERS if one.solver], ids=lambda one: kind(type(one)))
def test_solvers_and_models_that_cannot_be_solved(sampler):
    with pytest.raises(AssertionError, match="solvers need"):
        sample(gaussian(LONG, Drawing), sampler, (1, 1, 2, 2), 4)


def test_variances_and_samplers_belong_together():
    with pytest.raises(AssertionError, match="the optimal variances are given"):
        sample(gaussian(CONTINUOUS), default(Ancestral, variance="optimal"), (1, 1, 2, 2), 4)
    with pytest.raises(AssertionError, match="variances of their own"):
        next(trajectory(gaussian(CONTINUOUS), default(DDIM), (1, 1, 2, 2), 4, Constant, variances=torch.ones(4)))


def test_a_sample_is_where_the_trajectory_ends_and_image_i_depends_on_the_seed_and_i_alone():
    sampler, shape = default(Ancestral), (3, 1, 4, 5)
    *_, (last, _) = trajectory(Odd(CONTINUOUS), sampler, shape, 7, lambda step: RowRandom(2, range(3), step))
    made = end_of_trajectory(Odd(CONTINUOUS), sampler, shape, 7, seed=2)
    assert torch.equal(made, last)
    assert torch.equal(end_of_trajectory(Odd(CONTINUOUS), sampler, (2, 1, 4, 5), 7, seed=2), made[:2])
    assert not torch.equal(end_of_trajectory(Odd(CONTINUOUS), sampler, shape, 7, seed=3), made)
