"""Chains of T steps: the KL of one, the best variance, and the bound of Gaussian data for every T against sums in numpy."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pipeline.config.load import read_block, read_plugin
from pipeline.core.contracts import DataSpec
from pipeline.core.random import RowRandom
from pipeline.diffusion import finite_steps_bound
from pipeline.diffusion.finite_steps import optimal_step_kl, optimal_variance, squared_error, step_kl
from pipeline.diffusion.schedule import LinearLogSNRConfig
from pipeline.families.ddpm import model as ddpm
from pipeline.families.vdm import model as vdm
from pipeline.networks.unet import UNetConfig
from pipeline.samplers.ancestral import Ancestral
from pipeline.samplers.trajectory import trajectory
from pipeline.store.data import write_data
from pipeline.store.splits import Split
from pipeline.training import reverse_variance
from tests.support.blocks import default
from tests.support.exact import GaussianDenoiser, GridRandom, code_grid, images
from tests.support.exact import squared_error as denoising_error

SIDE, MEAN, STD, LOW, HIGH = 16, 0.1, 0.2, -13.3, 5.0
SPEC = DataSpec((1, SIDE, SIDE), 256, 10)
X = code_grid(SIDE, MEAN, STD, 256)
SPREAD = float(np.mean((X - MEAN) ** 2))
STEPS = [4, 16, 64, 256]


def model(spec=SPEC, std=STD):
    block = vdm.Config(schedule=default(LinearLogSNRConfig, gamma_min=LOW, gamma_max=HIGH), network=UNetConfig(widths=(16,)))
    built = vdm.build(block, spec).eval()
    built.network = GaussianDenoiser("v", built.schedule, MEAN, std)
    return built


def by_hand(steps, spread=SPREAD, std=STD):
    """Of each step, first that from t = 1: sigma_Q^2 and E (mu_P - mu_Q)^2 per pixel."""
    gamma = HIGH - (HIGH - LOW) * np.arange(steps + 1) / steps
    gamma_t, gamma_s = gamma[:-1], gamma[1:]
    lost, alpha_s = 1 - np.exp(gamma_s - gamma_t), 1 / np.sqrt(1 + np.exp(gamma_s))
    error = denoising_error(1 / (1 + np.exp(gamma_t)), spread, std)
    return lost / (1 + np.exp(-gamma_s)), (alpha_s * lost) ** 2 * error


def totals(steps, **values):
    """L_T in nats per pixel with the posterior's variance and with the optimal one."""
    variance_q, squared = by_hand(steps, **values)
    return float(np.sum(squared / (2 * variance_q))), float(np.sum(0.5 * np.log1p(squared / variance_q)))


def limit(spread=SPREAD):
    """1/2 log((1 + s^2 SNR_max) / (1 + s^2 SNR_min)) of a denoiser that knows the spread s^2."""
    return 0.5 * math.log((1 + spread * math.exp(-LOW)) / (1 + spread * math.exp(-HIGH)))


def test_step_kl_against_torch_distributions():
    """48 independent normals in each of 5 images, narrower and wider than the posterior."""
    generator = torch.Generator().manual_seed(0)
    mean_q, mean_p = torch.randn(2, 5, 48, generator=generator, dtype=torch.float64)
    std_q, std_p = 0.1 + torch.rand(2, 5, generator=generator, dtype=torch.float64)
    expected = kl_divergence(Normal(mean_q, std_q[:, None]), Normal(mean_p, std_p[:, None])).sum(1)
    found = step_kl(((mean_p - mean_q) ** 2).sum(1), std_q**2, std_p**2, 48)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_optimal_variance_is_the_best_of_all():
    """On a scan around it, and there the mean KL is d/2 log(sigma_P^2 / sigma_Q^2); images differ."""
    squared = 3 * torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 2
    variance_q = torch.tensor(0.04, dtype=torch.float64)
    best = optimal_variance(squared, variance_q, 48)
    assert float(best) == pytest.approx(0.04 + float(squared.mean()) / 48, rel=1e-12)
    factors = np.exp(np.linspace(-1, 1, 41))
    scan = [float(step_kl(squared, variance_q, factor * best, 48).mean()) for factor in factors]
    assert int(np.argmin(scan)) == 20
    assert scan[20] == pytest.approx(float(optimal_step_kl(variance_q, best, 48)), rel=1e-12)
    assert scan[20] < float(step_kl(squared, variance_q, variance_q, 48).mean())


