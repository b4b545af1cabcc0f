"""DAED: a denoising auto-encoder with a diffusion model above it (Deja, Kuzina, Trzcinski, Tomczak 2022, section 4).

Two networks without a common parameter: the `denoiser` goes from level 1 to the data, the `generator` from noise to level 1.
The bound is DDPM's (l_DAE and l_D of eq. 13, with the logarithm of the ratio) with the first network in L_0 and the second in
L_1 .. L_T-1. What differs from the paper's code: L_0 is the likelihood of the discretised Gaussian with variance beta_1
everywhere, which the code has for measuring only; it trains on the plain squared error of x_hat, which is the same up to a
constant factor and the pixels' bins, as the variance is one number. A chain in fewer steps ends at level 1 before the last
step, while the paper's composed sampler tells the generator "level 0" there. No Laplacian loss, no noise marginalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import model_validator
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
from pipeline.diffusion.gaussian import Reverse, alpha_sigma, diffuse, per_image
from pipeline.diffusion.likelihood import bits_per_dim, mean_image, prior_kl
from pipeline.diffusion.prediction import Prediction, target, to_x
from pipeline.diffusion.times import stratified
from pipeline.families.daed.schedule import Split, TimeSampling, TwoPartSchedule, step_probabilities
from pipeline.networks.choice import Network
from pipeline.networks.guidance import GuidedModel
from pipeline.networks.unet import UNetConfig


class Config(Guidable):
    """parts: what is trained; a denoiser or a generator alone needs its other half (`composed:`) before it can sample.

    time_sampling: how often each step is drawn (`schedule.py`); `importance_weights` make the expected loss that of
    even steps, so that the choice moves its variance and how often the denoiser is trained, not its optimum.
    objective: `simple` (mean squared error) or `vlb` (the bound). variance: the generator's, as in DDPM.
    network, prediction: of both, or of the generator where denoiser_network, denoiser_prediction are given.
    denoiser_level: the noise level that the denoiser's network is told (null: what the schedule says of level 1).
    """

    schedule: Split
    parts: Literal["both", "denoiser", "generator"] = "both"
    prediction: Prediction = "eps"
    denoiser_prediction: Prediction | None = None
    variance: discrete.Variance = "small"
    objective: Literal["simple", "vlb"] = "simple"
    time_sampling: TimeSampling = "code"
    importance_weights: bool = True
    network: Network = UNetConfig()
    denoiser_network: Network | None = None
    denoiser_level: float | None = None

    @model_validator(mode="after")
    def _variance_is_trained(self) -> Config:
        if self.variance == "learned" and self.objective == "simple":
            raise ValueError(
                "variance is 'learned'; allowed with objective: simple, which trains no variance: 'small' or 'large'"
            )
        return self

    @model_validator(mode="after")
    def _no_settings_of_nobody(self) -> Config:
        if self.parts == "generator":
            for name in ("denoiser_prediction", "denoiser_network", "denoiser_level"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is given; allowed with parts: generator, which has no denoiser: null")
        return self

    def check_data(self, discrete: bool) -> None:
        if not discrete and self.objective != "simple":
            raise ValueError(
                f"objective is {self.objective!r}; allowed for latents, which have no levels to be likely: 'simple'"
            )

    def check_sampling(self) -> None:
        """Raises ValueError where a half is missing."""
        if self.parts != "both":
            raise ValueError(
                f"trains a {self.parts} alone; combine it with a {'generator' if self.parts == 'denoiser' else 'denoiser'} "
                "under composed:"
            )


class Model(GuidedModel, LikelihoodModel, DiscreteChainModel):
    optimizer_group_names: ClassVar[tuple[str, ...]] = ("denoiser", "generator")
    guided_networks: ClassVar[tuple[str, ...]] = ("denoiser", "generator")
    chain_group: ClassVar[str] = "generator"
    config: Config
    schedule: TwoPartSchedule

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.schedule = config.schedule.build()
        channels = spec.shape[0]
        if config.parts != "generator":
            self.denoiser = (config.denoiser_network or config.network).build(spec, channels, config.labels)
        if config.parts != "denoiser":
            outputs = channels * (2 if config.variance == "learned" else 1)
            self.generator = config.network.build(spec, outputs, config.labels)

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        return {name: getattr(self, name) for name in self.optimizer_group_names if self.config.parts in ("both", name)}

    def chain_network(self) -> nn.Module:
        """The generator, which ends at level 1. A denoiser alone has none."""
        assert self.config.parts != "denoiser"
        return self.generator

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        """Zero in the rows whose step is the other group's, so that both optimizer_groups' batch means add up to the objective.

        `simple` is per dimension, a mean over the steps that are trained; `vlb` is in bits/dim, their sum: where both
        optimizer_groups are trained, an unbiased estimate of the bound without its prior term.
        """
        batch = self.with_dropped_labels(batch, rng)
        index, weight = self._draw(len(batch.x), rng)
        noise = rng.normal(tuple(batch.x.shape), "noise")
        own = (index == 0) if group == "denoiser" else (index > 0)
        # A batch without a row of this group still has a gradient, of zeros.
        nothing = 0.0 * torch.stack([parameter.sum() for parameter in self.optimizer_groups()[group].parameters()]).sum()
        names: set[str] = {"simple", self.config.objective}
        rows = {name: nothing + torch.zeros_like(weight) for name in sorted(names)}
        if bool(own.any()):
            found = self._losses(group, Batch(batch.x[own], batch.y[own]), index[own], noise[own])
            rows = {name: zeros.index_put((own,), weight[own] * found[name].double()) for name, zeros in rows.items()}
        return Loss(rows[self.config.objective], rows)

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        """By the denoiser in rows at level 1, t = 1/T, and by the generator in all others."""
        made = self._reverse(z_t, s, t, *self._x_hat(z_t, t, y), clip)
        # The last step adds no noise: its mean is x_hat.
        return Reverse(made.mean, torch.where(per_image(s, z_t) > 0, made.std, 0.0), made.x_hat, made.eps_hat)

    def prior_and_reconstruction(self, batch: Batch, rng: Random) -> PriorAndReconstruction:
        """L_T and L_0, in nats per image; L_0 by the denoiser, as a discretised Gaussian of variance beta_1."""
        x = batch.x
        ones = torch.ones(len(x), dtype=torch.float64, device=x.device)
        first = ones / self.schedule.steps
        z = diffuse(x, self.schedule.gamma(first), rng.normal(tuple(x.shape), "reconstruction"))
        decoder = self._reverse(z, 0 * first, first, *self._x_hat(z, first, batch.y), clip=1.0)
        index = torch.zeros_like(first).long()
        reconstruction = discrete.bound_term(self.schedule, self.spec.levels, x, z, index, decoder)
        return PriorAndReconstruction(prior_kl(x, self.schedule.gamma(ones)), reconstruction)

    def diffusion_term(self, batch: Batch, uniform: Tensor, rng: Random) -> DiffusionTerm:
        """One of the generator's terms L_1..L_{T-1} over its probability, in nats per image."""
        x = batch.x
        index, weight, weights = discrete.draw_term(self.schedule, uniform)
        s, t = index.double() / self.schedule.steps, (index.double() + 1) / self.schedule.steps
        z = diffuse(x, self.schedule.gamma(t), rng.normal(tuple(x.shape), "diffusion"))
        model = self._reverse(z, s, t, *self._x_hat(z, t, batch.y), clip=1.0)
        return DiffusionTerm(discrete.bound_term(self.schedule, self.spec.levels, x, z, index, model) * weights / weight, t)

    def _draw(self, count: int, rng: Random) -> tuple[Tensor, Tensor]:
        """Steps and the weights of their losses, each (B,): the same for both optimizer_groups."""
        trained = {"both": slice(None), "denoiser": slice(0, 1), "generator": slice(1, None)}[self.config.parts]
        p = step_probabilities(self.config.time_sampling, self.schedule)[trained]
        p = p / p.sum()
        position = torch.searchsorted(p.cumsum(0), stratified(count, rng), right=True)
        position = position.clamp(max=len(p) - 1)  # the sum may end one rounding below 1
        weight = 1 / (len(p) * p[position]) if self.config.importance_weights else torch.ones_like(p[position])
        return position + (trained.start or 0), weight

    def _losses(self, group: str, batch: Batch, index: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Unweighted, at steps that are all the group's: name -> (B,)."""
        x, steps = batch.x, self.schedule.steps
        s, t = index.double() / steps, (index.double() + 1) / steps
        gamma = self.schedule.gamma(t)
        z = diffuse(x, gamma, noise)
        output, channels = self._output(group, z, gamma, batch.y)
        prediction = self._prediction(group)
        losses = {"simple": mean_image((output - target(prediction, x, noise, gamma)) ** 2)}
        if self.config.objective == "vlb":
            made = self._reverse(z, s, t, to_x(prediction, output, z, gamma), channels, clip=None)
            nats = discrete.bound_term(self.schedule, self.spec.levels, x, z, index, made)
            trained = {"both": steps, "denoiser": 1, "generator": steps - 1}[self.config.parts]
            losses["vlb"] = trained * bits_per_dim(nats, self.spec.dimensions)
        return losses

    def _prediction(self, group: str) -> Prediction:
        return (group == "denoiser" and self.config.denoiser_prediction) or self.config.prediction

    def _output(self, group: str, z: Tensor, gamma: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the group's network says in its own prediction, and the channels of the learned variance.

        Those of the denoiser are zeros, which nobody reads: its variance is beta_1.
        """
        learned, level = self.config.variance == "learned", self.schedule.input(gamma)
        if group == "denoiser":
            told = self.config.denoiser_level
            output = self.denoiser(z, level if told is None else torch.full_like(level, told), y)
            return output, torch.zeros_like(output) if learned else None
        output = self.generator(z, level, y)
        if not learned:
            return output, None
        prediction, channels = output.chunk(2, 1)
        return prediction, channels

    def _x_hat(self, z: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x_hat of each row by the network of its level, and the channels of the learned variance; rows may be mixed."""
        self.config.check_sampling()
        gamma, last = self.schedule.gamma(t), (t * self.schedule.steps).round() == 1
        x_hat, learned = torch.zeros_like(z), None
        if self.config.variance == "learned":
            learned = torch.zeros_like(z)
        for group, own in (("denoiser", last), ("generator", ~last)):
            if bool(own.any()):
                output, channels = self._output(group, z[own], gamma[own], None if y is None else y[own])
                x_hat[own] = to_x(self._prediction(group), output, z[own], gamma[own])
                if learned is not None and channels is not None:
                    learned[own] = channels
        return x_hat, learned

    def _reverse(self, z: Tensor, s: Tensor, t: Tensor, x_hat: Tensor, channels: Tensor | None, clip: float | None) -> Reverse:
        """DDPM's p(z_s | z_t), whose std is sqrt(beta_1) where the data are reached from level 1."""
        made = discrete.reverse(self.schedule, self.config.variance, x_hat, channels, z, s, t, clip)
        decoder = alpha_sigma(self.schedule.gamma(t))[1]
        return replace(made, std=torch.where(per_image(s, z) > 0, made.std, per_image(decoder, z)))


def build(config: Config, spec: DataSpec) -> Model:
    return Model(config, spec)
