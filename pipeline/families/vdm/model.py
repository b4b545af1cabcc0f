"""VDM: variational diffusion (Kingma, Salimans, Poole, Ho 2021).

Equations: posterior 25-29, discrete-time loss 13-14, continuous-time loss 15-18 (v-form: 1/2 gamma' alpha^2 ||v - v_hat||^2),
prior and reconstruction terms section 3.3, learned schedule appendices H and I. What differs from the reference code: the
monotone network is pinned at its ends (eq. 59) and trained for low variance (eq. 60-62), which the public code leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.config.family import Guidable
from pipeline.core.contracts import (
    Batch,
    DataSpec,
    DiffusionTerm,
    FiniteStepModel,
    LikelihoodModel,
    Loss,
    Posterior,
    PriorAndReconstruction,
    Random,
)
from pipeline.diffusion.gaussian import Reverse, alpha_sigma, diffuse, posterior
from pipeline.diffusion.learned_schedule import Continuous
from pipeline.diffusion.likelihood import bits_per_dim, noisy_reconstruction, prior_kl, sum_image
from pipeline.diffusion.prediction import Prediction, target, to_x
from pipeline.diffusion.schedule import ContinuousSchedule
from pipeline.diffusion.times import stratified
from pipeline.networks.choice import Network
from pipeline.networks.guidance import GuidedModel
from pipeline.networks.unet import UNetConfig


class Config(Guidable):
    """`steps`: null trains and bounds in continuous time, a number T with the loss of T steps (eq. 13)."""

    schedule: Continuous
    prediction: Prediction = "v"
    steps: Annotated[int, Field(ge=1)] | None = None
    network: Network = UNetConfig()

    def check_data(self, discrete: bool) -> None:
        if not discrete and self.schedule.build().learned:
            raise ValueError(
                f"schedule.kind is {self.schedule.kind!r}; allowed for latents, which have no levels to bound: a schedule that "
                "is not learned"
            )


class Model(GuidedModel, LikelihoodModel, FiniteStepModel):
    config: Config
    schedule: ContinuousSchedule

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.schedule = config.schedule.build()
        self.network = config.network.build(spec, spec.shape[0], config.labels)

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        return {"model": self}

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        """In bits/dim. With fixed end points the prior and reconstruction terms do not depend on weights and are left out."""
        batch = self.with_dropped_labels(batch, rng)
        nats = {"diffusion": self.diffusion_term(batch, stratified(len(batch.x), rng), rng).nats}
        if self.schedule.learned:
            ends = self.prior_and_reconstruction(batch, rng)
            nats |= {"prior": ends.prior, "reconstruction": ends.reconstruction}
        parts = {name: bits_per_dim(value, self.spec.dimensions).float() for name, value in nats.items()}
        self.schedule.minimise_variance(parts["diffusion"])
        return Loss(torch.stack(list(parts.values())).sum(0), parts)

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        x_hat = to_x(self.config.prediction, self._output(z_t, gamma_t, y), z_t, gamma_t)
        return posterior(x_hat if clip is None else x_hat.clamp(-clip, clip), z_t, gamma_s, gamma_t)

    def posterior(self, batch: Batch, s: Tensor, t: Tensor, rng: Random) -> Posterior:
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        z = diffuse(batch.x, gamma_t, rng.normal(tuple(batch.x.shape), "diffusion"))
        true = posterior(batch.x, z, gamma_s, gamma_t)
        return Posterior(z, true.mean, true.std)

    def prior_and_reconstruction(self, batch: Batch, rng: Random) -> PriorAndReconstruction:
        """Section 3.3, in nats per image."""
        assert self.spec.levels is not None, "bits/dim needs discrete data"
        gamma_0, gamma_1 = self.schedule.ends(len(batch.x), batch.x.device)
        noise = rng.normal(tuple(batch.x.shape), "reconstruction")
        reconstruction = noisy_reconstruction(batch.x, batch.x, noise, gamma_0, self.spec.levels)
        return PriorAndReconstruction(prior_kl(batch.x, gamma_1), reconstruction)

    def diffusion_term(self, batch: Batch, uniform: Tensor, rng: Random) -> DiffusionTerm:
        """The diffusion term in continuous time (eq. 15-17) or for T steps (eq. 13-14), in nats per image."""
        x, noise = batch.x, rng.normal(tuple(batch.x.shape), "diffusion")
        if self.config.steps is None:
            t = uniform
            gamma, slope = self.schedule.gamma_and_slope(t)
        else:
            index = (uniform * self.config.steps).floor() + 1
            t = index / self.config.steps
            gamma = self.schedule.gamma(t)
            # T (exp(gamma_t - gamma_s) - 1) takes the place of gamma': it goes there as T grows.
            slope = self.config.steps * torch.expm1(gamma - self.schedule.gamma((index - 1) / self.config.steps))
        z = diffuse(x, gamma, noise)
        error = self._output(z, gamma, batch.y) - target(self.config.prediction, x, noise, gamma)
        # An error of v is one of eps over alpha, and one of x over sigma: the weights are those of eq. 15, 17 and their v-form.
        alpha, _ = alpha_sigma(gamma)
        weight = {"eps": slope, "v": slope * alpha**2, "x": slope * torch.exp(-gamma)}[self.config.prediction]
        return DiffusionTerm(0.5 * weight * sum_image(error**2), t)

    def _output(self, z: Tensor, gamma: Tensor, y: Tensor | None) -> Tensor:
        output: Tensor = self.network(z, self.schedule.input(gamma), y)
        return output


def build(config: Config, spec: DataSpec) -> Model:
    return Model(config, spec)
