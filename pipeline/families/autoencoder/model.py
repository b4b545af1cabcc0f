"""The codec of latent diffusion: a KL autoencoder (Rombach, Blattmann, Lorenz, Esser, Ommer 2022, first stage).

q(z | x) = N(mean(x), std(x)^2) is a draw's distribution, x_hat = decoder(z), and the prior of the KL is N(0, I). Diffusion is
then trained on latents that the stage `encode` writes: for it they are data like any other.

What differs from the paper's code. Its objective is a sum over pixels, this one is that sum divided by C*H*W: the same
optimum, with values of the size that the other families have, so reconstruction is per pixel, the KL counts in nats per
pixel, and the perceptual distance, which the paper broadcasts over pixels before it sums, has its own weight as it is. The
log variance s of the likelihood, which that code declares, and does not train by mistake, is left out: it stays 0 there, and
weights say all that it could. LPIPS rests on downloaded weights; the perceptual distance here takes the maps of the project's
own classifier and no learned weights. Validation leaves the adversarial term out of the total, as its weight comes from
gradients of a whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.base import StrictConfig
from pipeline.config.family import FamilyConfig, TrainingSettings
from pipeline.core.contracts import Batch, Codec, DataSpec, FeatureExtractor, Loss, Random, Trainable, UsesPerceptualLoss
from pipeline.diffusion.likelihood import gaussian_kl, mean_image, sum_image
from pipeline.families.autoencoder.network import AutoencoderConfig
from pipeline.families.autoencoder.patch_discriminator import PatchDiscriminatorConfig

NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
COLLAPSED_NATS = 0.01
BEATEN = 1e-3


class Perceptual(StrictConfig):
    """The distance in the eyes of the codec's `extractor`, a classifier of the same data."""

    weight: Positive = 1.0


class Discriminator(StrictConfig):
    """Takes part from optimizer step `start` on; `weight` multiplies the adaptive weight."""

    start: Annotated[int, Field(ge=0)]
    weight: Positive = 0.5
    network: PatchDiscriminatorConfig = PatchDiscriminatorConfig()


class KL(StrictConfig):
    """absolute |x - x_hat| + squared (x - x_hat)^2 + perceptual distance + kl_weight KL + adversarial term."""

    kind: Literal["kl"] = "kl"
    absolute: NotNegative = 1.0
    squared: NotNegative = 0.0
    kl_weight: NotNegative = 0.01
    perceptual: Perceptual | None = None
    discriminator: Discriminator | None = None

    @model_validator(mode="after")
    def _reconstructs(self) -> KL:
        if self.absolute == self.squared == 0:
            raise ValueError("absolute and squared are 0; allowed: at least one above 0, as nothing else holds x_hat to x")
        return self


class TwoTerm(StrictConfig):
    """||z - e(x)||^2 + reconstruction ||g(z) - x||^2, as one of the source documents has it, over C*H*W.

    That document does not say where z comes from. Here z is a draw from the encoder's Gaussian about e(x), so the first term
    is std^2 eps^2, the draw's squared noise. It makes the encoder's spread small and is not a KL: there is no prior, and
    nothing bounds the latents, whose spread the stored scale makes up for.
    """

    kind: Literal["two-term"] = "two-term"
    reconstruction: Positive = 1.0


class Config(FamilyConfig):
    network: AutoencoderConfig = AutoencoderConfig()
    objective: Annotated[KL | TwoTerm, Field(discriminator="kind")] = KL()

    @property
    def perceptual(self) -> Perceptual | None:
        return self.objective.perceptual if isinstance(self.objective, KL) else None

    @property
    def discriminator(self) -> Discriminator | None:
        return self.objective.discriminator if isinstance(self.objective, KL) else None

    def check_training(self, training: TrainingSettings) -> None:
        """Raises ValueError where the discriminator would never take part."""
        if self.discriminator is not None and self.discriminator.start > training.steps:
            raise ValueError(
                f"model.objective.discriminator.start is {self.discriminator.start}; allowed: up to training.steps, "
                f"which is {training.steps}"
            )


