"""Printed values, scipy and mpmath for the discretised Gaussian; torch.distributions for KL terms; sums over all codes."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal, kl_divergence

from pipeline.core import pixels
from pipeline.diffusion import likelihood
from pipeline.diffusion.schedule import DiscreteSchedule, cosine_betas, linear_betas

LEVELS = 256


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def every_code(levels=LEVELS):
    return pixels.dequantize(torch.arange(levels), levels)


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_codes_and_centres(levels):
    codes = torch.arange(levels, dtype=torch.uint8)
    x = pixels.dequantize(codes, levels)
    np.testing.assert_allclose(x, -1 + (2 * np.arange(levels) + 1) / levels, atol=1e-7)
    for nudge in (-0.49, 0.0, 0.49):
        assert pixels.quantize(x + nudge * 2 / levels, levels).equal(codes)
    outside = torch.tensor([-7.0, -1.0, 1.0, 7.0])
    assert pixels.quantize(outside, levels).tolist() == [0, 0, levels - 1, levels - 1]


@pytest.mark.parametrize(
    ("x", "mean", "log_std", "printed"),
    [(0.0, 0.0, -5.0, -0.822482), (1.0, 1.0, -5.0, -0.328963), (-1.0, -1.0, -5.0, -0.328963), (0.5, 0.4, -3.0, -4.773513)],
)
def test_discretised_gaussian_as_printed(x, mean, log_std, printed):
    """The printed values approximate Phi by a tanh: off by up to two thousandths."""
    found = likelihood.discretised_gaussian(double(x), double(mean), double(log_std), 1 / 255)
    assert float(found) == pytest.approx(printed, rel=2e-3)


def test_far_from_the_truth_it_is_worse_than_the_floor_of_the_reference_code():
    """Where the reference code stops at log 1e-12 = -27.6, the exact value goes on, as -u^2/2 - log u (Mills' ratio)."""
    found = float(likelihood.discretised_gaussian(double(0.5), double(-0.5), double(-5.0), 1 / 255))
    u = math.exp(5) * (1 - 1 / 255)
    tail = -(u**2) / 2 - math.log(u * math.sqrt(2 * math.pi))
    assert found == pytest.approx(tail, abs=0.01)
    assert found < -10_000


@pytest.mark.parametrize(("mean", "log_std"), [(0.1, -1.0), (-0.97, -3.0), (0.99, -4.5), (1.7, 0.5), (0.003, -7.0)])
def test_discretised_gaussian_against_scipy(mean, log_std):
    """Bins whose mass is a difference of two well-known numbers, edges by the tails."""
    x = every_code().double()
    found = likelihood.discretised_gaussian(x, double(mean), double(log_std), 1 / LEVELS).numpy()
    edges = np.concatenate([[-np.inf], np.linspace(-1, 1, LEVELS + 1)[1:-1], [np.inf]])
    normal = stats.norm(mean, np.exp(log_std))
    mass = np.where(edges[1:] < mean, np.diff(normal.cdf(edges)), -np.diff(normal.sf(edges)))
    known = mass > 1e-290
    assert known.sum() > 3
    np.testing.assert_allclose(found[known], np.log(mass[known]), rtol=1e-6, atol=2e-7)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("x", [-1 + 1 / LEVELS, -0.75 + 1 / LEVELS, 0.5 + 1 / LEVELS, 1 - 1 / LEVELS])
@pytest.mark.parametrize(("mean", "log_std"), [(-0.3, -5.0), (0.4, -8.0), (3.0, -6.0), (-3.0, -6.0), (0.501, 3.0)])
def test_tails_against_many_digits(x, mean, log_std):
    with mpmath.workdps(50):
        std, half = mpmath.exp(log_std), mpmath.mpf(1) / LEVELS
        upper, lower = (mpmath.mpf(x) - mean + half) / std, (mpmath.mpf(x) - mean - half) / std

        def tail(u):  # P(Z > u), as accurate far out as near
            return mpmath.erfc(u / mpmath.sqrt(2)) / 2

        if x < -0.99:
            mass = tail(-upper)
        elif x > 0.99:
            mass = tail(lower)
        else:
            mass = tail(lower) - tail(upper) if lower > 0 else tail(-upper) - tail(-lower)
        expected = float(mpmath.log(mass))
    found = likelihood.discretised_gaussian(double(x), double(mean), double(log_std), 1 / LEVELS)
    assert float(found) == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_discretised_gaussian_has_gradients_where_the_reference_code_has_none():
    mean = double(-0.5).requires_grad_()
    likelihood.discretised_gaussian(double(0.5), mean, double(-5.0), 1 / LEVELS).backward()
    assert float(mean.grad) == pytest.approx(math.exp(10) * (1 - 1 / LEVELS), rel=1e-3)


@pytest.mark.parametrize(("levels", "gamma"), [(256, -13.3), (16, -6.0), (2, 1.0)])
def test_discretised_latent_sums_to_one(levels, gamma):
    """Over the codes of one pixel, for latents inside, on an edge and outside."""
    x = every_code(levels).double().reshape(-1, 1, 1, 1)
    for z in (-1.4, -0.001, 0.37, 1.2):
        latent = torch.full_like(x, z)
        log_p = likelihood.discretised_latent(x, latent, torch.full((levels,), gamma, dtype=torch.float64), levels)
        assert log_p.shape == (levels,)
        assert float(log_p.exp().sum()) == pytest.approx(1, rel=1e-9)
        weights = np.exp(-0.5 * np.exp(-gamma) * (z - x.numpy().ravel()) ** 2)
        likely = weights > 1e-300
        np.testing.assert_allclose(log_p[likely], np.log(weights[likely] / weights.sum()), atol=1e-6)


def test_discretised_latent_sums_over_the_pixels_of_each_image():
    """Each image with its own noise level."""
    generator = torch.Generator().manual_seed(0)
    x = every_code(16)[torch.randint(16, (3, 2, 4, 5), generator=generator)].double()
    z = x + 0.1 * torch.randn(x.shape, generator=generator)
    gamma = double(-6.0, -3.0, 0.0)
    expected = torch.stack(
        [
            likelihood.discretised_latent(x[i].reshape(-1, 1, 1, 1), z[i].reshape(-1, 1, 1, 1), gamma[i].expand(40), 16).sum()
            for i in range(3)
        ]
    )
    np.testing.assert_allclose(likelihood.discretised_latent(x, z, gamma, 16), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("log_snr", "interior", "edge"),
    [
        (13.3, 0.01045, 0.00523),
        (13.5, 0.00355, 0.00177),
        (13.8, 0.00045, None),
        (13.0, 0.0376, None),
        (12.0, 0.417, None),
        (10.0, 1.83, None),
    ],
)
def test_reconstruction_as_printed(log_snr, interior, edge):
    """Bits of one pixel of 8 bits: the integral over the noise by the trapezoid rule, one image for each node."""
    noise = np.linspace(-8, 8, 1601)
    weights = stats.norm.pdf(noise) * (noise[1] - noise[0])
    gamma = torch.full((len(noise),), -log_snr, dtype=torch.float64)
    bits = {}
    for code in (128, 0, 255):
        x = every_code()[code].double().expand(len(noise), 1, 1, 1)
        z = x + math.exp(-log_snr / 2) * torch.tensor(noise).reshape(-1, 1, 1, 1)
        bits[code] = -weights @ likelihood.discretised_latent(x, z, gamma, LEVELS).numpy() / math.log(2)
    assert bits[128] == pytest.approx(interior, rel=0.01, abs=6e-6)
    assert bits[0] == pytest.approx(bits[255], rel=1e-6)
    if edge is not None:
        assert bits[0] == pytest.approx(edge, rel=0.01)
    assert bits[0] < bits[128]


@pytest.mark.parametrize(
    ("gamma_1", "mean_square", "bits", "tolerance"),
    [
        (float(DiscreteSchedule(linear_betas(1000)).table[-1]), 1.0, 2.91e-5, 0.005),
        (float(DiscreteSchedule(linear_betas(1000)).table[-1]), 0.25, 7.3e-6, 0.005),
        (5.0, 0.254, 0.00124, 0.005),
        (5.0, 0.918, 0.00445, 0.002),
        (5.0, 0.0, 1.63e-5, 0.005),
    ],
)
def test_prior_as_printed(gamma_1, mean_square, bits, tolerance):
    x = torch.full((1, 3, 4, 4), mean_square**0.5)
    x[:, :, 1::2] *= -1
    found = likelihood.bits_per_dim(likelihood.prior_kl(x, double(gamma_1)), 48)
    assert float(found) == pytest.approx(bits, rel=tolerance)


def test_prior_of_a_long_cosine_chain():
    found = likelihood.prior_kl(torch.ones(1, 1, 1, 1), DiscreteSchedule(cosine_betas(4000)).table[-1:]) / math.log(2)
    assert 0 < float(found) <= 1.1e-10


@pytest.mark.parametrize("gamma_1", [-3.0, 0.0, 5.0])
def test_prior_against_torch_distributions(gamma_1):
    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    alpha, sigma = (1 / (1 + math.exp(gamma_1))) ** 0.5, (1 / (1 + math.exp(-gamma_1))) ** 0.5
    expected = kl_divergence(Normal(alpha * x, sigma), Normal(torch.zeros(()).double(), 1.0)).flatten(1).sum(1)
    np.testing.assert_allclose(likelihood.prior_kl(x, double(gamma_1, gamma_1)), expected, rtol=1e-12)


def test_gaussian_kl_against_torch_distributions():
    """Both directions of unequal pairs, and nearly equal ones."""
    generator = torch.Generator().manual_seed(1)
    mean_q, mean_p, log_q, log_p = torch.randn(4, 50, generator=generator, dtype=torch.float64)
    expected = kl_divergence(Normal(mean_q, (log_q / 2).exp()), Normal(mean_p, (log_p / 2).exp()))
    np.testing.assert_allclose(likelihood.gaussian_kl(mean_q, log_q, mean_p, log_p), expected, rtol=1e-10)
    back = likelihood.gaussian_kl(mean_p, log_p, mean_q, log_q)
    assert float((back - expected).abs().min()) > 1e-6
    assert float(likelihood.gaussian_kl(*double(0.3, 1.0, 0.3, 1.0))) == 0.0
    # KL of variances that differ by d is d^2/4 to leading order.
    assert float(likelihood.gaussian_kl(*double(0.0, 1e-5, 0.0, 0.0))) == pytest.approx(2.5e-11, rel=1e-4)


def test_reductions():
    values = torch.arange(12.0).reshape(2, 1, 2, 3)
    assert likelihood.sum_image(values).tolist() == [15.0, 51.0]
    assert likelihood.sum_image(values).dtype == torch.float64
    assert likelihood.mean_image(values).tolist() == [2.5, 8.5]
    assert likelihood.bits_per_dim(double(6 * math.log(2)), 3).tolist() == pytest.approx([2.0])
