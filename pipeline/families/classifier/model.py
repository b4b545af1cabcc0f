"""A classifier, trained by the same loop as the models: no downloaded weights are needed to measure samples.

Its penultimate features are the metric space of FD, KID, precision and recall here. Distances in it compare models of this
project with each other, on one data set and one set of its weights; they are not FID and compare with nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.family import FamilyConfig
from pipeline.core.contracts import Batch, DataSpec, FeatureExtractor, Loss, Random, Trainable
from pipeline.families.classifier.convnet import ConvNetConfig


class Config(FamilyConfig):
    """`shift`: training images move by up to so many pixels, which makes up for a small training set."""

    network: ConvNetConfig = ConvNetConfig()
    shift: int = 2
    flip: bool = True


class Model(Trainable, FeatureExtractor):
    optimizer_group_names: ClassVar[tuple[str, ...]] = ("classifier",)

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__()
        self.config = config
        self.network = config.network.build(spec)

    def optimizer_groups(self) -> Mapping[str, nn.Module]:
        return {"classifier": self.network}

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        """Cross entropy in nats and the share of errors, per image."""
        x = self._augment(batch.x, rng) if self.training else batch.x
        logits = self.logits(self.features(x))
        cross_entropy = F.cross_entropy(logits, batch.y, reduction="none")
        return Loss(cross_entropy, {"cross_entropy": cross_entropy, "error": (logits.argmax(1) != batch.y).float()})

    def features(self, x: Tensor) -> Tensor:
        return self.network.features(x)

    def maps(self, x: Tensor) -> list[Tensor]:
        return self.network.maps(x)

    def logits(self, features: Tensor) -> Tensor:
        return self.network.logits(features)

    def _augment(self, x: Tensor, rng: Random) -> Tensor:
        """One shift for the batch, a flip for each image: cheap, and enough over hundreds of batches."""
        if self.config.shift:
            span = 2 * self.config.shift + 1
            down, right = ((rng.uniform((2,), "shift") * span).long() - self.config.shift).tolist()
            padded = F.pad(x, [self.config.shift] * 4, value=-1.0)
            top, left = self.config.shift + down, self.config.shift + right
            x = padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        if self.config.flip:
            mirrored = rng.uniform((len(x),), "flip") < 0.5
            x = x.where(~mirrored[:, None, None, None], x.flip(3))
        return x


def build(config: Config, spec: DataSpec) -> Model:
    return Model(config, spec)
