"""The Gaussian chain in terms of gamma = -log SNR, for discrete and continuous time alike.

Notation: s < t, Delta = gamma_t - gamma_s > 0, SNR(t)/SNR(s) = exp(-Delta) (Kingma et al. 2021, appendix A). gammas are (B,)
float64; coefficients are formed there and only then take the type of the images. gamma_s = -inf (the data) gives no NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Reverse:
    """p(z_s | z_t) = N(mean, std^2), each (B, C, H, W), with the model's x_hat and eps_hat: all that a sampler sees.

    drift: how far the signal alpha_s x_hat is to move between t and s, for models whose encoded image depends on time.
    """

    mean: Tensor
    std: Tensor
    x_hat: Tensor
    eps_hat: Tensor
    drift: Tensor | None = None


def per_image(coefficient: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1) in the type of `like`."""
    return coefficient.to(like.dtype).reshape(-1, *([1] * (like.dim() - 1)))


def alpha_sigma(gamma: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = sqrt(sigmoid(-gamma)), sigma = sqrt(sigmoid(gamma)); (B,) -> (B,), (B,)."""
    return torch.exp(0.5 * logsigmoid(-gamma)), torch.exp(0.5 * logsigmoid(gamma))


def diffuse(x: Tensor, gamma: Tensor, noise: Tensor) -> Tensor:
    """z_t = alpha_t x + sigma_t noise ~ q(z_t | x)."""
    alpha, sigma = alpha_sigma(gamma)
    return per_image(alpha, x) * x + per_image(sigma, x) * noise


def transition_std(gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
    """sigma_{t|s} = sigma_t sqrt(1 - exp(-Delta)), (B,): the noise of one forward step; its square is beta."""
    return alpha_sigma(gamma_t)[1] * torch.sqrt(-torch.expm1(gamma_s - gamma_t))


def transition(z_s: Tensor, gamma_s: Tensor, gamma_t: Tensor, noise: Tensor) -> Tensor:
    """z_t = (alpha_t / alpha_s) z_s + sigma_{t|s} noise ~ q(z_t | z_s)."""
    ratio = torch.exp(0.5 * (logsigmoid(-gamma_t) - logsigmoid(-gamma_s)))
    return per_image(ratio, z_s) * z_s + per_image(transition_std(gamma_s, gamma_t), z_s) * noise


def posterior_std(gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
    """sigma_Q = sigma_s sqrt(1 - exp(-Delta)), (B,): the standard deviation of q(z_s | z_t, x); 0 where z_s is the data."""
    return alpha_sigma(gamma_s)[1] * torch.sqrt(-torch.expm1(gamma_s - gamma_t))


def posterior_coefficients(gamma_s: Tensor, gamma_t: Tensor) -> tuple[Tensor, Tensor]:
    """a, b of E[z_s | z_t, x] = a z_t + b x: a = (alpha_s / alpha_t) exp(-Delta), b = alpha_s (1 - exp(-Delta)); (B,) each."""
    delta = gamma_t - gamma_s
    a = torch.exp(0.5 * (logsigmoid(-gamma_s) - logsigmoid(-gamma_t)) - delta)
    b = alpha_sigma(gamma_s)[0] * -torch.expm1(-delta)
    return a, b


def eps_from_x(x_hat: Tensor, z_t: Tensor, gamma_t: Tensor) -> Tensor:
    """eps_hat = (z_t - alpha_t x_hat) / sigma_t."""
    alpha, sigma = alpha_sigma(gamma_t)
    return (z_t - per_image(alpha, z_t) * x_hat) / per_image(sigma, z_t)


def posterior(x_hat: Tensor, z_t: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Reverse:
    """q(z_s | z_t, x = x_hat) (Ho et al. 2020, eq. 6-7; Kingma et al. 2021, eq. 25-29)."""
    a, b = posterior_coefficients(gamma_s, gamma_t)
    std = per_image(posterior_std(gamma_s, gamma_t), z_t).expand_as(z_t)
    return Reverse(per_image(a, z_t) * z_t + per_image(b, z_t) * x_hat, std, x_hat, eps_from_x(x_hat, z_t, gamma_t))
