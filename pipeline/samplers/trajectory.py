"""From noise to images with any sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from pipeline.core.contracts import Generative, Random
from pipeline.core.random import RowRandom
from pipeline.diffusion.gaussian import alpha_sigma, per_image
from pipeline.samplers.base import Sampler, SamplerContext


def trajectory(
    model: Generative,
    sampler: Sampler,
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
    assert model.has_probability_flow or not sampler.solver, "solvers need a model whose probability flow can be solved"
    assert variances is None or sampler.takes_variances, "the other samplers have variances of their own"
    times = model.schedule.times(steps, sampler.spacing).to(device)
    context = SamplerContext(
        model, times, random, y, 1.0 if sampler.clip else None, None if variances is None else variances.to(device)
    )
    z = random(0).normal(shape, "start") if start is None else start.to(device)
    yield z, None
    x_hat = None
    for index in range(context.steps):
        z, x_hat = sampler.step(context, index, z, x_hat)
        if context.last(index):
            z = z / per_image(alpha_sigma(context.gammas(z, index)[0])[0], z)
        yield z, x_hat


@torch.inference_mode()
def sample(
    model: Generative,
    sampler: Sampler,
    shape: tuple[int, ...],
    steps: int,
    seed: int,
    y: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Images 0..B-1 of a seed, (B, C, H, W) in model space, unclipped: where the trajectory ends. `model`: on `device`."""
    random = partial(RowRandom, seed, range(shape[0]), device=device)
    *_, (z, _) = trajectory(model, sampler, shape, steps, random, y, device)
    return z
