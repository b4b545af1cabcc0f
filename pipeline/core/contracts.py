"""The contracts between families and stages, nothing else. What a model can do is what roles it inherits.

Shapes: B images of C channels, H rows, W columns. Model space is [-1, 1] for pixels: code k of L levels stands at its bin's
centre, (2k + 1)/L - 1, for every family alike, so that bits/dim and samples compare.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor, nn

from pipeline.core.pixels import dequantize

if TYPE_CHECKING:
    from pipeline.config.family import FamilyConfig
    from pipeline.diffusion.gaussian import Reverse
    from pipeline.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of its data: (C, H, W), levels of a pixel (None: real-valued latents), number of classes."""

    shape: tuple[int, int, int]
    levels: int | None
    classes: int

    @property
    def dimensions(self) -> int:
        """C * H * W: what bits/dim is divided by."""
        channels, height, width = self.shape
        return channels * height * width


@dataclass(frozen=True)
class Batch:
    """x: (B, C, H, W) float32 in model space; y: (B,) int64 class labels."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Loss:
    """total: (B,), what the group minimises, per example; parts: name -> (B,), logged as group/name."""

    total: Tensor
    parts: Mapping[str, Tensor]


class Random(ABC):
    """Randomness as an argument: every draw is keyed by a seed, a step and the `purpose` given here.

    The same (seed, step, purpose) gives the same numbers whatever was drawn before, on CPU and GPU alike.
    """

    @abstractmethod
    def normal(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        """Standard normal float32 of `shape`; the first dimension is the batch."""

    @abstractmethod
    def uniform(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        """Uniform float32 in [0, 1) of `shape`; the first dimension is the batch."""


class Trainable(nn.Module, ABC):
    """Something that the one training loop can train."""

    # Names that `optimizer_groups` may have, whatever the configuration: what training.optimizer_groups may speak of.
    optimizer_group_names: ClassVar[tuple[str, ...]] = ("model",)

    @abstractmethod
    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        """Name -> what that optimizer owns, in the order of the updates."""

    @abstractmethod
    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        """What `group` minimises, per example."""

    def failure_symptom(self, parts: Mapping[str, float]) -> str | None:
        """What is wrong with a training whose last step had these parts (group/name -> mean over the batch), or None.

        One bad step is nothing; the loop ends a training that says the same for `training.patience` steps on end.
        """
        del parts
        return None


class Generative(ABC):
    """A model that goes from noise to data by steps of a noise schedule.

    `has_probability_flow`: x_hat is E[x | z_t] of a fixed x, so that solvers of the probability flow apply. `samples_x`: x_hat
    is a draw from p(x | z_t), so that only the posterior at it gives the density.
    """

    schedule: NoiseSchedule
    has_probability_flow: ClassVar[bool] = True
    samples_x: ClassVar[bool] = False

    @abstractmethod
    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        """p(z_s | z_t) for times s < t, each (B,); `clip` bounds |x_hat| before the mean is formed (None: no clipping).

        y: (B,) classes, where the number of classes stands for "none".
        """

    def guide(self, strength: float) -> None:
        """Turns on classifier-free guidance: two network evaluations per step from here on (networks/guidance.py)."""
        raise ValueError(f"guidance is {strength}; allowed for this family: null, as it has no mean to guide")


@dataclass(frozen=True)
class PriorAndReconstruction:
    """The two terms of the bound at the ends of the chain, in nats per image, each (B,)."""

    prior: Tensor
    reconstruction: Tensor


@dataclass(frozen=True)
class DiffusionTerm:
    """nats: (B,), each an unbiased estimate of the whole diffusion term per image; time: (B,) where it was evaluated."""

    nats: Tensor
    time: Tensor


class LikelihoodModel(ABC):
    """A model with a variational bound on the likelihood of discrete data: prior + reconstruction + diffusion."""

    @abstractmethod
    def prior_and_reconstruction(self, batch: Batch, rng: Random) -> PriorAndReconstruction:
        """The prior term, exact, and one draw of the reconstruction term."""

    @abstractmethod
    def diffusion_term(self, batch: Batch, uniform: Tensor, rng: Random) -> DiffusionTerm:
        """One draw of the diffusion term where `uniform`, (B,) in [0, 1), says: the model may warp it to where the term is
        large, and then weighs what it finds."""


@dataclass(frozen=True)
class Posterior:
    """One draw z_t ~ q(z_t | x) and the true q(z_s | z_t, x) = N(mean, std^2) there, each (B, C, H, W)."""

    z_t: Tensor
    mean: Tensor
    std: Tensor


class FiniteStepModel(ABC):
    """A continuous-time model that is also a chain of any number T of steps, with a bound for each T."""

    @abstractmethod
    def posterior(self, batch: Batch, s: Tensor, t: Tensor, rng: Random) -> Posterior:
        """q(z_s | z_t, x) for times s < t, each (B,), at one draw of z_t."""


class DiscreteChainModel(ABC):
    """A model with a network that goes from noise down a chain of discrete steps, and can do so within another model.

    `chain_group`: the optimizer group that trains the network. The model's configuration has `schedule`, `prediction`,
    `variance`, `network`, `labels` and `label_dropout`, which mean what they mean for DDPM.
    """

    chain_group: ClassVar[str]

    @abstractmethod
    def chain_network(self) -> nn.Module:
        """(z_t, the schedule's input at t, classes) -> the prediction, with the channels of a learned variance behind it."""


class Pretrained(nn.Module, ABC):
    """A model whose weights come from a file that the user has: nothing is trained.

    Its block is a PretrainedConfig (config/family.py). The train stage reads the file, hands its tensors over, and writes the
    model as it writes a trained one, so that whoever opens it sees no difference.
    """

    @abstractmethod
    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Takes over the tensors of the file. Raises ValueError, going on from its name, if they belong to something else."""


class FeatureExtractor(ABC):
    """A classifier whose penultimate features are a metric space.

    `distance_name`: what the Frechet distance in it is called. `knows_classes`: whether its classes are those of the data.
    `images_per_pass`: how many images it takes at a time when it measures.
    """

    distance_name: ClassVar[str] = "fd"
    knows_classes: ClassVar[bool] = True
    images_per_pass: ClassVar[int] = 250

    def features_of_codes(self, codes: Tensor, levels: int) -> Tensor:
        """(B, C, H, W) codes 0..levels - 1 -> (B, F), as images are measured."""
        return self.features(dequantize(codes, levels))

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in model space -> (B, F)."""

    @abstractmethod
    def maps(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) in model space -> feature maps of every level, each (B, C_l, H_l, W_l), for perceptual distances."""

    @abstractmethod
    def logits(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, classes)."""


class UsesPerceptualLoss(ABC):
    """A model whose loss sees images through an extractor, which the train stage hands to it and which is never trained."""

    @property
    @abstractmethod
    def perceives(self) -> bool:
        """Whether the loss of this configuration looks through the extractor at all."""

    @abstractmethod
    def perceive(self, classifier: FeatureExtractor) -> None:
        """Keeps `classifier` out of its own parameters and buffers: it is neither trained nor stored."""


class Codec(ABC):
    """A pair of maps between images and a smaller space."""

    @abstractmethod
    def encode(self, x: Tensor, rng: Random | None = None) -> Tensor:
        """(B, C, H, W) -> latent: a draw from the posterior where `rng` is given, its mean otherwise."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Latent -> (B, C, H, W)."""


@dataclass(frozen=True)
class Part:
    """A trained run as the family sees it that takes it over: its name under runs:, its family, its `model` block."""

    run: str
    family: str
    config: FamilyConfig


@dataclass(frozen=True)
class Composition:
    """What parts come to.

    model: the `model` block. origins: optimizer group -> the part that it comes from, and its group there. trained_as: the
    part whose seed, training block and precision stand for the whole.
    """

    model: Mapping[str, Any]
    origins: Mapping[str, tuple[str, str]]
    trained_as: str


class Composer(Protocol):
    """pipeline/families/<name>/compose.py of a family whose models can be put together from trained runs, named by part."""

    PARTS: tuple[str, ...]

    def compose(self, parts: Mapping[str, Part], key: str) -> Composition:
        """Raises ValueError, beginning with `key`, where parts do not fit. It is asked before anything is trained."""

    def put_together(self, model: Trainable, parts: Mapping[str, Trainable]) -> None:
        """Gives `model`, built of what `compose` said, the weights of the parts."""
