"""Monte-Carlo estimates of the diffusion term of a chain of T steps, and of its limit as T grows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.contracts import Batch, Generative, LikelihoodModel, Random
from pipeline.diffusion.finite_steps import squared_error, step_kl
from pipeline.diffusion.times import low_discrepancy


@dataclass(frozen=True)
class BothVariances:
    """Nats per image, each (B,) float64: unbiased estimates for both choices of the reverse variance."""

    posterior: Tensor
    optimal: Tensor


def chain(
    model: Generative, batch: Batch, steps: int, times: int, variances: Tensor, offset: Tensor, rng: Random
) -> BothVariances:
    """The diffusion term of a chain of `steps`: all of them if there are no more than `times`, else `times` spread evenly.

    variances: (steps,) sigma_P^2, first that of the step from t = 1; offset: (B,) uniform in [0, 1). Both choices are
    measured at the same z_t, so their difference has less noise than either.
    """
    grid = model.schedule.times(steps, "trailing").to(batch.x.device)
    taken = min(steps, times)
    dimensions = batch.x[0].numel()
    sums = torch.zeros(2, len(batch.x), dtype=torch.float64, device=batch.x.device)
    spread = torch.stack([low_discrepancy(times, value) for value in offset])
    for number in range(taken):
        index = torch.full((len(batch.x),), number, device=batch.x.device)
        if steps > times:
            index = (spread[:, number] * steps).floor().long().clamp(max=steps - 1)
        squared, variance_q = squared_error(model, batch, grid[index + 1], grid[index], Prefixed(rng, number))
        sums[0] += step_kl(squared, variance_q, variance_q, dimensions)
        sums[1] += step_kl(squared, variance_q, variances[index], dimensions)
    posterior, optimal = sums * (steps / taken)
    return BothVariances(posterior, optimal)


def continuous(model: LikelihoodModel, batch: Batch, times: int, offset: Tensor, rng: Random) -> Tensor:
    """The limit T -> infinity in nats per image, (B,), at as many times."""
    spread = torch.stack([low_discrepancy(times, value) for value in offset], 1)
    nats = [model.diffusion_term(batch, spread[number], Prefixed(rng, number)).nats for number in range(times)]
    return torch.stack(nats).mean(0)


class Prefixed(Random):
    """The randomness of draw `number`: that of `inner` under purposes of its own."""

    def __init__(self, inner: Random, number: int) -> None:
        self.inner, self.prefix = inner, f"draw {number}: "

    def normal(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        return self.inner.normal(shape, self.prefix + purpose)

    def uniform(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        return self.inner.uniform(shape, self.prefix + purpose)
