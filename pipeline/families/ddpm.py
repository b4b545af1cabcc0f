"""DDPM: denoising diffusion in T discrete steps (Ho, Jain, Abbeel 2020), L_simple.

Equations: forward chain and posterior eq. 2-7, L_simple eq. 14, bound eq. 5, decoder eq. 13. What differs from the reference
code: pixels stand at their bins' centres as in VDM, so all families bound the same quantity; the discretised decoder uses
the exact normal CDF without a floor; eps, x or v may be predicted (Salimans and Ho 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.block import Block
from pipeline.diffusion.gaussian import Reverse, alpha_sigma, diffuse, kernel, per_image, posterior_std, transition_std
from pipeline.diffusion.likelihood import discretised_gaussian, gaussian_kl, mean_image, prior_kl, sum_image
from pipeline.diffusion.prediction import Prediction, target, to_x
from pipeline.diffusion.schedule import Discrete
from pipeline.diffusion.times import stratified
from pipeline.networks.unet import UNetConfig
from pipeline.roles import Batch, Bounded, DataSpec, Draw, Ends, Generative, Loss, Random, Trainable


class Config(Block):
    """variance: `small` is the posterior's, `large` is beta (Ho et al. 2020, section 3.2)."""

    schedule: Discrete
    prediction: Prediction = "eps"
    variance: Literal["small", "large"] = "small"
    network: UNetConfig = UNetConfig()
    labels: bool = False


class Model(Trainable, Generative, Bounded):
    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.schedule = config.schedule.build()
        self.network = config.network.build(spec, outputs=spec.shape[0], labels=config.labels)

    def players(self) -> Mapping[str, nn.Module]:
        return {"model": self.network}

    def loss(self, player: str, batch: Batch, step: int, rng: Random) -> Loss:
        """Mean squared error of the prediction, per dimension."""
        steps = self.schedule.steps
        t = ((stratified(len(batch.x), rng) * steps).floor() + 1) / steps
        noise = rng.normal(tuple(batch.x.shape), "noise")
        gamma = self.schedule.gamma(t)
        z = diffuse(batch.x, gamma, noise)
        error = self._output(z, gamma, batch.y) - target(self.config.prediction, batch.x, noise, gamma)
        simple = mean_image(error**2)
        return Loss(simple, {"simple": simple})

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        x_hat = to_x(self.config.prediction, self._output(z_t, gamma_t, y), z_t, gamma_t)
        posterior = kernel(x_hat if clip is None else x_hat.clamp(-clip, clip), z_t, gamma_s, gamma_t)
        # The last step adds no noise: its mean is x_hat.
        std = torch.where(s > 0, self._std(gamma_s, gamma_t), 0.0)
        return Reverse(posterior.mean, per_image(std, z_t).expand_as(z_t), posterior.x_hat, posterior.eps_hat)

    def ends(self, batch: Batch, rng: Random) -> Ends:
        """L_T and L_0 (eq. 5), in nats per image."""
        assert self.spec.levels is not None, "bits/dim needs discrete data"
        steps, x = self.schedule.steps, batch.x
        ones = torch.ones(len(x), dtype=torch.float64, device=x.device)
        prior = prior_kl(x, self.schedule.gamma(ones))

        first = ones / steps
        z = diffuse(x, self.schedule.gamma(first), rng.normal(tuple(x.shape), "reconstruction"))
        decoder = self.reverse(z, 0 * first, first, batch.y, rng, clip=1.0)
        # The posterior of the first step has no variance; the second step's stands in for it, as in the reference code.
        gamma_1, gamma_2 = self.schedule.gamma(first), self.schedule.gamma(torch.clamp(2 * first, max=1))
        decoder_std = posterior_std(gamma_1, gamma_2) if steps > 1 else transition_std(self.schedule.gamma(0 * first), gamma_1)
        log_std = per_image(torch.log(decoder_std), x.double()).expand_as(x)
        reconstruction = -sum_image(discretised_gaussian(x, decoder.mean, log_std, 1 / self.spec.levels))
        return Ends(prior, reconstruction)

    def diffusion(self, batch: Batch, uniform: Tensor, rng: Random) -> Draw:
        """One of L_1..L_{T-1} (eq. 5) over its probability, in nats per image.

        A step is drawn in proportion to (gamma_t - gamma_s) alpha_t, about what it contributes: drawn evenly, the few steps
        next to the data, which hold most of the bound, would be most of its noise.
        """
        steps, x = self.schedule.steps, batch.x
        if steps == 1:
            return Draw(torch.zeros(len(x), dtype=torch.float64, device=x.device), torch.ones_like(uniform))
        gamma = self.schedule.table[1:]
        weights = gamma.diff() * alpha_sigma(gamma[1:])[0]
        share = weights.cumsum(0) / weights.sum()
        index = torch.searchsorted(share, uniform, right=True).clamp(max=steps - 2) + 1  # z_s is level 1..T-1
        probability = (weights / weights.sum())[index - 1]
        s, t = index.double() / steps, (index + 1).double() / steps
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        z = diffuse(x, gamma_t, rng.normal(tuple(x.shape), "diffusion"))
        true = kernel(x, z, gamma_s, gamma_t)
        model = self.reverse(z, s, t, batch.y, rng, clip=1.0)
        divergence = gaussian_kl(
            true.mean.double(), per_image(2 * torch.log(posterior_std(gamma_s, gamma_t)), x.double()),
            model.mean.double(), 2 * torch.log(model.std.double()),
        )  # fmt: skip
        return Draw(sum_image(divergence) / probability, t)

    def _output(self, z: Tensor, gamma: Tensor, y: Tensor | None) -> Tensor:
        return self.network(z, self.schedule.input(gamma), y)

    def _std(self, gamma_s: Tensor, gamma_t: Tensor) -> Tensor:
        return posterior_std(gamma_s, gamma_t) if self.config.variance == "small" else transition_std(gamma_s, gamma_t)


def build(config: Config, spec: DataSpec) -> Model:
    return Model(config, spec)