@pytest.mark.parametrize("steps", STEPS)
def test_bound_of_gaussian_data_at_every_number_of_steps(steps):
    """Draws spread evenly over images see each step equally often; noise and data are a full grid, so nothing is sampled."""
    times, count = min(steps, 16), max(steps // 16, 2)
    offset = (torch.arange(count, dtype=torch.float64) + 0.5) / (count * times)
    variance_q, squared = by_hand(steps)
    found = finite_steps_bound.chain(
        model(), images(X, count, SIDE), steps, times, torch.tensor(variance_q + squared), offset, GridRandom()
    )
    posterior, optimal = totals(steps)
    assert found.posterior.mean() / SPEC.dimensions == pytest.approx(posterior, rel=2e-3)
    assert found.optimal.mean() / SPEC.dimensions == pytest.approx(optimal, rel=2e-3)
    assert optimal < posterior


def test_the_limit_of_infinitely_many_steps():
    """With the posterior's variance T (L_T - L_inf) tends to a constant; with the optimal one L_T is L_inf for every T,
    because the way back of Gaussian data is Gaussian, and then p(z_s | z_t) is the true one."""
    scaled = np.array([steps * (totals(steps, std=SPREAD**0.5)[0] - limit()) for steps in (1000, 2000, 4000)])
    np.testing.assert_allclose(scaled, scaled[-1], rtol=0.02)
    assert scaled[-1] > 1
    for steps in (1, 2, 4, 50):
        assert totals(steps, std=SPREAD**0.5)[1] == pytest.approx(limit(), rel=1e-9)
    uniform = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    found = model(std=SPREAD**0.5).diffusion_term(images(X, 200, SIDE), uniform, GridRandom())
    assert float(found.nats.mean()) / SPEC.dimensions == pytest.approx(limit(), rel=2e-4)


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_the_optimal_variance_closes_the_gap_of_few_steps(steps):
    """Of the model itself: bits/dim of 1, 4 and 16 steps are those of infinitely many, which the posterior's are far from."""
    variance_q, squared = by_hand(steps, std=SPREAD**0.5)
    variances, offset = torch.tensor(variance_q + squared), torch.zeros(2, dtype=torch.float64)
    found = finite_steps_bound.chain(model(std=SPREAD**0.5), images(X, 2, SIDE), steps, 16, variances, offset, GridRandom())
    assert found.optimal.mean() / SPEC.dimensions == pytest.approx(limit(), abs=1e-3 * math.log(2))
    assert found.posterior.mean() / SPEC.dimensions > limit() + 0.3


def test_a_fixed_ratio_of_variances_diverges():
    """w = 1.05 at every step adds T d/2 (w - 1 - log w): the best bound is at some finite T."""
    bounds = []
    for steps in (100, 1000, 10_000):
        variance_q, squared = (torch.tensor(value) for value in by_hand(steps))
        bounds.append(float(step_kl(squared, variance_q, variance_q / 1.05, 1).sum()))
    extra = 0.5 * (0.05 - math.log(1.05))
    assert bounds[2] - bounds[1] == pytest.approx(9000 * extra, rel=0.02)
    assert bounds[2] > bounds[1] + 5


def test_the_measured_error_is_not_clipped():
    """A denoiser that believes in pixels around 1.5 is as wrong as that; what samplers clip is no part of a bound."""
    far = model(std=1e-3)
    far.network.mean = 1.5
    s, t = (torch.full((2,), time, dtype=torch.float64) for time in (0.7, 0.75))
    squared, variance_q = squared_error(far, images(X, 2, SIDE), s, t, GridRandom())
    gamma_s, gamma_t = (LOW + (HIGH - LOW) * time for time in (0.7, 0.75))
    lost, alpha_s = 1 - math.exp(gamma_s - gamma_t), 1 / math.sqrt(1 + math.exp(gamma_s))
    assert float(squared[0]) / SPEC.dimensions == pytest.approx((alpha_s * lost) ** 2 * np.mean((X - 1.5) ** 2), rel=1e-3)
    assert float(variance_q[1]) == pytest.approx(lost / (1 + math.exp(-gamma_s)), rel=1e-5)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """1200 images of 8 x 8 normal pixels."""
    x = np.random.default_rng(0).normal(MEAN, STD, (1200, 1, 8, 8))
    codes = np.clip(np.floor((x + 1) * 128), 0, 255).astype(np.uint8)
    folder = tmp_path_factory.mktemp("gaussian")
    arrays = {"train": (codes, np.zeros(1200, np.int64))}
    return Split(write_data(folder, arrays, levels=256, classes=1, extra={}), "train")


def test_estimated_variances_of_gaussian_data(split):
    """sigma_Q^2 + E (mu_P - mu_Q)^2 in closed form, within the error of the pixels that were seen."""
    spec = DataSpec((1, 8, 8), 256, 1)
    spread = float(np.mean(((2 * split.images.astype("f8") + 1) / 256 - 1 - MEAN) ** 2))
    found = reverse_variance.estimate(model(spec), split, (2, 5, 32), 0, torch.device("cpu"))
    assert list(found) == [2, 5, 32]
    for steps, values in found.items():
        variance_q, squared = by_hand(steps, spread)
        assert len(values) == steps
        error = (np.array(values) - variance_q) / squared - 1
        pixels = 64 * min(reverse_variance.EVALUATIONS // steps, len(split))
        assert float(np.abs(error).max()) < 5 * math.sqrt(2 / pixels) + 1e-3
    again, other = (reverse_variance.estimate(model(spec), split, (5,), seed, torch.device("cpu")) for seed in (0, 1))
    assert again[5] == found[5] != other[5]


def test_estimated_variances_are_of_every_image(split):
    """Steps of a deep chain have images of their own: together they go through the split, not always its first rows."""

    class Watched:
        images, seen = split.images, []

        def __len__(self):
            return len(split)

        def rows(self, index, device):
            self.seen.extend(index.tolist())
            return split.rows(index, device)

    reverse_variance.estimate(model(DataSpec((1, 8, 8), 256, 1)), Watched(), (64,), 0, torch.device("cpu"))
    assert len(Watched.seen) == reverse_variance.EVALUATIONS
    assert set(Watched.seen) == set(range(1200))


def test_the_sampler_takes_the_stored_variances_and_no_noise_at_the_end():
    """z_s - mean = sqrt(variance) noise, step by step, with the noise of that step."""
    built, rows, variances = model(), range(3), torch.tensor([0.09, 0.04, 0.01, 25.0], dtype=torch.float64)
    sampler = default(Ancestral, variance="optimal")
    shape = (3, *SPEC.shape)
    with torch.no_grad():
        walk = [z for z, _ in trajectory(built, sampler, shape, 4, lambda step: RowRandom(0, rows, step), variances=variances)]
        for index in range(4):
            t, s = (torch.full((3,), 1 - (index + after) / 4, dtype=torch.float64) for after in (0, 1))
            mean = built.reverse(walk[index], s, t, None, RowRandom(0, rows, index + 1), 1.0).mean
            noise = RowRandom(0, rows, index + 1).normal(shape, "noise")
            if index < 3:
                expected = mean + (0.3, 0.2, 0.1)[index] * noise
            else:
                expected = mean * math.sqrt(1 + math.exp(LOW))
            torch.testing.assert_close(walk[index + 1], expected, rtol=1e-5, atol=1e-5)


def test_optimal_variances_restore_the_spread_of_few_steps():
    """Four steps with the posterior's variance make pixels too alike; with sigma_P^2 = sigma_Q^2 + E (mu_P - mu_Q)^2 every
    z_s has the variance of the data's, in closed form and in samples."""
    variance_q, squared = by_hand(4, STD**2)
    shape, spread = (400, *SPEC.shape), {}
    for name, variances in (("optimal", torch.tensor(variance_q + squared)), ("posterior", None)):
        sampler = default(Ancestral, clip=False)
        with torch.no_grad():
            *_, (x, _) = trajectory(
                model(), sampler, shape, 4, lambda step: RowRandom(0, range(400), step), variances=variances
            )
        spread[name] = float(x.std())
    assert abs(spread["optimal"] - STD) < 0.5 * abs(spread["posterior"] - STD)
    assert spread["posterior"] < STD


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "ancestral", "variance": "best"}, "sampler.variance is 'best'; allowed: "),
        ({"kind": "ddim", "variance": "optimal"}, "sampler.variance is not a known key"),
    ],
)
def test_refusals(values, message):
    with pytest.raises(ValueError) as refusal:
        read_plugin("samplers", values, "sampler")
    assert str(refusal.value).startswith(message)


def test_a_discrete_chain_has_no_other_lengths():
    """DDPM's T is its own: the study would measure another model."""
    block = {"schedule": {"kind": "cosine-beta", "steps": 4}, "network": {"kind": "unet", "widths": [16]}}
    built = ddpm.build(read_block(ddpm.Config, block, "model"), SPEC)
    times = (torch.full((1,), time, dtype=torch.float64) for time in (0.25, 0.5))
    with pytest.raises(AssertionError):
        squared_error(built, images(X, 1, SIDE), *times, GridRandom())
