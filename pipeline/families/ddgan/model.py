"""Denoising diffusion GAN: a few large steps, each a conditional GAN (Xiao, Kreis, Vahdat 2022).

Equations: adversarial objective 4-6 in its non-saturating form, p(z_s | z_t) as the posterior at a drawn x_hat 7, R1 penalty of
Mescheder et al. 2018 on real z_s. A large step back is multi-modal, which no Gaussian is: the generator draws x_hat from z_t
and a latent, and the discriminator sees z_s together with z_t.

What differs from the reference code: z_s at s = 0 is the data itself, without noise of 1e-4; the fakes of the discriminator are
made without gradients; R1 is computed in float32; the generator's loss may hold a squared error (`reconstruction`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from pipeline.config.family import ClassConditional, TrainingSettings
from pipeline.core.contracts import Batch, DataSpec, Generative, Loss, Random, Trainable
from pipeline.diffusion.gaussian import Reverse, diffuse, posterior, transition
from pipeline.diffusion.likelihood import mean_image
from pipeline.families.ddgan.discriminator import DiscriminatorConfig
from pipeline.families.ddgan.generator import GeneratorConfig
from pipeline.families.ddgan.schedule import VPBetaConfig

# Below these a training fails: a discriminator that tells every image (its loss is 2 ln 2 = 1.39 where it tells none), and
# x_hat that hardly differs between images.
WON, COLLAPSED = 0.01, 0.05


class Config(ClassConditional):
    """R1 is (r1_gamma / 2) |grad D|^2, added at every `r1_every`-th step.

    `r1_scale`: `published` adds it as it is, so that the effective weight is r1_gamma / r1_every, as the code behind the
    paper's numbers does and the paper does not say; `unbiased` multiplies it by r1_every, so that its mean over steps is that
    of R1 at every step (Karras et al. 2020).

    `reconstruction` is the weight of min(SNR_t, 1) |x_hat - x|^2, per dimension, in the generator's loss: 0 is the paper's.
    Where z_t shows the image it teaches the generator at once, and where z_t shows little it leaves x_hat free: for trainings
    of hundreds of steps, where the paper's have hundreds of thousands.
    """

    schedule: VPBetaConfig = VPBetaConfig(kind="vp-beta")
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    r1_gamma: Annotated[float, Field(ge=0)] = 0.05
    r1_every: Annotated[int, Field(ge=1)] = 15
    r1_scale: Literal["published", "unbiased"] = "published"
    reconstruction: Annotated[float, Field(ge=0)] = 0.0

    def check_training(self, training: TrainingSettings) -> None:
        """Raises ValueError for a batch that minibatch standard deviation can't divide into its groups."""
        group = self.discriminator.group
        if training.batch > group and training.batch % group:
            raise ValueError(
                f"training.batch is {training.batch}; allowed with model.discriminator.group: {group}, the images that "
                f"minibatch standard deviation takes together: multiples of {group}"
            )


@dataclass(frozen=True)
class Pair:
    """z_s ~ q(z_s | x) and z_t ~ q(z_t | z_s), each (B, C, H, W), with their gammas and the network's view of t, each (B,)."""

    z_s: Tensor
    z_t: Tensor
    gamma_s: Tensor
    gamma_t: Tensor
    level: Tensor


