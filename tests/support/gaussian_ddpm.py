"""DDPM with the exact denoiser of Gaussian data in the network's place, and its bound computed from the betas in numpy."""

import math
from typing import get_args

import numpy as np
import pytest
from scipy import stats
from torch import nn

from pipeline.core.contracts import DataSpec
from pipeline.diffusion.prediction import Prediction
from pipeline.diffusion.schedule import CosineBetaConfig, LinearBetaConfig
from pipeline.families.ddpm import model as ddpm
from pipeline.networks.unet import UNetConfig
from tests.support.exact import GaussianDenoiser, code_grid, noise_grid

SIDE, LEVELS, STEPS = 32, 256, 40
MEAN, STD = 0.1, 0.2
SPEC = DataSpec((1, SIDE, SIDE), LEVELS, 10)
X, NOISE = code_grid(SIDE, MEAN, STD, LEVELS), noise_grid(SIDE)
TINY = UNetConfig(widths=(16,), embedding=8)
SCHEDULES = {
    "linear": LinearBetaConfig(kind="linear-beta", steps=STEPS),
    "cosine": CosineBetaConfig(kind="cosine-beta", steps=STEPS),
}
predictions = pytest.mark.parametrize("prediction", get_args(Prediction))
schedules = pytest.mark.parametrize("schedule", SCHEDULES)


def betas(schedule, steps=STEPS):
    """As the papers print them."""
    if schedule == "linear":
        return np.linspace(1e-4 * 1000 / steps, 0.02 * 1000 / steps, steps)
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], 0.999)


def model(schedule, prediction, variance="small", **exact):
    config = ddpm.Config(schedule=SCHEDULES[schedule], prediction=prediction, variance=variance, network=TINY)
    built = ddpm.build(config, SPEC).eval()
    built.network = GaussianDenoiser(prediction, built.schedule, **{"mean": MEAN, "std": STD} | exact)
    return built


def bits(nats):
    return float(nats.mean()) / (SPEC.dimensions * math.log(2))


def expected_bound(b, variance, x=X, noise=NOISE):
    """L_T, L_0 and (L_1, ..., L_{T-1}) in bits/dim: means over the grid of data and noise, in the printed coefficients."""
    x, noise = x[:, None], noise[None]
    alpha_bar = np.cumprod(1 - b)
    before = np.append(1.0, alpha_bar[:-1])
    tilde = b * (1 - before) / (1 - alpha_bar)

    def x_hat(z, a):
        return MEAN + math.sqrt(a) * STD**2 / (a * STD**2 + 1 - a) * (z - math.sqrt(a) * MEAN)

    last = alpha_bar[-1]
    prior = 0.5 * np.mean(last * x**2 + (1 - last) - 1 - np.log(1 - last))
    diffusion = []
    for t in range(1, len(b)):
        z = math.sqrt(alpha_bar[t]) * x + math.sqrt(1 - alpha_bar[t]) * noise
        c1 = b[t] * math.sqrt(before[t]) / (1 - alpha_bar[t])
        c2 = (1 - before[t]) * math.sqrt(1 - b[t]) / (1 - alpha_bar[t])
        true, guess = c1 * x + c2 * z, c1 * x_hat(z, alpha_bar[t]) + c2 * z
        v1, v2 = math.log(tilde[t]), math.log(tilde[t] if variance == "small" else b[t])
        diffusion.append(np.mean(0.5 * (-1 + v2 - v1 + math.exp(v1 - v2) + (true - guess) ** 2 * math.exp(-v2))))
    decoder = stats.norm(x_hat(math.sqrt(alpha_bar[0]) * x + math.sqrt(b[0]) * noise, alpha_bar[0]), math.sqrt(tilde[1]))
    reconstruction = -np.mean(np.log(decoder.cdf(x + 1 / LEVELS) - decoder.cdf(x - 1 / LEVELS)))
    return prior / math.log(2), reconstruction / math.log(2), np.array(diffusion) / math.log(2)


class Fixed(nn.Module):
    """Says the same whatever it is asked."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, z, level, y=None):
        return self.output
