"""DiffEnc as a chain of T steps: the Kullback-Leibler terms of Bayes' rule, and their limit of infinitely many steps."""

import numpy as np
import pytest
import torch

from pipeline.diffusion import finite_steps_bound
from pipeline.diffusion.finite_steps import squared_error, step_kl
from tests.support import encoding
from tests.support.encoding import HIGH, KINDS, LOW, SPEC, build, chain, images, limit, quadrature, smooth
from tests.support.exact import GridRandom

PIXELS = SPEC.dimensions
kinds = pytest.mark.parametrize("kind", KINDS)


def steps_of_the_model(kind, steps):
    """KL of each step, first that next to the data, in nats per pixel: one image for each step."""
    edges = torch.arange(steps + 1, dtype=torch.float64) / steps
    squared, variance = squared_error(smooth(kind), images(steps), edges[:-1], edges[1:], GridRandom())
    return (step_kl(squared, variance, variance, PIXELS) / PIXELS).numpy()


def continuous(kind):
    """L_inf of the model in nats per pixel, from its values at the nodes of a quadrature."""
    times, weights = quadrature()
    found = smooth(kind).diffusion_term(images(len(times)), torch.tensor(times), GridRandom())
    return float(weights @ found.nats.detach().numpy()) / PIXELS


@kinds
@pytest.mark.parametrize("steps", [1, 3, 64, 1000])
def test_every_step_is_the_divergence_of_bayes(kind, steps):
    """Eq. 10, 11 and 17 multiplied out: a missing counter term, a wrong sign of it or of the shift is seen here."""
    gamma = (LOW + (HIGH - LOW) * np.arange(steps + 1) / steps)[:, None, None]
    expected = encoding.step_kl(kind, gamma[:-1], gamma[1:]).mean((1, 2))
    np.testing.assert_allclose(steps_of_the_model(kind, steps), expected, rtol=1e-6)


