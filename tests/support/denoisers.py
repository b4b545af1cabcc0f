"""Models whose x_hat is known exactly, for samplers to be tested on, and the exact end of their probability flow."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor

from pipeline.core.contracts import Generative, Random
from pipeline.diffusion.gaussian import Reverse, alpha_sigma, per_image, posterior
from pipeline.diffusion.schedule import NoiseSchedule


class Mixture(Generative):
    """The best denoiser of pixels from sum_k p_k N(mean_k, std_k^2); it counts its evaluations."""

    def __init__(self, schedule: NoiseSchedule, p: list[float], mean: list[float], std: list[float]) -> None:
        self.schedule = schedule
        self.p, self.mean, self.std = (torch.tensor(values, dtype=torch.float64) for values in (p, mean, std))
        self.evaluations = 0

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        self.evaluations += 1
        assert bool((s < t).all())
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        share, mean, _ = self.posterior(z_t, gamma_t)
        x_hat = (share * mean).sum(-1)
        return posterior(x_hat if clip is None else x_hat.clamp(-clip, clip), z_t, gamma_s, gamma_t)

    def posterior(self, z: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """p(x | z) as a mixture: the components' shares, means and stds, (B, C, H, W, K) each."""
        alpha, sigma = (per_image(c, z)[..., None] for c in alpha_sigma(gamma))
        p, mean, std = (value.to(z.dtype) for value in (self.p, self.mean, self.std))
        variance = alpha**2 * std**2 + sigma**2
        away = z[..., None] - alpha * mean
        share = (p.log() - 0.5 * variance.log() - 0.5 * away**2 / variance).softmax(-1)
        return share, mean + alpha * std**2 / variance * away, (std * sigma / variance.sqrt()).expand_as(share)

    def flow(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """The data x to which the probability flow carries z at t = 1: it keeps the order of pixels and the marginal
        densities, so z and x stand at the same quantile."""
        p, mean, std = (value.numpy() for value in (self.p, self.mean, self.std))
        (alpha_0, alpha_1), (sigma_0, sigma_1) = (
            c.numpy() for c in alpha_sigma(self.schedule.gamma(torch.tensor([0.0, 1.0], dtype=torch.float64)))
        )

        def above(value: float, alpha: float, sigma: float) -> float:
            return float(p @ stats.norm.sf(value, alpha * mean, np.sqrt((alpha * std) ** 2 + sigma**2)))

        def at(share: float) -> float:
            return float(optimize.brentq(lambda x: above(x, alpha_0, sigma_0) - share, -9, 9, xtol=1e-13))

        return np.array([at(above(value, alpha_1, sigma_1)) for value in z]) / float(alpha_0)

    def moments(self) -> tuple[float, float, float]:
        """Mean, std and skewness."""
        p, mean, std = (value.numpy() for value in (self.p, self.mean, self.std))
        centre = float(p @ mean)
        spread = math.sqrt(p @ (std**2 + (mean - centre) ** 2))
        return centre, spread, float(p @ ((mean - centre) ** 3 + 3 * (mean - centre) * std**2)) / spread**3


class Drawing(Mixture):
    """Says an x_hat drawn from p(x | z_t), as a perfect denoising diffusion GAN would."""

    has_probability_flow = False

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        self.evaluations += 1
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        share, mean, std = self.posterior(z_t, gamma_t)
        component = (
            (share.cumsum(-1) < rng.uniform(tuple(z_t.shape), "component")[..., None]).sum(-1, keepdim=True).clamp(max=1)
        )
        mean, std = (value.gather(-1, component)[..., 0] for value in (mean, std))
        return posterior(mean + std * rng.normal(tuple(z_t.shape), "draw"), z_t, gamma_s, gamma_t)


MEAN, STD = 0.2, 0.3


def gaussian(schedule: NoiseSchedule, model: type[Mixture] = Mixture) -> Mixture:
    return model(schedule, [1.0], [MEAN], [STD])


def two(schedule: NoiseSchedule, model: type[Mixture] = Mixture) -> Mixture:
    """Asymmetric in its weights, in its spreads and about 0."""
    return model(schedule, [0.3, 0.7], [-0.5, 0.3], [0.1, 0.15])