class Model(Trainable, Generative):
    optimizer_group_names: ClassVar[tuple[str, ...]] = ("discriminator", "generator")
    has_probability_flow: ClassVar[bool] = False
    samples_x: ClassVar[bool] = True

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.schedule = config.schedule.build()
        self.discriminator = config.discriminator.build(spec, config.labels)
        self.generator = config.generator.build(spec, config.labels)

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        return {"discriminator": self.discriminator, "generator": self.generator}

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        """Each group draws times, noise and latents of its own.

        discriminator: `loss`, the adversarial loss, and `r1`, the penalty that this step added to it (0 between lazy steps).
        generator: `loss`, the adversarial loss; `error`, min(SNR_t, 1) times the squared error of x_hat per dimension;
        `deviation`, how much x_hat differs between images, over how much the data does.
        """
        pair = self._pair(batch.x, group, rng)
        if group == "discriminator":
            with torch.no_grad():
                fake = self._draw(pair, batch.y, group, rng)[1]
            real_logit = self.discriminator(pair.z_s, pair.z_t, pair.level, batch.y)
            loss = softplus(-real_logit) + softplus(self.discriminator(fake, pair.z_t, pair.level, batch.y))
            penalty = self._r1(pair, batch.y) if self._lazy_step(step) else torch.zeros_like(loss)
            return Loss(loss + penalty, {"loss": loss, "r1": penalty})
        x_hat, fake = self._draw(pair, batch.y, group, rng)
        loss = softplus(-self.discriminator(fake, pair.z_t, pair.level, batch.y))
        snr = torch.exp(-pair.gamma_t).to(x_hat.dtype)
        error = snr.clamp(max=1) * mean_image((x_hat - batch.x) ** 2)
        deviation = relative_deviation(x_hat, batch.x).expand(len(loss))
        total = loss + self.config.reconstruction * error
        return Loss(total, {"loss": loss, "error": error, "deviation": deviation})

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        gamma_s, gamma_t = self.schedule.gamma(s), self.schedule.gamma(t)
        latent = rng.normal((len(z_t), self.config.generator.latent), "latent")
        x_hat = self.generator(z_t, self.schedule.input(gamma_t), latent, y)
        return posterior(x_hat if clip is None else x_hat.clamp(-clip, clip), z_t, gamma_s, gamma_t)

    def failure_symptom(self, parts: Mapping[str, float]) -> str | None:
        if parts["discriminator/loss"] < WON:
            return (
                f"the discriminator's loss is below {WON}, so it tells every generated image and teaches nothing: "
                "try a lower training.optimizer_groups.discriminator.learning_rate or a larger model.r1_gamma"
            )
        if parts["generator/deviation"] < COLLAPSED:
            return (
                f"the generator has collapsed, as its images differ by less than {COLLAPSED:.0%} of what the data's do: try a "
                "lower training.learning_rate or a larger model.r1_gamma"
            )
        return None

    def _pair(self, x: Tensor, group: str, rng: Random) -> Pair:
        """What the chain makes of x at a step drawn evenly from its T."""
        steps = self.config.schedule.steps
        index = (rng.uniform((len(x),), f"{group} time").double() * steps).floor()
        gamma_s, gamma_t = self.schedule.gamma(index / steps), self.schedule.gamma((index + 1) / steps)
        z_s = diffuse(x, gamma_s, rng.normal(tuple(x.shape), f"{group} noise"))
        z_t = transition(z_s, gamma_s, gamma_t, rng.normal(tuple(x.shape), f"{group} step"))
        return Pair(z_s, z_t, gamma_s, gamma_t, self.schedule.input(gamma_t))

    def _draw(self, pair: Pair, y: Tensor, group: str, rng: Random) -> tuple[Tensor, Tensor]:
        """x_hat of the generator, and z_s ~ q(z_s | z_t, x_hat)."""
        latent = rng.normal((len(pair.z_t), self.config.generator.latent), f"{group} latent")
        x_hat = self.generator(pair.z_t, pair.level, latent, y)
        made = posterior(x_hat, pair.z_t, pair.gamma_s, pair.gamma_t)
        return x_hat, made.mean + made.std * rng.normal(tuple(pair.z_t.shape), f"{group} posterior")

    def _lazy_step(self, step: int) -> bool:
        # A validation has no gradients to take.
        return self.config.r1_gamma > 0 and step % self.config.r1_every == 0 and torch.is_grad_enabled()

    def _r1(self, pair: Pair, y: Tensor) -> Tensor:
        """(B,): the penalty of each real z_s, by double backward."""
        z_s = pair.z_s.detach().requires_grad_()
        with torch.autocast(z_s.device.type, enabled=False):
            logits = self.discriminator(z_s, pair.z_t, pair.level, y)
            (gradient,) = torch.autograd.grad(logits.sum(), z_s, create_graph=True)
            scale = self.config.r1_every if self.config.r1_scale == "unbiased" else 1
            return scale * self.config.r1_gamma / 2 * gradient.square().flatten(1).sum(1)


def relative_deviation(x_hat: Tensor, x: Tensor) -> Tensor:
    """How much pixels differ between images of x_hat over how much they do in x, ():  1 for images alike in both, 0 for a
    generator that says the same of all. Where the images of x are all one, there is nothing to compare with, and it is 1."""
    found, wanted = ((images - images.mean(0)).square().mean().sqrt() for images in (x_hat.detach(), x))
    return torch.where(wanted > 0, found / wanted, 1.0)


def build(config: Config, spec: DataSpec) -> Model:
    return Model(config, spec)