@pytest.mark.parametrize("steps", [3, 64])
def test_vdm_trained_on_t_steps_has_their_divergences_for_its_loss(steps):
    """T times the KL of each step (VDM, eq. 13), which goes to the continuous loss of the same model."""
    model, uniform = smooth("vdm", steps=steps), (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    found = model.diffusion_term(images(steps), uniform, GridRandom()).nats.numpy() / PIXELS
    np.testing.assert_allclose(found, steps * steps_of_the_model("vdm", steps), rtol=1e-6)
    assert found.mean() == pytest.approx(chain("vdm", steps), rel=1e-6)


@kinds
def test_the_continuous_loss_is_the_integral_over_snr(kind):
    """Eq. 18, and at each time, with a derivative taken from differences."""
    times, _ = quadrature(40)
    found = smooth(kind).diffusion_term(images(len(times)), torch.tensor(times), GridRandom()).nats / PIXELS
    gamma = (LOW + (HIGH - LOW) * times)[:, None, None]
    np.testing.assert_allclose(found.numpy(), (HIGH - LOW) * encoding.integrand(kind, gamma).mean((1, 2)), rtol=1e-6)
    assert continuous(kind) == pytest.approx(limit(kind), rel=1e-6)


@kinds
def test_the_chain_goes_to_the_continuous_loss_as_one_over_t(kind):
    """T (L_T - L_inf) tends to a constant: its distance from there halves, and so does that of the model's own chain."""
    lengths = [200, 400, 800, 1600]
    scaled = np.array([steps * (chain(kind, steps) - continuous(kind)) for steps in lengths])
    assert abs(scaled[-1]) > 1
    np.testing.assert_allclose(scaled[2:], scaled[3], rtol=0.01)
    np.testing.assert_allclose(np.diff(scaled)[1:] / np.diff(scaled)[:-1], 0.5, atol=0.1)
    own = 400 * (steps_of_the_model(kind, 400).sum() - continuous(kind))
    assert own == pytest.approx(scaled[1], rel=1e-3)


@pytest.mark.parametrize("kind", ["trainable", "non-trainable"])
def test_without_the_counter_term_it_goes_elsewhere(kind):
    """To eq. 14, which is the bound of another model: the test above would see it."""
    apart = [abs(chain(kind, steps, counter=False) - limit(kind)) for steps in (3200, 6400)]
    assert apart[0] > 3 * abs(chain(kind, 3200) - limit(kind))
    assert apart[1] > 0.8 * apart[0]


@kinds
def test_the_estimate_of_a_chain_adds_the_steps_up(kind):
    """All steps where there are no more than times; otherwise times spread evenly, whose mean over images is the sum."""
    for steps, times, count in ((6, 6, 2), (5, 8, 2), (64, 8, 8)):
        offset = (torch.arange(count, dtype=torch.float64) + 0.5) / (count * times)
        variances = torch.full((steps,), 0.3, dtype=torch.float64)
        found = finite_steps_bound.chain(smooth(kind), images(count), steps, times, variances, offset, GridRandom())
        assert found.posterior.shape == found.optimal.shape == (count,)
        assert found.posterior.mean() / PIXELS == pytest.approx(chain(kind, steps), rel=1e-6)
    offset = (torch.arange(64, dtype=torch.float64) + 0.5) / 256
    limits = finite_steps_bound.continuous(smooth(kind), images(64), 4, offset, GridRandom())
    assert limits.mean() / PIXELS == pytest.approx(limit(kind), rel=1e-3)


@pytest.mark.parametrize("kind", ["trainable", "non-trainable"])
@pytest.mark.parametrize(("s", "t"), [(0.0, 0.1), (0.4, 0.5), (0.35, 0.95)])
def test_the_generative_mean_as_printed(kind, s, t):
    """Eq. 17: alpha_{t|s} sigma_s^2 / sigma_t^2 z_t + alpha_s sigma_{t|s}^2 / sigma_t^2 x_hat + the counter term."""
    z = torch.randn(2, *SPEC.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = (torch.full((2,), time, dtype=torch.float64) for time in (s, t))
    found = smooth(kind).reverse(z, *times, None, GridRandom())
    gamma_s, gamma_t = (LOW + (HIGH - LOW) * time for time in (s, t))
    alpha_s, alpha_t = (np.sqrt(encoding.alpha_squared(gamma)) for gamma in (gamma_s, gamma_t))
    var_s, var_t = 1 - alpha_s**2, 1 - alpha_t**2
    step = var_t - (alpha_t / alpha_s) ** 2 * var_s
    guess = encoding.x_hat(z.numpy(), gamma_t)
    counter = alpha_s * (-gamma_s - -gamma_t) * var_t * guess
    mean = alpha_t / alpha_s * var_s / var_t * z.numpy() + alpha_s * step / var_t * guess + counter
    np.testing.assert_allclose(found.mean, mean, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.drift, counter, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found.std, np.sqrt(step * var_s / var_t), rtol=1e-7)
    np.testing.assert_allclose(found.x_hat, guess, rtol=1e-9)


def test_a_clipped_x_hat_moves_by_its_clipped_counter_term():
    """What is clipped is clipped everywhere: mean = a z + b x_hat + drift with one x_hat."""
    model, z = build("non-trainable"), torch.full((1, *SPEC.shape), 3.0)
    s, t = torch.tensor([0.5]), torch.tensor([0.6])
    with torch.no_grad():
        free, clipped = (model.reverse(z, s, t, None, GridRandom(), clip) for clip in (None, 0.1))
    assert float(free.x_hat.min()) > 0.2
    np.testing.assert_allclose(clipped.drift / free.drift, clipped.x_hat / free.x_hat, rtol=1e-5)
    gamma_s, gamma_t = (LOW + (HIGH - LOW) * time for time in (0.5, 0.6))
    lost, alpha_s = 1 - np.exp(gamma_s - gamma_t), np.sqrt(encoding.alpha_squared(gamma_s))
    per_x = alpha_s * (lost + (gamma_t - gamma_s) * (1 - encoding.alpha_squared(gamma_t)))
    np.testing.assert_allclose((free.mean - clipped.mean) / (free.x_hat - clipped.x_hat), per_x, rtol=1e-4)
