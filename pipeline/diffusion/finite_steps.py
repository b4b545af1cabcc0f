"""A continuous-time model as a chain of T steps: the bound for that T, and the reverse variance that makes it tightest.

DiffEnc leaves sigma_P != sigma_Q at finite T to future work; these are its eq. 7-9 and appendix F. d is the number of
dimensions, w = sigma_Q^2 / sigma_P^2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.core.contracts import Batch, FiniteStepModel, Generative, Random
from pipeline.diffusion.likelihood import sum_image


def squared_error(model: Generative, batch: Batch, s: Tensor, t: Tensor, rng: Random) -> tuple[Tensor, Tensor]:
    """||mu_P - mu_Q||^2 summed over an image, and sigma_Q^2, each (B,) float64, at one draw of z_t. x_hat is not clipped."""
    assert isinstance(model, FiniteStepModel)
    true = model.posterior(batch, s, t, rng)
    made = model.reverse(true.z_t, s, t, batch.y, rng)
    return sum_image((made.mean.double() - true.mean.double()) ** 2), true.std.double().flatten(1)[:, 0] ** 2


def step_kl(squared: Tensor, variance_q: Tensor, variance_p: Tensor, dimensions: int) -> Tensor:
    """KL(q(z_s | z_t, x) || p(z_s | z_t)) in nats: d/2 (w - 1 - log w) + ||mu_P - mu_Q||^2 / (2 sigma_P^2) (eq. 9)."""
    w = variance_q / variance_p
    return 0.5 * dimensions * (w - 1 - torch.log(w)) + squared / (2 * variance_p)


def optimal_variance(squared: Tensor, variance_q: Tensor, dimensions: int) -> Tensor:
    """sigma_P^2 = sigma_Q^2 + E ||mu_P - mu_Q||^2 / d (appendix F); squared: (N,) draws at one step, variance_q: ()."""
    return variance_q + squared.mean() / dimensions


def optimal_step_kl(variance_q: Tensor, variance_p: Tensor, dimensions: int) -> Tensor:
    """What the mean of `step_kl` is at the optimum: d/2 log(sigma_P^2 / sigma_Q^2)."""
    return 0.5 * dimensions * torch.log(variance_p / variance_q)
