"""The likelihoods of discrete pixels (see core/pixels.py), and the KL terms of the bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pipeline.core.pixels import dequantize
from pipeline.diffusion.gaussian import per_image


def bits_per_dim(nats: Tensor, dimensions: int) -> Tensor:
    """Nats per image -> bits per dimension."""
    return nats / (dimensions * math.log(2))


def sum_image(values: Tensor) -> Tensor:
    """(B, ...) -> (B,), summed in float64."""
    return values.flatten(1).sum(1, dtype=torch.float64)


def mean_image(values: Tensor) -> Tensor:
    """(B, ...) -> (B,)."""
    return values.flatten(1).mean(1)


def gaussian_kl(mean_q: Tensor, log_variance_q: Tensor, mean_p: Tensor, log_variance_p: Tensor) -> Tensor:
    """KL(N(mean_q, e^log_variance_q) || N(mean_p, e^log_variance_p)) in nats, element by element."""
    difference = log_variance_q - log_variance_p
    squared = (mean_q - mean_p) ** 2 * torch.exp(-log_variance_p)
    return 0.5 * (torch.expm1(difference) - difference + squared)


def prior_kl(x: Tensor, gamma_1: Tensor) -> Tensor:
    """KL(q(z_1 | x) || N(0, I)) in nats per image, (B,): 1/2 sum [alpha_1^2 x^2 + sigma_1^2 - 1 - log sigma_1^2]."""
    alpha_squared = per_image(torch.sigmoid(-gamma_1), x.double())
    # sigma^2 - 1 = -alpha^2 exactly, which keeps the digits when sigma is near 1.
    return 0.5 * sum_image(alpha_squared * x.double() ** 2 - alpha_squared - per_image(logsigmoid(gamma_1), x.double()))


def discretised_gaussian(x: Tensor, mean: Tensor, log_std: Tensor, half_width: float) -> Tensor:
    """log P(bin of x) under N(mean, std^2), in nats, element by element, float64 (Ho et al. 2020, eq. 13).

    x: bin centres; half_width: half a bin, 1/L. The outermost bins are open. Exact in the tails, by log Phi: nothing is
    clamped, so that the value stays a log-likelihood for a model that is badly wrong.
    """
    x, mean, log_std = x.double(), mean.double(), log_std.double()
    inverse = torch.exp(-log_std)
    upper, lower = inverse * (x - mean + half_width), inverse * (x - mean - half_width)
    # By symmetry the mass between a and b is that between -b and -a; the left tail is the one with digits.
    flip = (upper + lower) > 0
    a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    inside = log_b + torch.log(-torch.expm1(log_a - log_b))
    lowest, highest = x < -1 + 1.5 * half_width, x > 1 - 1.5 * half_width
    return torch.where(lowest, torch.special.log_ndtr(upper), torch.where(highest, torch.special.log_ndtr(-lower), inside))


def noisy_reconstruction(x: Tensor, signal: Tensor, noise: Tensor, gamma_0: Tensor, levels: int) -> Tensor:
    """-log p(x | z_0) in nats per image, (B,), at z_0 / alpha_0 = signal + exp(gamma_0 / 2) noise.

    x: bin centres of the codes to be named; signal: what was diffused, x itself or an encoding of it.
    """
    z_0 = signal.double() + per_image(torch.exp(0.5 * gamma_0), noise.double()) * noise.double()
    return -discretised_latent(x, z_0, gamma_0, levels)


def discretised_latent(x: Tensor, z_0: Tensor, gamma_0: Tensor, levels: int) -> Tensor:
    """log p(x | z_0) in nats per image, (B,): per pixel a softmax over the L codes of log N(z_0; alpha_0 c_k, sigma_0^2).

    x: bin centres of the true codes; z_0: z_0 / alpha_0, (B, C, H, W) (Kingma et al. 2021, section 3.3).
    """
    precision = torch.exp(-gamma_0).to(z_0.dtype)
    codes = dequantize(torch.arange(levels, device=x.device), levels).to(z_0.dtype)
    total = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for row in range(len(x)):  # one image at a time: (C*H*W, L) logits, not (B, C*H*W, L)
        z = z_0[row].reshape(-1, 1)
        logits = -0.5 * precision[row] * (z - codes) ** 2
        own = -0.5 * precision[row] * (z[:, 0] - x[row].reshape(-1).to(z.dtype)) ** 2
        total[row] = (own - torch.logsumexp(logits, 1)).sum(dtype=torch.float64)
    return total
