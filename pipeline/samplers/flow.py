"""Solvers of the probability flow, of second order: few network evaluations, and no noise but that of the start.

In z / sigma and u = alpha / sigma = exp(lambda), lambda = -gamma / 2 half the log-SNR, the flow is d(z / sigma) = x_hat du (Lu
et al. 2022, DPM-Solver++, proposition 4.1). DDIM holds x_hat as it is at t for the whole step; each solver here holds a better
value. A step to the data itself is infinite in u, and its result is the x_hat that is held: the last step is DDIM's, on every
schedule alike, and one such step leaves the order at 2. Both need a model whose x_hat is
E[x | z_t] (`Generative.has_probability_flow`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.diffusion.gaussian import alpha_sigma, per_image
from pipeline.samplers.base import SamplerContext


def held(context: SamplerContext, index: int, z: Tensor, x_hat: Tensor) -> Tensor:
    """z_s where x_hat stays the same all through the step: sigma_s / sigma_t z_t + alpha_s (1 - exp(-h)) x_hat, h in lambda."""
    gamma_s, gamma_t = context.gammas(z, index)
    alpha_s, sigma_s = alpha_sigma(gamma_s)
    of_x = alpha_s * -torch.expm1(0.5 * (gamma_s - gamma_t))
    return per_image(sigma_s / alpha_sigma(gamma_t)[1], z) * z + per_image(of_x, z) * x_hat
