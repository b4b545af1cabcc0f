"""Samplers: from p(z_s | z_t) of a model to images. Each is one small class, and `trajectory` walks with any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.gaussian import Reverse, alpha_sigma, per_image, posterior_std, transition_std
from pipeline.diffusion.solver import DPMSolver, Heun
from pipeline.diffusion.walk import Walk, Walker
from pipeline.roles import Generative, Random


class Ancestral(Walker):
    """z_s = mean + std noise: a draw from p(z_s | z_t).

    `variance`: `model` is the model's own, also where it is learned; `small` and `large` are those of DDPM for the jump from t
    to s, the posterior's and the transition's; `optimal` are those that were estimated for this number of steps (DiffEnc,
    appendix F). With `large` and `optimal` the last step adds no noise.
    """

    kind: Literal["ancestral"]
    variance: Literal["model", "small", "large", "optimal"] = "model"

    @model_validator(mode="after")
    def _estimated_on_its_grid(self) -> Ancestral:
        if self.variance == "optimal" and self.spacing != "trailing":
            raise ValueError(
                f"spacing is {self.spacing!r}; allowed with variance: optimal, which is estimated on that grid: 'trailing'"
            )
        return self

    @property
    def estimated(self) -> bool:
        return self.variance == "optimal"

    def step(self, walk: Walk, index: int, z: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        del before
        reverse = walk.reverse(z, index)
        return reverse.mean + self._std(walk, index, reverse) * walk.noise(z, index), reverse.x_hat

    def _std(self, walk: Walk, index: int, reverse: Reverse) -> Tensor:
        gamma_s, gamma_t = walk.gammas(reverse.mean, index)
        if walk.variances is not None:
            std = walk.variances[index].sqrt().expand_as(gamma_s)
        elif self.variance == "small":
            return per_image(posterior_std(gamma_s, gamma_t), reverse.mean)
        elif self.variance == "large":
            std = transition_std(gamma_s, gamma_t)
        else:
            assert self.variance == "model", "the optimal variances are given"
            return reverse.std
        return per_image(torch.zeros_like(std) if walk.last(index) else std, reverse.mean)


class DDIM(Walker):
    """z_s = alpha_s x_hat + sqrt(sigma_s^2 - sigma^2) eps_hat + sigma noise, sigma = eta sigma_Q (Song et al. 2021, eq. 12).

    eta = 0 is deterministic; eta = 1 is ancestral sampling with the posterior variance. With `clip`, eps_hat follows from
    the clipped x_hat.
    """

    kind: Literal["ddim"]
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0

    def step(self, walk: Walk, index: int, z: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        del before
        reverse = walk.reverse(z, index)
        gamma_s, gamma_t = walk.gammas(z, index)
        alpha_s, sigma_s = alpha_sigma(gamma_s)
        sigma = self.eta * posterior_std(gamma_s, gamma_t)
        direction = torch.sqrt((sigma_s**2 - sigma**2).clamp(min=0))  # eta = 1 may fall below 0 by one rounding
        z_s = per_image(alpha_s, z) * reverse.x_hat + per_image(direction, z) * reverse.eps_hat
        if reverse.drift is not None:
            z_s = z_s + reverse.drift
        if self.eta > 0:
            z_s = z_s + per_image(sigma, z) * walk.noise(z, index)
        return z_s, reverse.x_hat


class Posterior(Walker):
    """z_s ~ q(z_s | z_t, x_hat) with an x_hat that the model draws (Xiao, Kreis, Vahdat 2022, eq. 5): denoising diffusion GANs.

    Where x_hat is drawn from p(x | z_t), any number of steps gives the density; where it is E[x | z_t], this is ancestral
    sampling with the small variance.
    """

    kind: Literal["posterior"]

    def step(self, walk: Walk, index: int, z: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        del before
        reverse = walk.reverse(z, index)
        return reverse.mean + per_image(posterior_std(*walk.gammas(z, index)), z) * walk.noise(z, index), reverse.x_hat


AnySampler = Ancestral | DDIM | Posterior | Heun | DPMSolver
Sampler = Annotated[AnySampler, Field(discriminator="kind")]


def trajectory(
    model: Generative,
    sampler: AnySampler,
    shape: tuple[int, ...],
    steps: int,
    random: Callable[[int], Random],
    y: Tensor | None = None,
    device: torch.device | str = "cpu",
    variances: Tensor | None = None,
    start: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields (z, x_hat) per step: first pure noise with None, last the sample itself, in model space, unclipped.

    shape: (B, C, H, W); random(step): the randomness of that step; variances: (steps,) float64, sigma_P^2 of each step in
    place of the model's own; start: a latent of `shape` in place of the noise. Grids without duplicates may have fewer steps
    than `steps`; the network is evaluated sampler.evaluations(times) times.
    """
    assert model.solvable or not sampler.solver, "solvers need a model whose probability flow can be solved"
    assert variances is None or isinstance(sampler, Ancestral), "the other samplers have variances of their own"
    times = model.schedule.times(steps, sampler.spacing).to(device)
    walk = Walk(model, times, random, y, 1.0 if sampler.clip else None, None if variances is None else variances.to(device))
    z = random(0).normal(shape, "start") if start is None else start.to(device)
    yield z, None
    x_hat = None
    for index in range(walk.steps):
        z, x_hat = sampler.step(walk, index, z, x_hat)
        if walk.last(index):
            z = z / per_image(alpha_sigma(walk.gammas(z, index)[0])[0], z)
        yield z, x_hat
