"""DDIM: the same marginals with less noise on the way, down to none (Song, Meng, Ermon 2021)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.diffusion.gaussian import alpha_sigma, per_image, posterior_std
from pipeline.samplers.base import Sampler, SamplerContext


class DDIM(Sampler):
    """z_s = alpha_s x_hat + sqrt(sigma_s^2 - sigma^2) eps_hat + sigma noise, sigma = eta sigma_Q (Song et al. 2021, eq. 12).

    eta = 0 is deterministic; eta = 1 is ancestral sampling with the posterior variance. With `clip`, eps_hat follows from
    the clipped x_hat.
    """

    kind: Literal["ddim"]
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0

    def step(self, context: SamplerContext, index: int, z: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        del before
        reverse = context.reverse(z, index)
        gamma_s, gamma_t = context.gammas(z, index)
        alpha_s, sigma_s = alpha_sigma(gamma_s)
        sigma = self.eta * posterior_std(gamma_s, gamma_t)
        direction = torch.sqrt((sigma_s**2 - sigma**2).clamp(min=0))  # eta = 1 may fall below 0 by one rounding
        z_s = per_image(alpha_s, z) * reverse.x_hat + per_image(direction, z) * reverse.eps_hat
        if reverse.drift is not None:
            z_s = z_s + reverse.drift
        if self.eta > 0:
            z_s = z_s + per_image(sigma, z) * context.noise(z, index)
        return z_s, reverse.x_hat


Config = DDIM
