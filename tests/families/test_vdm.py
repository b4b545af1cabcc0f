"""VDM with exact denoisers in the network's place: integrals over log-SNR, entropies, printed values at initialisation."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import integrate, special
from torch import nn

from pipeline.core.contracts import DataSpec
from pipeline.core.random import KeyedRandom
from pipeline.diffusion.learned_schedule import Continuous
from pipeline.diffusion.prediction import Prediction
from pipeline.diffusion.schedule import LinearLogSNRConfig
from pipeline.families.vdm import model as vdm
from pipeline.networks.unet import UNetConfig
from tests.support.blocks import default, kind, members
from tests.support.exact import (
    CodeDenoiser,
    GaussianDenoiser,
    GridRandom,
    NodeRandom,
    code_grid,
    images,
    noise_grid,
    normal_nodes,
    squared_error,
)

SIDE, LEVELS, TIMES = 32, 256, 400
MEAN, STD = 0.1, 0.2
SPEC = DataSpec((1, SIDE, SIDE), LEVELS, 10)
X, NOISE = code_grid(SIDE, MEAN, STD, LEVELS), noise_grid(SIDE)
SPREAD = float(np.mean((X - MEAN) ** 2))
TINY = UNetConfig(widths=(16,), embedding=8)
LOW, HIGH = -13.3, 5.0
UNIFORM = (torch.arange(TIMES, dtype=torch.float64) + 0.5) / TIMES
predictions = pytest.mark.parametrize("prediction", get_args(Prediction))


def model(prediction, network=None, spec=SPEC, low=LOW, schedule=LinearLogSNRConfig, steps=None):
    config = vdm.Config(
        schedule=default(schedule, gamma_min=low, gamma_max=HIGH), prediction=prediction, network=TINY, steps=steps
    )
    built = vdm.build(config, spec).eval()
    if network is not None:
        built.network = network(built.schedule)
    return built


def gaussian(prediction, std=STD, **values):
    return model(prediction, lambda schedule: GaussianDenoiser(prediction, schedule, MEAN, std), **values)


def bits(nats, dimensions=SPEC.dimensions):
    return float(nats.mean()) / (dimensions * math.log(2))


@predictions
@pytest.mark.parametrize("std", [STD, 0.35])
def test_bound_is_the_integral_over_snr(prediction, std):
    """1/2 int E (x - x_hat)^2 d SNR (Kingma et al. 2021, eq. 18) by quadrature, for a right and a wrong idea of the data."""
    built = gaussian(prediction, std)
    ends = built.prior_and_reconstruction(images(X, 2, SIDE), GridRandom())
    diffusion = built.diffusion_term(images(X, TIMES, SIDE), UNIFORM, GridRandom())

    def integrand(gamma):
        return 0.5 * math.exp(-gamma) * squared_error(special.expit(-gamma), SPREAD, std)

    expected = integrate.quad(integrand, LOW, HIGH, epsabs=1e-9)[0] / math.log(2)
    assert bits(diffusion.nats) == pytest.approx(expected, abs=3e-4)
    prior = 0.5 * np.mean(special.expit(-HIGH) * X**2 + special.expit(HIGH) - 1 - np.log(special.expit(HIGH))) / math.log(2)
    assert bits(ends.prior) == pytest.approx(prior, rel=1e-4)
    z = X[:, None] + math.exp(LOW / 2) * NOISE[None]
    centres = (2 * np.arange(LEVELS) + 1) / LEVELS - 1
    logits = -0.5 * math.exp(-LOW) * (z[..., None] - centres) ** 2
    own = -0.5 * math.exp(-LOW) * (z - X[:, None]) ** 2
    reconstruction = np.mean(special.logsumexp(logits, -1) - own) / math.log(2)
    assert bits(ends.reconstruction) == pytest.approx(reconstruction, rel=1e-3)
    assert ends.prior.shape == ends.reconstruction.shape == (2,)


@predictions
def test_diffusion_term_of_gaussian_data_in_closed_form(prediction):
    """For a denoiser that knows E (x - mean)^2 = s^2 it is the information in z_0 less that in z_1: 1/2 log(1 + s^2 SNR)."""
    found = gaussian(prediction, math.sqrt(SPREAD)).diffusion_term(images(X, TIMES, SIDE), UNIFORM, GridRandom())
    expected = 0.5 * (math.log2(1 + SPREAD * math.exp(-LOW)) - math.log2(1 + SPREAD * math.exp(-HIGH)))
    assert bits(found.nats) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("low", [-8.5, -10.0])
def test_with_the_exact_denoiser_the_bound_is_the_entropy_of_the_codes(low):
    """5 bits, s = 5 bins; whether the last bits are told by the diffusion or by the reconstruction term."""
    rows, count, levels = 64, 100, 32
    x = code_grid(rows, 0.05, 0.3, levels)
    values, counts = np.unique(x, return_counts=True)
    p = counts / rows
    entropy = -float(p @ np.log2(p))
    built = model("v", lambda schedule: CodeDenoiser("v", schedule, values, p), DataSpec((1, rows, 1), levels, 10), low=low)
    nodes, weights = normal_nodes()
    batch, rng = images(x, len(nodes), 1), NodeRandom(nodes)
    ends = built.prior_and_reconstruction(batch, rng)
    told = {"prior": weights @ ends.prior.numpy(), "reconstruction": weights @ ends.reconstruction.numpy(), "diffusion": 0.0}
    for i in range(count):
        uniform = torch.full((len(nodes),), (i + 0.5) / count, dtype=torch.float64)
        told["diffusion"] += weights @ built.diffusion_term(batch, uniform, rng).nats.numpy() / count
    told = {name: value / (rows * math.log(2)) for name, value in told.items()}
    # The decoder takes codes for equally likely, which costs a little where it has to guess.
    assert entropy - 1e-3 < sum(told.values()) < entropy + (0.01 if low == -8.5 else 1e-3)
    assert told["reconstruction"] > 0.05 or low == -10.0
    assert 0.5 * math.log2(2 * math.pi * math.e * 0.3**2) - math.log2(2 / levels) == pytest.approx(entropy, abs=0.1)


def bent(built):
    """The same end points, and a schedule in between that is far from where it began."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in built.schedule.named_parameters():
            if parameter.dim():
                parameter.mul_(1 + torch.rand(parameter.shape, generator=generator))
            if "l3" in name:
                parameter.mul_(20)
    return built


