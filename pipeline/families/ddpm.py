"""DDPM and improved DDPM: denoising diffusion in T discrete steps (Ho, Jain, Abbeel 2020; Nichol and Dhariwal 2021).

Equations of Ho et al.: forward chain and posterior 2-7, bound 5, decoder 13, L_simple 14. Of Nichol and Dhariwal: learned
variance 15, L_hybrid 16, importance-sampled steps 18. What differs from the reference code: pixels stand at their bins'
centres as in VDM, so all families bound the same quantity; the discretised decoder is exact and has no floor; eps, x or v may
be predicted (Salimans and Ho 2022); the history of losses is part of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.block import Block
from pipeline.diffusion.gaussian import Reverse, alpha_sigma, diffuse, kernel, per_image, posterior_std, transition_std
from pipeline.diffusion.likelihood import bits_per_dim, discretised_gaussian, gaussian_kl, mean_image, prior_kl, sum_image
from pipeline.diffusion.prediction import Prediction, target, to_x
from pipeline.diffusion.schedule import Discrete
from pipeline.diffusion.times import LossSecondMoment, low_discrepancy
from pipeline.networks.choice import Network
from pipeline.networks.unet import UNetConfig
from pipeline.roles import Batch, Bounded, DataSpec, Draw, Ends, Generative, Loss, Random, Trainable


class Config(Block):
    """variance: `small` is the posterior's, `large` is beta, `learned` lies between them by a second set of channels.

    objective: `simple` (mean squared error), `vlb` (the bound), `hybrid` (simple plus `vlb_weight` times the bound, whose
    gradient then reaches the variance alone).
    """

    schedule: Discrete
    prediction: Prediction = "eps"
    variance: Literal["small", "large", "learned"] = "small"
    objective: Literal["simple", "vlb", "hybrid"] = "simple"
    vlb_weight: Annotated[float, Field(gt=0)] = 0.001
    time_sampling: Literal["uniform", "stratified", "loss-second-moment"] = "stratified"
    network: Network = UNetConfig()
    labels: bool = False

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


class Model(Trainable, Generative, Bounded):
    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.schedule = config.schedule.build()
        channels = spec.shape[0]
        self.network = config.network.build(spec, channels * (2 if config.variance == "learned" else 1), config.labels)
        self.sampled = LossSecondMoment(self.schedule.steps) if config.time_sampling == "loss-second-moment" else None

    def players(self) -> Mapping[str, nn.Module]:
        return {"model": self}

    def loss(self, player: str, batch: Batch, step: int, rng: Random) -> Loss:
        """`simple` is per dimension; `vlb` is in bits/dim, an unbiased estimate of the bound without its prior term."""
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
            self.sampled.update(index, parts.get("vlb", parts["simple"]) / (steps if "vlb" in parts else 1))
        return Loss(weight * total, {name: weight * value for name, value in parts.items()})

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        made = self._reverse(z_t, s, t, *self._output(z_t, self.schedule.gamma(t), y), clip)
        # The last step adds no noise: its mean is x_hat.
        return Reverse(made.mean, torch.where(per_image(s, z_t) > 0, made.std, 0.0), made.x_hat, made.eps_hat)

    def ends(self, batch: Batch, rng: Random) -> Ends:
        """L_T and L_0 (eq. 5), in nats per image."""
        x = batch.x
        ones = torch.ones(len(x), dtype=torch.float64, device=x.device)
        first = ones / self.schedule.steps
        gamma = self.schedule.gamma(first)
        z = diffuse(x, gamma, rng.normal(tuple(x.shape), "reconstruction"))
        decoder = self._reverse(z, 0 * first, first, *self._output(z, gamma, batch.y), clip=1.0)
        return Ends(prior_kl(x, self.schedule.gamma(ones)), self._term(x, z, torch.zeros_like(first).long(), decoder))

    def diffusion(self, batch: Batch, uniform: Tensor, rng: Random) -> Draw:
        """One of L_1..L_{T-1} (eq. 5) over its probability, in nats per image.

        A step is drawn in proportion to (gamma_t - gamma_s) alpha_t, about what it contributes: drawn evenly, the few steps
        next to the data, which hold most of the bound, would be most of its noise.
        """
        steps, x = self.schedule.steps, batch.x
        gamma = self.schedule.table[1:]
        weights = gamma.diff() * alpha_sigma(gamma[1:])[0]
        share = weights.cumsum(0) / weights.sum()
        index = torch.searchsorted(share, uniform.double(), right=True).clamp(max=steps - 2) + 1  # z_s is level 1..T-1
        t = (index.double() + 1) / steps
        z = diffuse(x, self.schedule.gamma(t), rng.normal(tuple(x.shape), "diffusion"))
        model = self._reverse(z, index.double() / steps, t, *self._output(z, self.schedule.gamma(t), batch.y), clip=1.0)
        return Draw(self._term(x, z, index, model) * weights.sum() / weights[index - 1], t)

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
        """p(z_s | z_t) whose std, where s is the data, is the decoder's: the posterior's std one step later, which is not 0."""
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        x_hat = to_x(self.config.prediction, output, z, gamma_t)
        made = kernel(x_hat if clip is None else x_hat.clamp(-clip, clip), z, gamma_s, gamma_t)
        later = self.schedule.gamma((2 * t - s).clamp(max=1))
        small = torch.where(s > 0, posterior_std(gamma_s, gamma_t), posterior_std(gamma_t, later))
        large = transition_std(gamma_s, gamma_t)
        if self.config.variance == "small":
            std = per_image(small, z).expand_as(z)
        elif self.config.variance == "large":
            std = per_image(torch.where(s > 0, large, small), z).expand_as(z)
        else:
            assert variance is not None
            share = (variance + 1) / 2  # not squashed: the paper lets it leave [0, 1]
            std = torch.exp(share * per_image(large.log(), z) + (1 - share) * per_image(small.log(), z))
        return Reverse(made.mean, std, made.x_hat, made.eps_hat)

    def _term(self, x: Tensor, z: Tensor, index: Tensor, model: Reverse) -> Tensor:
        """L_index in nats per image, (B,): the decoder's log-likelihood where z_s is the data, a KL elsewhere."""
        assert self.spec.levels is not None, "bits/dim needs discrete data"
        steps = self.schedule.steps
        gamma_s, gamma_t = self.schedule.gamma(index.double() / steps), self.schedule.gamma((index.double() + 1) / steps)
        true = kernel(x, z, gamma_s, gamma_t)
        log_std = model.std.double().log()
        # Rows whose z_s is the data have no posterior variance; any finite value does, as their KL is not used.
        log_variance = 2 * torch.where(index > 0, posterior_std(gamma_s, gamma_t), 1.0).log()
        nats = sum_image(gaussian_kl(true.mean.double(), per_image(log_variance, x.double()), model.mean.double(), 2 * log_std))
        first = index == 0
        if bool(first.any()):  # few rows of a training batch, and dear ones
            decoder = discretised_gaussian(x[first], model.mean[first], log_std[first], 1 / self.spec.levels)
            nats = nats.index_put((first,), -sum_image(decoder))
        return nats


def build(config: Config, spec: DataSpec) -> Model:
    return Model(config, spec)
