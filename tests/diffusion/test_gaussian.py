"""Against Gaussian conditioning done by brute force: the joint covariance of (z_s, z_t) given x, in numpy or 60 digits."""

import math

import mpmath
import numpy as np
import pytest
import torch

from pipeline.diffusion import gaussian
from pipeline.diffusion.schedule import DiscreteSchedule, cosine_betas, linear_betas

PAIRS = np.sort(np.random.default_rng(0).uniform(-12, 9, (200, 2)), 1)


def double(*values):
    return [torch.tensor(np.asarray(value), dtype=torch.float64) for value in values]


def image(value, like):
    return value.reshape(-1, 1, 1, 1).expand(len(value), 1, 2, 3).to(like)


def alpha_sigma(gamma):
    """From SNR = e^-gamma and alpha^2 + sigma^2 = 1, as printed."""
    snr = np.exp(-gamma)
    return np.sqrt(snr / (1 + snr)), np.sqrt(1 / (1 + snr))


def condition(gamma_s, gamma_t, x, z_t):
    """Mean and std of z_s given z_t and x, from z_s = alpha_s x + sigma_s e_1 and z_t = r z_s + n e_2."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = alpha_sigma(gamma_s), alpha_sigma(gamma_t)
    ratio = alpha_t / alpha_s
    noise = sigma_t**2 - ratio**2 * sigma_s**2
    out = []
    for i in range(len(x)):
        mix = np.array([[sigma_s[i], 0], [ratio[i] * sigma_s[i], np.sqrt(noise[i])]])
        (var_s, cov), (_, var_t) = mix @ mix.T
        out.append((alpha_s[i] * x[i] + cov / var_t * (z_t[i] - alpha_t[i] * x[i]), np.sqrt(var_s - cov**2 / var_t)))
    return np.array(out).T


def test_alpha_sigma():
    gamma = np.linspace(-30, 30, 61)
    alpha, sigma = gaussian.alpha_sigma(*double(gamma))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-15)
    np.testing.assert_allclose(alpha**2 / sigma**2, np.exp(-gamma), rtol=1e-12)
    assert bool((alpha.diff() < 0).all() and (sigma.diff() > 0).all())


def test_the_data_end_is_exact():
    alpha, sigma = gaussian.alpha_sigma(torch.tensor([-math.inf], dtype=torch.float64))
    assert (float(alpha), float(sigma)) == (1.0, 0.0)


def test_diffuse_per_image():
    gamma, x, noise = double([-2.0, 3.0], [0.5, -0.25], [1.5, 2.5])
    z = gaussian.diffuse(image(x, x), gamma, image(noise, x))
    alpha, sigma = alpha_sigma(gamma.numpy())
    np.testing.assert_allclose(z[:, 0, 1, 2], alpha * x.numpy() + sigma * noise.numpy(), rtol=1e-14)
    assert z.shape == (2, 1, 2, 3)
    assert bool((z == z[:, :1, :1, :1]).all())


def test_kernel_is_the_conditional_gaussian():
    rng = np.random.default_rng(1)
    x, z_t = rng.normal(size=(2, len(PAIRS)))
    mean, std = condition(*PAIRS.T, x, z_t)
    gamma_s, gamma_t, x_hat, z = double(*PAIRS.T, x, z_t)
    found = gaussian.posterior(image(x_hat, z), image(z, z), gamma_s, gamma_t)
    np.testing.assert_allclose(found.mean[:, 0, 0, 0], mean, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.std[:, 0, 1, 2], std, rtol=1e-7)
    np.testing.assert_allclose(gaussian.posterior_std(gamma_s, gamma_t), std, rtol=1e-7)
    alpha_t, sigma_t = alpha_sigma(PAIRS[:, 1])
    np.testing.assert_allclose(found.eps_hat[:, 0, 0, 0], (z_t - alpha_t * x) / sigma_t, rtol=1e-9)
    assert bool((found.x_hat == image(x_hat, z)).all())
    assert found.mean.shape == found.std.shape == found.eps_hat.shape == (len(PAIRS), 1, 2, 3)


@pytest.mark.parametrize("gamma_t", [-13.0, 0.0, 12.0])
def test_neighbouring_gammas_keep_their_digits(gamma_t):
    """Steps of a millionth: subtracting variances in float64 would leave few digits of them."""
    gamma_s = gamma_t - 1e-6
    with mpmath.workdps(60):

        def square(gamma):
            return 1 / (1 + mpmath.exp(mpmath.mpf(gamma))), 1 / (1 + mpmath.exp(-mpmath.mpf(gamma)))

        (a_s, v_s), (a_t, v_t) = square(gamma_s), square(gamma_t)
        cov = mpmath.sqrt(a_t / a_s) * v_s
        std, step = mpmath.sqrt(v_s - cov**2 / v_t), mpmath.sqrt(v_t - a_t / a_s * v_s)
        a, b = cov / v_t, mpmath.sqrt(a_s) - cov / v_t * mpmath.sqrt(a_t)
    s, t = double([gamma_s], [gamma_t])
    found = [gaussian.posterior_std(s, t), gaussian.transition_std(s, t), *gaussian.posterior_coefficients(s, t)]
    # The difference of the gammas itself has some nine digits.
    np.testing.assert_allclose([float(v) for v in found], [float(v) for v in (std, step, a, b)], rtol=1e-8)


def test_at_the_data_the_kernel_is_a_point_mass_at_x():
    gamma_s, gamma_t, x, z = double([-math.inf] * 3, [-9.0, 0.0, 9.0], [0.3, -0.7, 1.0], [1.0, 2.0, -3.0])
    found = gaussian.posterior(image(x, x), image(z, z), gamma_s, gamma_t)
    np.testing.assert_array_equal(found.mean, image(x, x))
    np.testing.assert_array_equal(found.std, 0)
    assert bool(found.eps_hat.isfinite().all())


@pytest.mark.parametrize("gamma_s", [-math.inf, -4.0])
def test_transitions_compose_to_the_marginal(gamma_s):
    """z_u of x, straight or by way of s and t: the same signal and the same variance."""
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    s, t, u = double([gamma_s], [-1.0], [2.5])
    signal, variance = gaussian.diffuse(one, s, zero), gaussian.diffuse(zero, s, one) ** 2
    for before, after in ((s, t), (t, u)):
        signal = gaussian.transition(signal, before, after, zero)
        kept = gaussian.transition(one, before, after, zero) ** 2
        added = gaussian.transition(zero, before, after, one) ** 2
        variance = kept * variance + added
        assert float(added) == pytest.approx(float(gaussian.transition_std(before, after) ** 2), rel=1e-14)
    alpha, sigma = alpha_sigma(2.5)
    assert float(signal) == pytest.approx(alpha, rel=1e-13)
    assert float(variance) == pytest.approx(sigma**2, rel=1e-13)


@pytest.mark.parametrize("betas", [linear_betas(1000), cosine_betas(1000)], ids=["linear", "cosine"])
def test_posterior_of_a_chain_by_its_betas(betas):
    """c1, c2 and beta tilde as Ho et al. print them, on the whole chain."""
    b = betas.numpy()
    alpha_bar = np.cumprod(1 - b)
    before = np.append(1.0, alpha_bar[:-1])
    gamma = DiscreteSchedule(betas).table
    z, x = gaussian.posterior_coefficients(gamma[:-1], gamma[1:])
    np.testing.assert_allclose(x, b * np.sqrt(before) / (1 - alpha_bar), rtol=1e-9)
    np.testing.assert_allclose(z, (1 - before) * np.sqrt(1 - b) / (1 - alpha_bar), rtol=1e-8, atol=1e-15)
    variance = gaussian.posterior_std(gamma[:-1], gamma[1:]) ** 2
    np.testing.assert_allclose(variance, b * (1 - before) / (1 - alpha_bar), rtol=1e-8, atol=1e-20)
    np.testing.assert_allclose(gaussian.transition_std(gamma[:-1], gamma[1:]) ** 2, b, rtol=1e-9)


def test_coefficients_are_formed_in_float64_and_take_the_type_of_the_images():
    """Neighbouring gammas that are equal in float32 still give a step."""
    gamma_s, gamma_t = double([5.0], [5.0 + 1e-8])
    found = gaussian.posterior(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), gamma_s, gamma_t)
    assert found.mean.dtype == found.std.dtype == found.eps_hat.dtype == torch.float32
    assert float(found.std[0, 0, 0, 0]) == pytest.approx(1e-4, rel=0.01)