@pytest.mark.parametrize("schedule", members(Continuous), ids=kind)
def test_the_bound_does_not_depend_on_the_schedule_between_its_ends(schedule):
    """Kingma et al. 2021, section 5.1."""
    built = bent(gaussian("v", math.sqrt(SPREAD), schedule=schedule))
    with torch.no_grad():
        found = built.diffusion_term(images(X, TIMES, SIDE), UNIFORM, GridRandom())
    expected = 0.5 * (math.log2(1 + SPREAD * math.exp(-LOW)) - math.log2(1 + SPREAD * math.exp(-HIGH)))
    assert bits(found.nats) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("schedule", members(Continuous), ids=kind)
def test_a_learned_schedule_is_trained_on_the_whole_bound(schedule):
    """A fixed one on the diffusion term alone; in both cases every parameter has a gradient."""
    built = bent(gaussian("v", schedule=schedule))
    loss = built.loss("model", images(X, 8, SIDE), 1, GridRandom(0.03))
    with torch.no_grad():
        ends = built.prior_and_reconstruction(images(X, 8, SIDE), GridRandom())
    np.testing.assert_allclose(sum(loss.parts.values()).detach(), loss.total.detach(), rtol=1e-5)
    if built.schedule.learned:
        for name in ("prior", "reconstruction"):
            assert float(loss.parts[name].detach().mean()) == pytest.approx(bits(getattr(ends, name)), rel=1e-5)
        loss.total.mean().backward()
        for name, parameter in built.schedule.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert float(parameter.grad.abs().max()) > 0, name
    else:
        assert set(loss.parts) == {"diffusion"}


@predictions
@pytest.mark.parametrize("steps", [1, 4, 100])
def test_bound_of_a_chain_of_few_steps(prediction, steps):
    """T/2 E[(SNR(s) - SNR(t)) ||x - x_hat(z_t)||^2] (eq. 13), as a sum over the steps."""
    uniform = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    found = gaussian(prediction, steps=steps).diffusion_term(images(X, steps, SIDE), uniform, GridRandom())
    snr = np.exp(-(LOW + (HIGH - LOW) * np.arange(steps + 1) / steps))
    terms = 0.5 * (snr[:-1] - snr[1:]) * squared_error(snr[1:] / (1 + snr[1:]), SPREAD, STD) / math.log(2)
    np.testing.assert_allclose(found.nats / (SPEC.dimensions * math.log(2)), steps * terms, rtol=2e-3)
    np.testing.assert_allclose(found.time, np.arange(1, steps + 1) / steps, atol=1e-12)


def test_the_posterior_is_that_of_bayes():
    """q(z_s | z_t, x) as proportional to q(z_t | z_s) q(z_s | x): precisions add."""
    s, t = torch.tensor([0.3]), torch.tensor([0.6])
    found = model("v").posterior(images(X, 1, SIDE), s, t, GridRandom())
    gamma_s, gamma_t = (LOW + (HIGH - LOW) * float(time) for time in (s, t))
    alpha_s, var_s, alpha_t, var_t = (special.expit(g) for g in (-gamma_s, gamma_s, -gamma_t, gamma_t))
    alpha_s, alpha_t = math.sqrt(alpha_s), math.sqrt(alpha_t)
    ratio = alpha_t / alpha_s
    step = var_t - ratio**2 * var_s
    z = alpha_t * X[:, None] + math.sqrt(var_t) * NOISE[None]
    precision = ratio**2 / step + 1 / var_s
    mean = (ratio * z / step + alpha_s * X[:, None] / var_s) / precision
    np.testing.assert_allclose(found.z_t[0, 0], z, atol=1e-5)
    np.testing.assert_allclose(found.mean[0, 0], mean, atol=1e-5)
    np.testing.assert_allclose(found.std[0, 0], precision**-0.5, rtol=1e-5)


