"""The posterior at a drawn x_hat: how denoising diffusion GANs are sampled."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pipeline.diffusion.gaussian import per_image, posterior_std
from pipeline.samplers.base import Sampler, SamplerContext


class Posterior(Sampler):
    """z_s ~ q(z_s | z_t, x_hat) with an x_hat that the model draws (Xiao, Kreis, Vahdat 2022, eq. 5): denoising diffusion GANs.

    Where x_hat is drawn from p(x | z_t), any number of steps gives the density; where it is E[x | z_t], this is ancestral
    sampling with the small variance.
    """

    kind: Literal["posterior"]

    def step(self, context: SamplerContext, index: int, z: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        del before
        reverse = context.reverse(z, index)
        return reverse.mean + per_image(posterior_std(*context.gammas(z, index)), z) * context.noise(z, index), reverse.x_hat


Config = Posterior
