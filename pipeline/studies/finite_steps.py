"""Bits/dim of one model as a chain of T steps, with the posterior's variance and with the optimal one.

As T grows both go to the continuous-time bound: the first as C/T; the second from nearby already at small T, because the
variance makes up for what the mean misses (DiffEnc, eq. 7-9 and appendix F, where finite T is left to future work).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.contracts import Batch, Generative, LikelihoodModel, Random
from pipeline.diffusion.finite_steps import squared_error, step_kl
from pipeline.diffusion.times import low_discrepancy


@dataclass(frozen=True)
class Diffusion:
    """Nats per image, each (images,): unbiased estimates of the diffusion term for both choices of the variance."""

    posterior: NDArray[np.float64]
    optimal: NDArray[np.float64]


def diffusion(
    model: Generative, batch: Batch, steps: int, draws: int, variances: Tensor, offset: Tensor, rng: Random
) -> Diffusion:
    """The diffusion term of a chain of `steps`: all of them if there are no more than `draws`, else `draws` spread evenly.

    variances: (steps,) sigma_P^2, first that of the step from t = 1; offset: (B,) uniform in [0, 1). Both choices are
    measured at the same draws, so their difference has less noise than either.
    """
    times = model.schedule.times(steps, "trailing").to(batch.x.device)
    taken = min(steps, draws)
    dimensions = batch.x[0].numel()
    sums = torch.zeros(2, len(batch.x), dtype=torch.float64, device=batch.x.device)
    spread = torch.stack([low_discrepancy(draws, value) for value in offset])
    for draw in range(taken):
        index = torch.full((len(batch.x),), draw, device=batch.x.device)
        if steps > draws:
            index = (spread[:, draw] * steps).floor().long().clamp(max=steps - 1)
        squared, variance_q = squared_error(model, batch, times[index + 1], times[index], Draws(rng, draw))
        sums[0] += step_kl(squared, variance_q, variance_q, dimensions)
        sums[1] += step_kl(squared, variance_q, variances[index], dimensions)
    posterior, optimal = (sums * (steps / taken)).cpu().numpy()
    return Diffusion(posterior, optimal)


class Draws(Random):
    """The randomness of draw number `draw`: that of `inner` under purposes of its own."""

    def __init__(self, inner: Random, draw: int) -> None:
        self.inner, self.prefix = inner, f"draw {draw}: "

    def normal(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        return self.inner.normal(shape, self.prefix + purpose)

    def uniform(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        return self.inner.uniform(shape, self.prefix + purpose)


def continuous(model: LikelihoodModel, batch: Batch, draws: int, offset: Tensor, rng: Random) -> NDArray[np.float64]:
    """The limit T -> infinity in nats per image, (images,), with as many draws."""
    spread = torch.stack([low_discrepancy(draws, value) for value in offset], 1)
    nats = [model.diffusion_term(batch, spread[draw], Draws(rng, draw)).nats for draw in range(draws)]
    return torch.stack(nats).mean(0).cpu().numpy()


def row(nats: Mapping[str, NDArray[np.float64]], dimensions: int) -> dict[str, float]:
    """Terms in nats per image -> {"bits_per_dim", "standard_error"} of their sum over images."""
    bits = sum(nats.values()) / (dimensions * np.log(2))
    return {"bits_per_dim": float(bits.mean()), "standard_error": float(bits.std(ddof=1) / len(bits) ** 0.5)}
