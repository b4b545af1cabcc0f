"""A smooth encoder and a smooth network, once in torch and once in numpy, and DiffEnc's chain built from scratch in numpy.

Nothing here is derived from the code: posteriors come from q(z_t | z_s, x) and q(z_s | x) (DiffEnc, eq. 10-11) by Bayes'
rule, derivatives from differences, integrals over log-SNR from Gauss-Legendre quadrature.
"""

import numpy as np
import torch
from torch import nn

from pipeline.core.contracts import Batch, DataSpec, Random
from pipeline.diffusion.schedule import LinearLogSNRConfig
from pipeline.families.diffenc import model as diffenc
from pipeline.families.diffenc.encoder import EncoderConfig
from pipeline.families.vdm import model as vdm
from pipeline.networks.unet import UNetConfig
from tests.support.exact import noise_grid

LOW, HIGH = -13.3, 5.0
SPEC = DataSpec((1, 4, 8), 256, 10)
TINY = UNetConfig(widths=(16,), embedding=8)
SMALL = EncoderConfig(widths=(16, 32), dropout=0.0)
KINDS = ("trainable", "non-trainable", "vdm")
X = np.array([-0.8, -0.15, 0.3, 0.95])
NOISE = noise_grid(8).astype("f4").astype("f8")  # as tests.support.exact.GridRandom deals it out


def linear(low=LOW, high=HIGH):
    return LinearLogSNRConfig(kind="linear-logsnr", gamma_min=low, gamma_max=high)


def build(kind, spec=SPEC, schedule=None, encoder=SMALL, **values):
    """An untrained model of either encoder, or VDM without one, in evaluation mode."""
    torch.manual_seed(0)
    schedule = schedule or linear()
    if kind == "vdm":
        return vdm.build(vdm.Config(schedule=schedule, prediction="v", network=TINY, **values), spec).eval()
    encoder = encoder if kind == "trainable" else None
    return diffenc.build(diffenc.Config(schedule=schedule, kind=kind, encoder=encoder, network=TINY, **values), spec).eval()


def stirred(module, size=0.1, seed=0):
    """With random weights everywhere, `condition` and `head` too, which begin at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return module


def precise(model):
    """In float64 throughout: the network's view of gamma too, which is float32 otherwise."""
    schedule = model.schedule
    schedule.input = lambda gamma: (gamma.double() - schedule.gamma_min) / (schedule.gamma_max - schedule.gamma_min)
    return model.double()


def smooth(kind, **values):
    """A model with the smooth encoder and network in their places."""
    model = build(kind, **values)
    model.network = SmoothNetwork()
    if kind == "trainable":
        model.encoder = SmoothEncoder()
    return precise(model)


def images(count, x=X):
    """`count` equal float64 images whose rows hold x."""
    rows = torch.tensor(x)[:, None].expand(count, 1, len(x), SPEC.shape[2]).contiguous()
    return Batch(rows, torch.zeros(count, dtype=torch.int64))


def gamma_of(level):
    return (LOW + (HIGH - LOW) * level.double())[:, None, None, None]


class SmoothEncoder(nn.Module):
    def forward(self, x, level):
        return 0.7 * torch.tanh(0.9 * x + 0.5 * torch.sin(0.6 * gamma_of(level)) - 0.2)


class SmoothNetwork(nn.Module):
    def forward(self, z, level, y=None):
        return 0.6 * torch.sin(1.3 * z + 0.2) - 0.4 * torch.cos(0.35 * gamma_of(level)) * z


class Standard(Random):
    """Float64 noise, keyed by the purpose; every uniform number is one half."""

    def normal(self, shape, purpose):
        generator = torch.Generator().manual_seed(sum(purpose.encode()))
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def uniform(self, shape, purpose):
        return torch.full(shape, 0.5)


def alpha_squared(gamma):
    return 1 / (1 + np.exp(gamma))


def encoded(kind, x, gamma):
    """x_phi of SmoothEncoder (eq. 15), alpha^2 x (eq. 16), or x itself."""
    if kind == "vdm":
        return x + 0 * gamma
    y = 0.7 * np.tanh(0.9 * x + 0.5 * np.sin(0.6 * gamma) - 0.2) if kind == "trainable" else 0
    return alpha_squared(gamma) * x + (1 - alpha_squared(gamma)) * y


def x_hat(z, gamma):
    """Of SmoothNetwork, which predicts v."""
    v = 0.6 * np.sin(1.3 * z + 0.2) - 0.4 * np.cos(0.35 * gamma) * z
    return np.sqrt(alpha_squared(gamma)) * z - np.sqrt(1 - alpha_squared(gamma)) * v


def step_kl(kind, gamma_s, gamma_t, x=X[:, None], noise=NOISE, counter=True):
    """KL(q(z_s | z_t, x) || p(z_s | z_t)) in nats per pixel; gammas broadcast against x and noise."""
    alpha_s, alpha_t = np.sqrt(alpha_squared(gamma_s)), np.sqrt(alpha_squared(gamma_t))
    var_s, var_t = 1 - alpha_s**2, 1 - alpha_t**2
    at_s, at_t = encoded(kind, x, gamma_s), encoded(kind, x, gamma_t)
    z = alpha_t * at_t + np.sqrt(var_t) * noise
    ratio = alpha_t / alpha_s
    step = var_t - ratio**2 * var_s  # z_t = ratio z_s + alpha_t (x_phi(t) - x_phi(s)) + sqrt(step) noise
    precision = 1 / var_s + ratio**2 / step
    mean_q = (alpha_s * at_s / var_s + ratio * (z - alpha_t * (at_t - at_s)) / step) / precision
    guess = x_hat(z, gamma_t)
    mean_p = (ratio * var_s * z + alpha_s * step * guess) / var_t
    if kind != "vdm" and counter:
        mean_p = mean_p + alpha_s * (gamma_t - gamma_s) * var_t * guess
    return 0.5 * precision * (mean_p - mean_q) ** 2


def chain(kind, steps, counter=True):
    """L_T in nats per pixel, the mean over X and NOISE."""
    gamma = (LOW + (HIGH - LOW) * np.arange(steps + 1) / steps)[:, None, None]
    return float(step_kl(kind, gamma[:-1], gamma[1:], counter=counter).sum(0).mean())


def integrand(kind, gamma, x=X[:, None], noise=NOISE):
    """1/2 SNR (x_phi + dx_phi/dlambda - x_hat - sigma^2 x_hat)^2 (eq. 18), of which L_inf is the integral over gamma."""
    h = 1e-4
    alpha, sigma = np.sqrt(alpha_squared(gamma)), np.sqrt(1 - alpha_squared(gamma))
    here = encoded(kind, x, gamma)
    slope = (encoded(kind, x, gamma - h) - encoded(kind, x, gamma + h)) / (2 * h)
    guess = x_hat(alpha * here + sigma * noise, gamma)
    counter = 0 if kind == "vdm" else sigma**2 * guess
    return 0.5 * np.exp(-gamma) * (here + slope - guess - counter) ** 2


def quadrature(count=160):
    """Nodes in (0, 1) of uniform time, and their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def limit(kind):
    """L_inf in nats per pixel."""
    times, weights = quadrature()
    found = integrand(kind, (LOW + (HIGH - LOW) * times)[:, None, None])
    return float((HIGH - LOW) * weights @ found.mean((1, 2)))