class Echo(nn.Module):
    """The network of the reference code before training: it adds z to an output of zero."""

    def __init__(self, schedule):
        super().__init__()

    def forward(self, z, level, y=None):
        return z


@pytest.mark.parametrize(
    ("mean_square", "prediction", "printed"),
    [(0.254, "v", 10.337), (0.254, "eps", 10.033), (0.918, "v", 18.207), (0.918, "eps", 16.401)],
    ids=["cifar-v", "cifar-eps", "mnist-v", "mnist-eps"],
)
def test_diffusion_loss_at_initialisation_as_printed(mean_square, prediction, printed):
    """Only the second moment of the data counts."""
    x = np.where(np.arange(SIDE) % 2, 1, -1) * math.sqrt(mean_square)
    built = model(prediction, Echo)
    found = built.diffusion_term(images(x, TIMES, SIDE), UNIFORM, GridRandom())
    assert bits(found.nats) == pytest.approx(printed, abs=1e-3)
    loss = built.loss("model", images(x, TIMES, SIDE), 1, GridRandom(0.5 / TIMES))
    assert float(loss.total.mean()) == pytest.approx(printed, abs=1e-3)
    np.testing.assert_allclose(loss.total, found.nats / (SPEC.dimensions * math.log(2)), rtol=1e-4)


def test_a_network_that_says_no_noise_costs_the_same_on_any_data():
    """(gamma_1 - gamma_0) / (2 ln 2) = 13.2007 bits/dim; our networks begin at zero, whatever is predicted."""
    with torch.no_grad():
        loss = model("eps").loss("model", images(X, TIMES, SIDE), 1, GridRandom(0.5 / TIMES))
    assert float(loss.total.mean()) == pytest.approx(13.2007, abs=1e-3)


@predictions
def test_weight_at_each_time(prediction):
    """Row by row, 1/2 gamma' SNR E (x - x_hat)^2 over the density of times: a mean may hide a weight wrong at both ends."""
    found = gaussian(prediction).diffusion_term(images(X, TIMES, SIDE), UNIFORM, GridRandom())
    time = found.time.numpy()
    gamma = LOW + (HIGH - LOW) * time
    expected = 0.5 * (HIGH - LOW) * np.exp(-gamma) * squared_error(special.expit(-gamma), SPREAD, STD) / math.log(2)
    expected *= np.gradient(time, UNIFORM.numpy())
    # x-prediction in float32 has its own rounding where the SNR is 600 000.
    np.testing.assert_allclose(found.nats / (SPEC.dimensions * math.log(2)), expected, rtol=2e-3)


def test_all_predictions_step_alike():
    z = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    s, t = torch.tensor([0.6, 0.0]), torch.tensor([0.7, 0.01])
    one, *others = (gaussian(prediction).reverse(z, s, t, None, KeyedRandom(0, 0)) for prediction in get_args(Prediction))
    for other in others:
        for name in ("mean", "std", "x_hat"):
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=1e-5)
    assert bool((one.std > 0).all())


def test_the_ancestral_step_as_printed():
    """z_s = (alpha_s / alpha_t)(z_t - sigma_t (1 - e^-Delta) eps_hat) + sigma_s sqrt(1 - e^-Delta) eps (eq. 31-33)."""
    built = model("eps", Echo)
    z = torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = built.reverse(z, torch.tensor([0.4]), torch.tensor([0.5]), None, KeyedRandom(0, 0))
    gamma_s, gamma_t = (LOW + (HIGH - LOW) * float(torch.tensor(t)) for t in (0.4, 0.5))
    lost = 1 - math.exp(gamma_s - gamma_t)
    ratio = math.sqrt(special.expit(-gamma_s) / special.expit(-gamma_t))
    np.testing.assert_allclose(found.mean, ratio * (z - math.sqrt(special.expit(gamma_t)) * lost * z), rtol=1e-6)
    np.testing.assert_allclose(found.std, math.sqrt(special.expit(gamma_s) * lost), rtol=1e-6)


def test_clip_bounds_x_hat_and_not_the_loss():
    built = model("x", lambda schedule: GaussianDenoiser("x", schedule, 5.0, 0.1))
    z = torch.zeros(1, 1, SIDE, SIDE)
    times = torch.tensor([0.8]), torch.tensor([0.9])
    assert float(built.reverse(z, *times, None, KeyedRandom(0, 0), clip=1.0).x_hat.max()) == 1.0
    assert float(built.reverse(z, *times, None, KeyedRandom(0, 0)).x_hat.max()) > 4.0


def test_real_valued_data_have_no_bits():
    with pytest.raises(AssertionError):
        model("v", spec=DataSpec((1, SIDE, SIDE), None, 10)).prior_and_reconstruction(images(X, 1, SIDE), GridRandom())
