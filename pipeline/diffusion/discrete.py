"""A chain of T discrete steps: its reverse steps, the terms of its bound, and how these are drawn (Ho et al. 2020, eq. 5-7).

Step `index` of 0..T-1 is the one from level index + 1 down to level index; level 0 is the data.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.diffusion.gaussian import Reverse, alpha_sigma, per_image, posterior, posterior_std, transition_std
from pipeline.diffusion.likelihood import discretised_gaussian, gaussian_kl, sum_image
from pipeline.diffusion.schedule import DiscreteSchedule

Variance = Literal["small", "large", "learned"]


def reverse(
    schedule: DiscreteSchedule, kind: Variance, x_hat: Tensor, channels: Tensor | None, z: Tensor, s: Tensor, t: Tensor,
    clip: float | None,
) -> Reverse:  # fmt: skip
    """p(z_s | z_t) of a model that says x_hat at z = z_t, each (B, C, H, W), for times s < t, each (B,).

    kind: `small` is the posterior's variance, `large` beta, `learned` lies between them where `channels`, as large as x_hat,
    say (Nichol and Dhariwal 2021, eq. 15). Where s is the data the std is that of DDPM's decoder: the posterior's std one
    step later, which is not 0.
    """
    gamma_s, gamma_t = schedule.gamma(s), schedule.gamma(t)
    made = posterior(x_hat if clip is None else x_hat.clamp(-clip, clip), z, gamma_s, gamma_t)
    later = schedule.gamma((2 * t - s).clamp(max=1))
    small = torch.where(s > 0, posterior_std(gamma_s, gamma_t), posterior_std(gamma_t, later))
    large = transition_std(gamma_s, gamma_t)
    if kind == "small":
        std = per_image(small, z).expand_as(z)
    elif kind == "large":
        std = per_image(torch.where(s > 0, large, small), z).expand_as(z)
    else:
        assert channels is not None
        share = (channels + 1) / 2  # not squashed: the paper lets it leave [0, 1]
        std = torch.exp(share * per_image(large.log(), z) + (1 - share) * per_image(small.log(), z))
    return Reverse(made.mean, std, made.x_hat, made.eps_hat)


def bound_term(schedule: DiscreteSchedule, levels: int | None, x: Tensor, z: Tensor, index: Tensor, model: Reverse) -> Tensor:
    """L_index in nats per image, (B,): the decoder's log-likelihood where z_s is the data, a KL elsewhere.

    model: p(z_s | z_t) at z = z_t with t = (index + 1)/T; levels: of a pixel.
    """
    assert levels is not None, "bits/dim needs discrete data"
    steps = schedule.steps
    gamma_s, gamma_t = schedule.gamma(index.double() / steps), schedule.gamma((index.double() + 1) / steps)
    true = posterior(x, z, gamma_s, gamma_t)
    log_std = model.std.double().log()
    # Rows whose z_s is the data have no posterior variance; any finite value does, as their KL is not used.
    log_variance = 2 * torch.where(index > 0, posterior_std(gamma_s, gamma_t), 1.0).log()
    nats = sum_image(gaussian_kl(true.mean.double(), per_image(log_variance, x.double()), model.mean.double(), 2 * log_std))
    first = index == 0
    if bool(first.any()):  # few rows of a training batch, and dear ones
        decoder = discretised_gaussian(x[first], model.mean[first], log_std[first], 1 / levels)
        nats = nats.index_put((first,), -sum_image(decoder))
    return nats


def draw_term(schedule: DiscreteSchedule, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) uniform in [0, 1) -> steps of 1..T-1 (B,), their weights (B,) and the sum of all weights ().

    A step is drawn in proportion to its weight (gamma_t - gamma_s) alpha_t, about what it contributes: drawn evenly, the few
    steps next to the data, which hold most of the bound, would be most of its noise. term * sum / weight is then an unbiased
    estimate of L_1 + ... + L_{T-1}.
    """
    gamma = schedule.table[1:]
    weights = gamma.diff() * alpha_sigma(gamma[1:])[0]
    share = weights.cumsum(0) / weights.sum()
    index = torch.searchsorted(share, uniform.double(), right=True).clamp(max=schedule.steps - 2) + 1
    return index, weights[index - 1], weights.sum()