class Model(Trainable, Codec, UsesPerceptualLoss):
    optimizer_group_names: ClassVar[tuple[str, ...]] = ("autoencoder", "discriminator")

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.network = config.network.build(spec)
        self.discriminator = config.discriminator.network.build(spec) if config.discriminator is not None else None
        self._seen_by: tuple[FeatureExtractor, ...] = ()  # a tuple, so that its weights are not this model's

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, rows, columns) of the latent of one image."""
        return self.network.latent_shape

    @property
    def perceives(self) -> bool:
        return self.config.perceptual is not None

    def perceive(self, classifier: FeatureExtractor) -> None:
        if isinstance(classifier, nn.Module):
            classifier.eval().requires_grad_(False)
        self._seen_by = (classifier,)

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        rest = {} if self.discriminator is None else {"discriminator": self.discriminator}
        return {"autoencoder": self.network, **rest}

    def encode(self, x: Tensor, rng: Random | None = None) -> Tensor:
        mean, log_variance = self.network.encode(x)
        return mean if rng is None else _draw(mean, log_variance, rng)

    def decode(self, z: Tensor) -> Tensor:
        """(B, *latent_shape) -> (B, C, H, W), not clipped."""
        return self.network.decode(z)

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        """Per pixel; of the parts, `kl` is in nats per image, and errors and distances are unweighted."""
        if group == "discriminator":
            return self._discriminate(batch.x, step, rng)
        mean, log_variance = self.network.encode(batch.x)
        z = _draw(mean, log_variance, rng)
        x_hat = self.network.decode(z)
        error = x_hat - batch.x
        nats = sum_image(gaussian_kl(mean, log_variance, torch.zeros_like(mean), torch.zeros_like(mean)))
        parts = {"kl": nats, "absolute": mean_image(error.abs()), "squared": mean_image(error**2)}
        if isinstance(self.config.objective, TwoTerm):
            parts["noise"] = sum_image((z - mean) ** 2)
            total = parts["noise"] / self.spec.dimensions + self.config.objective.reconstruction * parts["squared"]
            return Loss(total, parts)
        weights = self.config.objective
        nll = weights.absolute * parts["absolute"] + weights.squared * parts["squared"]
        if weights.perceptual is not None:
            parts["perceptual"] = self._perceptual(batch.x, x_hat)
            nll = nll + weights.perceptual.weight * parts["perceptual"]
        total = nll + weights.kl_weight * nats / self.spec.dimensions
        if weights.discriminator is not None:
            assert self.discriminator is not None
            parts["adversarial"] = -mean_image(self.discriminator(x_hat))
            parts["adversarial_weight"] = torch.zeros_like(nll)
            if self.training and step >= weights.discriminator.start:
                last = self.network.decoder.head.weight
                adaptive = adaptive_weight(nll.mean(), parts["adversarial"].mean(), last)
                parts["adversarial_weight"] = (weights.discriminator.weight * adaptive).expand_as(nll)
                total = total + parts["adversarial_weight"] * parts["adversarial"]
        return Loss(total, parts)

    def failure_symptom(self, parts: Mapping[str, float]) -> str | None:
        """A latent that says nothing, or a discriminator that tells all images apart, which leaves nothing to learn from."""
        nats, hinge = parts["autoencoder/kl"], parts.get("discriminator/hinge")
        if nats < COLLAPSED_NATS:
            return (
                f"the latents say nothing about the images: their KL to the prior is below {COLLAPSED_NATS} nats per image; "
                "try a lower model.objective.kl_weight"
            )
        if hinge is not None and hinge < BEATEN:
            return (
                f"the discriminator tells every image from its reconstruction: its loss is below {BEATEN}; "
                "try a later model.objective.discriminator.start"
            )
        return None

    def _discriminate(self, x: Tensor, step: int, rng: Random) -> Loss:
        """The hinge loss; 0 in training before `start`, where the part `hinge` is still what it would be."""
        assert self.discriminator is not None and self.config.discriminator is not None
        with torch.no_grad():
            x_hat = self.decode(self.encode(x, rng))
        hinge = hinge_loss(self.discriminator(x), self.discriminator(x_hat))
        waits = self.training and step < self.config.discriminator.start
        return Loss(hinge * (0.0 if waits else 1.0), {"hinge": hinge})

    def _perceptual(self, x: Tensor, x_hat: Tensor) -> Tensor:
        assert self._seen_by, "perceive comes before loss where it is perceptual"
        (classifier,) = self._seen_by
        with torch.no_grad():
            true = classifier.maps(x)
        return perceptual_distance(true, classifier.maps(x_hat))


def _draw(mean: Tensor, log_variance: Tensor, rng: Random) -> Tensor:
    return mean + torch.exp(0.5 * log_variance) * rng.normal(tuple(mean.shape), "posterior")


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Verdicts per patch, each (B, h, w) -> (B,): half the mean of max(0, 1 - real) plus half that of max(0, 1 + fake)."""
    return 0.5 * (mean_image(F.relu(1 - real)) + mean_image(F.relu(1 + fake)))


def adaptive_weight(nll: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """|grad nll| / (|grad adversarial| + 1e-4) at the decoder's last weights, within [0, 1e4]; a scalar without gradient.

    Scales the adversarial term to the size of the others where both meet (Esser et al. 2021; Rombach et al. 2022).
    """
    wanted, found = (torch.autograd.grad(value, last, retain_graph=True)[0].float().norm() for value in (nll, adversarial))
    weight: Tensor = wanted / (found + 1e-4)
    return weight.clamp(0, 1e4).detach()


def perceptual_distance(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Maps of some layers, each (B, C_l, H_l, W_l) -> (B,), after LPIPS (Zhang et al. 2018) without its learned weights.

    Vectors are brought to length 1 position by position, squared differences are summed over channels and averaged over
    positions, then over layers. Within [0, 4], symmetric, and blind to the length of the vectors.
    """
    assert len(first) == len(second) > 0
    layers = [mean_image((_unit(a) - _unit(b)).square().sum(1)) for a, b in zip(first, second, strict=True)]
    return torch.stack(layers).mean(0)


def _unit(maps: Tensor) -> Tensor:
    """The 1e-10 is LPIPS's; under the root, so that the derivative at 0 is finite."""
    maps = maps.float()
    return maps * torch.rsqrt(maps.square().sum(1, keepdim=True) + 1e-10)


def build(config: Config, spec: DataSpec) -> Model:
    if spec.levels is None:
        raise ValueError("network is an autoencoder of images; allowed data: pixels, which these are not: they are latents")
    return Model(config, spec)
