"""DiffEnc: variational diffusion whose forward process encodes the image, differently at every noise level (ICLR 2024).

Equations: encoders 15-16, forward process and posterior 10-13, generative mean with the counter term 17, continuous-time loss
18-20. The network predicts the encoded image; the encoder is absent from sampling, which costs what VDM's does. What differs
from the official code: y_phi and its derivative come from one forward-mode product with one dropout mask, which is the exact
gradient of one sample; `dropout_masks: separate` draws a mask for the derivative of its own, as the published code does (which
draws a further one for y_phi outside of x_phi).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.autograd import forward_ad

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
from pipeline.diffusion.gaussian import Reverse, alpha_sigma, diffuse, per_image, posterior
from pipeline.diffusion.learned_schedule import Continuous
from pipeline.diffusion.likelihood import bits_per_dim, noisy_reconstruction, prior_kl, sum_image
from pipeline.diffusion.prediction import target, to_x
from pipeline.diffusion.schedule import ContinuousSchedule
from pipeline.diffusion.times import stratified
from pipeline.families.diffenc.encoder import EncoderConfig
from pipeline.networks.choice import Network
from pipeline.networks.guidance import GuidedModel
from pipeline.networks.unet import UNetConfig

# torch says no types of these.
_make_dual: Callable[[Tensor, Tensor], Tensor] = forward_ad.make_dual
_unpack_dual: Callable[[Tensor], tuple[Tensor, Tensor]] = forward_ad.unpack_dual


class Config(Guidable):
    """`kind: trainable` needs an `encoder`; `non-trainable` encodes by alpha^2 x and has none."""

    schedule: Continuous
    kind: Literal["trainable", "non-trainable"] = "trainable"
    encoder: EncoderConfig | None = None
    dropout_masks: Literal["shared", "separate"] = "shared"
    network: Network = UNetConfig()

    @model_validator(mode="after")
    def _encoder_where_needed(self) -> Config:
        if self.kind == "trainable" and self.encoder is None:
            raise ValueError(
                "encoder is missing; allowed with kind: trainable is a block such as {widths: [64, 128], blocks: 1}"
            )
        if self.kind == "non-trainable" and self.encoder is not None:
            raise ValueError("encoder is given; allowed with kind: non-trainable, which has no network: none")
        return self

    def check_data(self, discrete: bool) -> None:
        if not discrete and self.schedule.build().learned:
            raise ValueError(
                f"schedule.kind is {self.schedule.kind!r}; allowed for latents, which have no levels to bound: a schedule that "
                "is not learned"
            )


@dataclass(frozen=True)
class Encoded:
    """x: x_phi(lambda); y: y_phi; y_slope: d y_phi / d lambda; each (B, C, H, W). Without a network y is 0."""

    x: Tensor
    y: Tensor
    y_slope: Tensor


class Model(GuidedModel, LikelihoodModel, FiniteStepModel):
    # What is noised moves with the noise level, so the flow has a further term that solvers do not know.
    has_probability_flow: ClassVar[bool] = False
    config: Config
    schedule: ContinuousSchedule

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.schedule = config.schedule.build()
        self.network = config.network.build(spec, spec.shape[0], config.labels)
        self.encoder = None if config.encoder is None else config.encoder.build(spec)

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        return {"model": self}

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        """In bits/dim: diffusion and prior terms, and the reconstruction term where the end points are learned.

        With fixed end points the reconstruction depends on the encoder through sigma_0^2, about 1e-6, only.
        """
        batch = self.with_dropped_labels(batch, rng)
        nats = {"diffusion": self.diffusion_term(batch, stratified(len(batch.x), rng), rng).nats}
        if self.schedule.learned:
            ends = self.prior_and_reconstruction(batch, rng)
            nats |= {"prior": ends.prior, "reconstruction": ends.reconstruction}
        else:
            _, gamma_1 = self.schedule.ends(len(batch.x), batch.x.device)
            nats["prior"] = prior_kl(self._encode(batch.x, gamma_1), gamma_1)
        parts = {name: bits_per_dim(value, self.spec.dimensions).float() for name, value in nats.items()}
        self.schedule.minimise_variance(parts["diffusion"])
        return Loss(torch.stack(list(parts.values())).sum(0), parts)

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        """Eq. 17: the posterior mean at x_hat, plus the counter term alpha_s Delta sigma_t^2 x_hat."""
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        x_hat = to_x("v", self._output(z_t, gamma_t, y), z_t, gamma_t)
        made = posterior(x_hat if clip is None else x_hat.clamp(-clip, clip), z_t, gamma_s, gamma_t)
        alpha_s, _ = alpha_sigma(gamma_s)
        _, sigma_t = alpha_sigma(gamma_t)
        drift = per_image(alpha_s * (gamma_t - gamma_s) * sigma_t**2, z_t) * made.x_hat
        return Reverse(made.mean + drift, made.std, made.x_hat, made.eps_hat, drift)

    def posterior(self, batch: Batch, s: Tensor, t: Tensor, rng: Random) -> Posterior:
        """Eq. 10 and 13."""
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        at_s, at_t = self._encode(batch.x, gamma_s), self._encode(batch.x, gamma_t)
        z = diffuse(at_t, gamma_t, rng.normal(tuple(batch.x.shape), "diffusion"))
        true = posterior(at_t, z, gamma_s, gamma_t)
        alpha_s, _ = alpha_sigma(gamma_s)
        return Posterior(z, true.mean + per_image(alpha_s, z) * (at_s - at_t), true.std)

    def prior_and_reconstruction(self, batch: Batch, rng: Random) -> PriorAndReconstruction:
        """Prior and reconstruction terms of the encoded image; the decoder names the codes of the image itself."""
        assert self.spec.levels is not None, "bits/dim needs discrete data"
        x = batch.x
        gamma_0, gamma_1 = self.schedule.ends(len(x), x.device)
        noise = rng.normal(tuple(x.shape), "reconstruction")
        reconstruction = noisy_reconstruction(x, self._encode(x, gamma_0), noise, gamma_0, self.spec.levels)
        return PriorAndReconstruction(prior_kl(self._encode(x, gamma_1), gamma_1), reconstruction)

    def diffusion_term(self, batch: Batch, uniform: Tensor, rng: Random) -> DiffusionTerm:
        """Eq. 19, and eq. 20 as its case without y, in nats per image.

        x_hat - x_phi = sigma (v - v_hat) makes the bracket (1 + sigma^2)(v - v_hat) + sigma (y - dy/dlambda).
        """
        noise = rng.normal(tuple(batch.x.shape), "diffusion")
        gamma, slope = self.schedule.gamma_and_slope(uniform)
        encoded = self.encode(batch.x, gamma)
        z = diffuse(encoded.x, gamma, noise)
        alpha, sigma = alpha_sigma(gamma)
        error = target("v", encoded.x, noise, gamma) - self._output(z, gamma, batch.y)
        residual = per_image(1 + sigma**2, z) * error + per_image(sigma, z) * (encoded.y - encoded.y_slope)
        return DiffusionTerm(0.5 * slope * alpha**2 * sum_image(residual**2), uniform)

    def encode(self, x: Tensor, gamma: Tensor) -> Encoded:
        """x_phi, y_phi and d y_phi / d lambda at gamma = -lambda, (B,), by one forward-mode product."""
        if self.encoder is None:
            zero = torch.zeros_like(x)
            return Encoded(self._mix(x, zero, gamma), zero, zero)
        encoder = self.encoder

        def at(gamma: Tensor) -> Tensor:
            y: Tensor = encoder(x, self.schedule.input(gamma))
            return y

        # In float32 whatever surrounds it: a derivative through sines of 1000 gamma needs the digits, and autocast casts a
        # tensor without its tangent. Out of inference mode, which drops tangents; gradients stay on or off as they were.
        recording = torch.is_grad_enabled()
        with (
            torch.autocast(x.device.type, enabled=False),
            torch.inference_mode(False),
            torch.set_grad_enabled(recording),
            forward_ad.dual_level(),
        ):
            y, y_slope = _unpack_dual(at(_make_dual(gamma.clone(), -torch.ones_like(gamma))))
        if self.config.dropout_masks == "separate" and self.training:
            y = at(gamma)
        return Encoded(self._mix(x, y, gamma), y, y_slope)

    def _encode(self, x: Tensor, gamma: Tensor) -> Tensor:
        """x_phi alone."""
        y = torch.zeros_like(x) if self.encoder is None else self.encoder(x, self.schedule.input(gamma))
        return self._mix(x, y, gamma)

    def _mix(self, x: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
        """Eq. 15: alpha^2 x + sigma^2 y, the convex combination that keeps x_phi within [-1, 1]."""
        return per_image(torch.sigmoid(-gamma), x) * x + per_image(torch.sigmoid(gamma), x) * y

    def _output(self, z: Tensor, gamma: Tensor, y: Tensor | None) -> Tensor:
        output: Tensor = self.network(z, self.schedule.input(gamma), y)
        return output


def build(config: Config, spec: DataSpec) -> Model:
    return Model(config, spec)
