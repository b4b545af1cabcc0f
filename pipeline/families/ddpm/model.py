"""DDPM and improved DDPM: denoising diffusion in T discrete steps (Ho, Jain, Abbeel 2020; Nichol and Dhariwal 2021).

Equations of Ho et al.: forward chain and posterior 2-7, bound 5, decoder 13, L_simple 14. Of Nichol and Dhariwal: learned
variance 15, L_hybrid 16, importance-sampled steps 18. What differs from the reference code: pixels stand at their bins'
centres as in VDM, so all families bound the same quantity; the discretised decoder is exact and has no floor; eps, x or v may
be predicted (Salimans and Ho 2022); the history of losses is part of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.config.family import Guidable
from pipeline.core.contracts import (
    Batch,
    DataSpec,
    DiffusionTerm,
    DiscreteChainModel,
    LikelihoodModel,
    Loss,
    PriorAndReconstruction,
    Random,
)
from pipeline.diffusion import discrete
from pipeline.diffusion.gaussian import Reverse, diffuse, per_image
from pipeline.diffusion.likelihood import bits_per_dim, mean_image, prior_kl
from pipeline.diffusion.prediction import Prediction, target, to_x
from pipeline.diffusion.schedule import Discrete, DiscreteSchedule
from pipeline.diffusion.times import LossSecondMoment, low_discrepancy
from pipeline.networks.choice import Network
from pipeline.networks.guidance import GuidedModel
from pipeline.networks.unet import UNetConfig


class Config(Guidable):
    """variance: `small` is the posterior's, `large` is beta, `learned` lies between them by a second set of channels.

    objective: `simple` (mean squared error), `vlb` (the bound), `hybrid` (simple plus `vlb_weight` times the bound, whose
    gradient then reaches the variance alone).
    """

    schedule: Discrete
    prediction: Prediction = "eps"
    variance: discrete.Variance = "small"
    objective: Literal["simple", "vlb", "hybrid"] = "simple"
    vlb_weight: Annotated[float, Field(gt=0)] = 0.001
    time_sampling: Literal["uniform", "stratified", "loss-second-moment"] = "stratified"
    network: Network = UNetConfig()

    @model_validator(mode="after")
    def _variance_is_trained(self) -> Config:
        if self.variance == "learned" and self.objective == "simple":
            raise ValueError(
                "variance is 'learned'; allowed with objective: simple, which trains no variance: 'small' or 'large'"
            )
        if self.variance != "learned" and self.objective == "hybrid":
            raise ValueError(
                f"variance is {self.variance!r}; allowed with objective: hybrid, which adds the variance's loss: 'learned'"
            )
        return self

    def check_data(self, discrete: bool) -> None:
        if not discrete and self.objective != "simple":
            raise ValueError(
                f"objective is {self.objective!r}; allowed for latents, which have no levels to be likely: 'simple'"
            )


class Model(GuidedModel, LikelihoodModel, DiscreteChainModel):
    chain_group: ClassVar[str] = "model"
    config: Config
    schedule: DiscreteSchedule

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.schedule = config.schedule.build()
        channels = spec.shape[0]
        self.network = config.network.build(spec, channels * (2 if config.variance == "learned" else 1), config.labels)
        self.sampled = LossSecondMoment(self.schedule.steps) if config.time_sampling == "loss-second-moment" else None

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        return {"model": self}

    def chain_network(self) -> nn.Module:
        return self.network

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        """`simple` is per dimension; `vlb` is in bits/dim, an unbiased estimate of the bound without its prior term."""
        batch = self.with_dropped_labels(batch, rng)
        steps, x = self.schedule.steps, batch.x
        index, weight = self._draw(len(x), rng)  # of z_s; 0 is the data
        t = (index.double() + 1) / steps
        noise, gamma = rng.normal(tuple(x.shape), "noise"), self.schedule.gamma(t)
        z = diffuse(x, gamma, noise)
        output, variance = self._output(z, gamma, batch.y)
        error = output - target(self.config.prediction, x, noise, gamma)
        parts = {"simple": mean_image(error**2)}
        if self.config.objective != "simple":
            frozen = output.detach() if self.config.objective == "hybrid" else output
            nats = self._term(x, z, index, self._reverse(z, index.double() / steps, t, frozen, variance, clip=None))
            parts["vlb"] = steps * bits_per_dim(nats, self.spec.dimensions)
        total = {
            "simple": lambda: parts["simple"],
            "vlb": lambda: parts["vlb"],
            "hybrid": lambda: parts["simple"] + self.config.vlb_weight * parts["vlb"],
        }[self.config.objective]()
        if self.sampled is not None and self.training:
            self.sampled.update(index, total)
        return Loss(weight * total, {name: weight * value for name, value in parts.items()})

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        made = self._reverse(z_t, s, t, *self._output(z_t, self.schedule.gamma(t), y), clip)
        # The last step adds no noise: its mean is x_hat.
        return Reverse(made.mean, torch.where(per_image(s, z_t) > 0, made.std, 0.0), made.x_hat, made.eps_hat)

    def prior_and_reconstruction(self, batch: Batch, rng: Random) -> PriorAndReconstruction:
        """L_T and L_0 (eq. 5), in nats per image."""
        x = batch.x
        ones = torch.ones(len(x), dtype=torch.float64, device=x.device)
        first = ones / self.schedule.steps
        gamma = self.schedule.gamma(first)
        z = diffuse(x, gamma, rng.normal(tuple(x.shape), "reconstruction"))
        decoder = self._reverse(z, 0 * first, first, *self._output(z, gamma, batch.y), clip=1.0)
        return PriorAndReconstruction(
            prior_kl(x, self.schedule.gamma(ones)), self._term(x, z, torch.zeros_like(first).long(), decoder)
        )

    def diffusion_term(self, batch: Batch, uniform: Tensor, rng: Random) -> DiffusionTerm:
        """One of L_1..L_{T-1} (eq. 5) over its probability, in nats per image."""
        x = batch.x
        index, weight, weights = discrete.draw_term(self.schedule, uniform)  # z_s is level 1..T-1
        s, t = index.double() / self.schedule.steps, (index.double() + 1) / self.schedule.steps
        z = diffuse(x, self.schedule.gamma(t), rng.normal(tuple(x.shape), "diffusion"))
        model = self._reverse(z, s, t, *self._output(z, self.schedule.gamma(t), batch.y), clip=1.0)
        return DiffusionTerm(self._term(x, z, index, model) * weights / weight, t)

    def _draw(self, count: int, rng: Random) -> tuple[Tensor, Tensor]:
        """Steps 0..T-1 and the weights of their losses, each (B,)."""
        if self.sampled is not None and self.training:
            return self.sampled.draw(rng.uniform((count,), "time"))
        if self.config.time_sampling == "uniform" and self.training:
            uniform = rng.uniform((count,), "time").double()
        else:
            uniform = low_discrepancy(count, rng.uniform((1,), "time"))
        return (uniform * self.schedule.steps).floor().long(), torch.ones_like(uniform)

    def _output(self, z: Tensor, gamma: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The prediction, and the channels of the learned variance."""
        output = self.network(z, self.schedule.input(gamma), y)
        if self.config.variance != "learned":
            return output, None
        prediction, variance = output.chunk(2, 1)
        return prediction, variance

    def _reverse(self, z: Tensor, s: Tensor, t: Tensor, output: Tensor, variance: Tensor | None, clip: float | None) -> Reverse:
        x_hat = to_x(self.config.prediction, output, z, self.schedule.gamma(t))
        return discrete.reverse(self.schedule, self.config.variance, x_hat, variance, z, s, t, clip)

    def _term(self, x: Tensor, z: Tensor, index: Tensor, model: Reverse) -> Tensor:
        return discrete.bound_term(self.schedule, self.spec.levels, x, z, index, model)


def build(config: Config, spec: DataSpec) -> Model:
    return Model(config, spec)
