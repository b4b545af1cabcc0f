"""From images to latents and back along the probability flow, and between latents (Song, Meng, Ermon 2021, 4.3 and 5.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.core.contracts import Generative, Random
from pipeline.diffusion.gaussian import alpha_sigma, per_image
from pipeline.samplers.ddim import DDIM
from pipeline.samplers.trajectory import trajectory

DETERMINISTIC = DDIM(kind="ddim")


class NoRandom(Random):
    """For models that draw nothing on the way."""

    def normal(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        raise AssertionError(f"a deterministic walk has no noise; asked for: {purpose}")

    def uniform(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        raise AssertionError(f"a deterministic walk has no noise; asked for: {purpose}")


def invert(
    model: Generative,
    x: Tensor,
    steps: int,
    y: Tensor | None = None,
    device: torch.device | str = "cpu",
    sampler: DDIM = DETERMINISTIC,
) -> Tensor:
    """The latent whose DDIM sample is x, (B, C, H, W) in model space: z at the first time of the sampler's grid.

    DDIM's step with s and t exchanged, eps_hat taken at the source: Euler's method on d(z / alpha) = eps_hat d(sigma / alpha)
    (eq. 14), so `reconstruct` comes back with an error of first order. The step from the data has eps_hat = 0, as an image
    shows no noise: one network evaluation less than steps. A model that draws x_hat has no inverse
    (`Generative.has_probability_flow`).
    """
    _assert_invertible(model, sampler)
    times = model.schedule.times(steps, sampler.spacing).to(device)
    z = x.to(device)
    z = per_image(alpha_sigma(model.schedule.gamma(times[-2].expand(len(z))))[0], z) * z
    for index in range(len(times) - 2, 0, -1):
        below, source, target = (times[at].expand(len(z)) for at in (index + 1, index, index - 1))
        reverse = model.reverse(z, below, source, y, NoRandom(), clip=1.0 if sampler.clip else None)
        alpha, sigma = alpha_sigma(model.schedule.gamma(target))
        z = per_image(alpha, z) * reverse.x_hat + per_image(sigma, z) * reverse.eps_hat
    return z


def reconstruct(
    model: Generative,
    z: Tensor,
    steps: int,
    y: Tensor | None = None,
    device: torch.device | str = "cpu",
    sampler: DDIM = DETERMINISTIC,
) -> Tensor:
    """The DDIM sample of a latent z at the first time of the sampler's grid, both (B, C, H, W), in model space, unclipped."""
    _assert_invertible(model, sampler)
    *_, (x, _) = trajectory(model, sampler, tuple(z.shape), steps, lambda _: NoRandom(), y, device, start=z)
    return x


def slerp(a: Tensor, b: Tensor, u: float) -> Tensor:
    """The latent at the share u in [0, 1] of the arc from a to b (Shoemake 1985; DDIM, eq. 67): one latent each, of any shape.

    sin((1 - u) theta) / sin(theta) a + sin(u theta) / sin(theta) b, theta the angle between them over all dimensions: equal
    norms are kept, where a straight line would pass through latents that are less noise than any the model has seen. Raises
    ValueError for opposite latents, which no one arc joins.
    """
    unit_a, unit_b = a.double() / a.double().norm(), b.double() / b.double().norm()
    # The arc cosine of the inner product would lose half of the digits of small angles.
    theta = 2 * torch.atan2((unit_a - unit_b).norm(), (unit_a + unit_b).norm())
    if float(theta) == 0:
        return torch.lerp(a, b, u)
    if float(torch.pi - theta) < 1e-6:
        raise ValueError("the latents are opposite; allowed: any two that one shortest arc joins")
    of_a, of_b = torch.sin((1 - u) * theta) / torch.sin(theta), torch.sin(u * theta) / torch.sin(theta)
    return (of_a * a.double() + of_b * b.double()).to(a.dtype)


def _assert_invertible(model: Generative, sampler: DDIM) -> None:
    assert model.has_probability_flow, "a model that draws x_hat has no inverse"
    assert sampler.eta == 0, "only the deterministic walk has an inverse"
