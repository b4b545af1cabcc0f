"""VDM: variational diffusion in continuous time (Kingma, Salimans, Poole, Ho 2021).

Equations: posterior eq. 25-29, continuous-time loss eq. 15-17 (v-form: 1/2 gamma' alpha^2 ||v - v_hat||^2), prior and
reconstruction terms section 3.3. The schedule here is log-SNR linear in time between fixed end points.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.block import Block
from pipeline.diffusion.gaussian import Reverse, alpha_sigma, diffuse, kernel, per_image
from pipeline.diffusion.likelihood import bits_per_dim, discretised_latent, prior_kl, sum_image
from pipeline.diffusion.prediction import Prediction, target, to_x
from pipeline.diffusion.schedule import Continuous
from pipeline.diffusion.times import stratified
from pipeline.networks.unet import UNetConfig
from pipeline.roles import Batch, Bounded, DataSpec, Draw, Ends, Generative, Loss, Random, Trainable


class Config(Block):
    schedule: Continuous
    prediction: Prediction = "v"
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
        """The diffusion term in bits/dim, per image: with fixed end points, the other two do not depend on the weights."""
        diffusion = self.diffusion(batch, stratified(len(batch.x), rng), rng)
        total = bits_per_dim(diffusion.nats, self.spec.dimensions).float()
        return Loss(total, {"diffusion": total})

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        x_hat = to_x(self.config.prediction, self._output(z_t, gamma_t, y), z_t, gamma_t)
        return kernel(x_hat if clip is None else x_hat.clamp(-clip, clip), z_t, gamma_s, gamma_t)

    def ends(self, batch: Batch, rng: Random) -> Ends:
        """Section 3.3, in nats per image."""
        assert self.spec.levels is not None, "bits/dim needs discrete data"
        x = batch.x
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=x.device)
        gamma_0, gamma_1 = self.schedule.gamma(ends)[:, None].expand(2, len(x))
        noise = rng.normal(tuple(x.shape), "reconstruction").double()
        z_0 = x.double() + per_image(torch.exp(0.5 * gamma_0), noise) * noise
        reconstruction = -discretised_latent(x, z_0, gamma_0, self.spec.levels)
        return Ends(prior_kl(x, gamma_1), reconstruction)

    def diffusion(self, batch: Batch, uniform: Tensor, rng: Random) -> Draw:
        """The continuous-time diffusion term (eq. 15-17), in nats per image."""
        t = uniform
        x, noise = batch.x, rng.normal(tuple(batch.x.shape), "diffusion")
        gamma, slope = self.schedule.gamma_and_slope(t)
        z = diffuse(x, gamma, noise)
        error = self._output(z, gamma, batch.y) - target(self.config.prediction, x, noise, gamma)
        alpha, _ = alpha_sigma(gamma)
        # d SNR is the weight of an error of x; errors of v and eps differ from it by sigma and sigma / alpha.
        weight = {"eps": slope, "v": slope * alpha**2, "x": slope * torch.exp(-gamma)}[self.config.prediction]
        return Draw(0.5 * weight * sum_image(error**2), t)

    def _output(self, z: Tensor, gamma: Tensor, y: Tensor | None) -> Tensor:
        return self.network(z, self.schedule.input(gamma), y)


def build(config: Config, spec: DataSpec) -> Model:
    return Model(config, spec)
