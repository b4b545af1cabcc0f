"""Samplers: from p(z_s | z_t) of a model to images. Each is one small class behind one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.block import Block
from pipeline.diffusion.gaussian import Reverse, alpha_sigma, per_image, posterior_std
from pipeline.diffusion.schedule import Spacing
from pipeline.roles import Generative, Random


class Ancestral(Block):
    """z_s = mean + std noise: a draw from the model's own p(z_s | z_t).

    `clip` keeps x_hat within [-1, 1] before the mean is formed: not in the DDPM paper, but in its code; on for pixels.
    `variance: optimal` takes the variances that were estimated for this number of steps (DiffEnc, appendix F) instead of the
    model's own; its last step adds no noise.
    """

    kind: Literal["ancestral"]
    clip: bool = True
    variance: Literal["model", "optimal"] = "model"
    spacing: Spacing = "uniform"

    def step(self, reverse: Reverse, gamma_s: Tensor, gamma_t: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        del gamma_s, gamma_t
        return reverse.mean + reverse.std * noise()


class DDIM(Block):
    """z_s = alpha_s x_hat + sqrt(sigma_s^2 - sigma^2) eps_hat + sigma noise, sigma = eta sigma_Q (Song et al. 2021, eq. 12).

    eta = 0 is deterministic; eta = 1 is ancestral sampling with the posterior variance. With `clip`, eps_hat follows from
    the clipped x_hat.
    """

    kind: Literal["ddim"]
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip: bool = True
    spacing: Spacing = "uniform"

    def step(self, reverse: Reverse, gamma_s: Tensor, gamma_t: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        x_hat = reverse.x_hat
        alpha_s, sigma_s = alpha_sigma(gamma_s)
        sigma = self.eta * posterior_std(gamma_s, gamma_t)
        direction = torch.sqrt((sigma_s**2 - sigma**2).clamp(min=0))  # eta = 1 may fall below 0 by one rounding
        z_s = per_image(alpha_s, x_hat) * x_hat + per_image(direction, x_hat) * reverse.eps_hat
        if reverse.drift is not None:
            z_s = z_s + reverse.drift
        return z_s + per_image(sigma, x_hat) * noise() if self.eta > 0 else z_s


Sampler = Annotated[Ancestral | DDIM, Field(discriminator="kind")]


def trajectory(
    model: Generative,
    sampler: Ancestral | DDIM,
    shape: tuple[int, ...],
    steps: int,
    random: Callable[[int], Random],
    y: Tensor | None = None,
    device: torch.device | str = "cpu",
    variances: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields (z, x_hat) per step: first pure noise with None, last the sample itself, in model space, unclipped.

    shape: (B, C, H, W); random(step): the randomness of that step; variances: (steps,) float64, sigma_P^2 of each step in
    place of the model's own. One network evaluation per step.
    """
    times = model.schedule.times(steps, sampler.spacing).to(device)
    z = random(0).normal(shape, "start")
    yield z, None
    for index in range(steps):
        rng = random(index + 1)
        t, s = times[index].expand(shape[0]), times[index + 1].expand(shape[0])
        reverse = model.reverse(z, s, t, y, rng, clip=1.0 if sampler.clip else None)
        if variances is not None:
            std = variances[index].sqrt() if index < steps - 1 else torch.zeros(())
            reverse = replace(reverse, std=std.to(z).expand_as(z))
        z = sampler.step(reverse, model.schedule.gamma(s), model.schedule.gamma(t), partial(rng.normal, shape, "noise"))
        if index == steps - 1:
            z = z / per_image(alpha_sigma(model.schedule.gamma(s))[0], z)
        yield z, reverse.x_hat
