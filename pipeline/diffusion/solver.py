"""Solvers of the probability flow, of second order: few network evaluations, and no noise but that of the start.

In z / sigma and u = alpha / sigma = exp(lambda), lambda = -gamma / 2 half the log-SNR, the flow is d(z / sigma) = x_hat du (Lu
et al. 2022, DPM-Solver++, proposition 4.1). DDIM holds x_hat as it is at t for the whole step; each solver here holds a better
value. A step to the data itself is infinite in u, and its result is the x_hat that is held: the last step is DDIM's, on every
schedule alike, and one such step leaves the order at 2. Both need a model whose x_hat is E[x | z_t] (`Generative.solvable`).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.gaussian import alpha_sigma, per_image
from pipeline.diffusion.schedule import Spacing
from pipeline.diffusion.walk import Walk, Walker


def held(walk: Walk, index: int, z: Tensor, x_hat: Tensor) -> Tensor:
    """z_s where x_hat stays the same all through the step: sigma_s / sigma_t z_t + alpha_s (1 - exp(-h)) x_hat, h in lambda."""
    gamma_s, gamma_t = walk.gammas(z, index)
    alpha_s, sigma_s = alpha_sigma(gamma_s)
    of_x = alpha_s * -torch.expm1(0.5 * (gamma_s - gamma_t))
    return per_image(sigma_s / alpha_sigma(gamma_t)[1], z) * z + per_image(of_x, z) * x_hat


class Heun(Walker):
    """Heun's method: the mean of x_hat at both ends of the step. 2S - 1 network evaluations.

    In this form, and not in eps_hat over sigma / alpha (Karras et al. 2022, algorithm 1), since large steps of the log-SNR are
    then stable where almost all is noise.
    """

    solver: ClassVar[bool] = True

    kind: Literal["heun"]
    spacing: Spacing = "logsnr"

    def evaluations(self, times: Tensor) -> int:
        return 2 * (len(times) - 1) - 1

    def step(self, walk: Walk, index: int, z: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        del before
        x_hat = walk.reverse(z, index).x_hat
        z_s = held(walk, index, z, x_hat)
        if walk.last(index):
            return z_s, x_hat
        return held(walk, index, z, 0.5 * (x_hat + walk.reverse(z_s, index + 1).x_hat)), x_hat


class DPMSolver(Walker):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): x_hat extrapolated to half-way in lambda from the step before and this.

    One network evaluation a step. The first step, which has none before it, is DDIM's too.
    """

    solver: ClassVar[bool] = True

    kind: Literal["dpm-solver++"]
    spacing: Spacing = "logsnr"

    def step(self, walk: Walk, index: int, z: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        x_hat = walk.reverse(z, index).x_hat
        if before is None or walk.last(index):
            return held(walk, index, z, x_hat), x_hat
        (gamma_s, gamma_t), (_, gamma_before) = walk.gammas(z, index), walk.gammas(z, index - 1)
        ratio = (gamma_t - gamma_s) / (gamma_before - gamma_t)  # of this step's length to that of the step before
        return held(walk, index, z, x_hat + per_image(0.5 * ratio, z) * (x_hat - before)), x_hat
