"""Classifier-free guidance (Ho and Salimans 2022): one network with and without the class, composed at sampling time."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.config.family import Guidable
from pipeline.core.contracts import Batch, DataSpec, Generative, Random, Trainable


def drop_labels(batch: Batch, share: float, spec: DataSpec, rng: Random) -> Batch:
    """About `share` of the classes become `spec.classes`, which stands for none: so one network learns both."""
    dropped = rng.uniform((len(batch.y),), "label") < share
    return replace(batch, y=batch.y.masked_fill(dropped, spec.classes))


class Guided(nn.Module):
    """A network whose first `guided` output channels are said_without + strength (said_with - said_without).

    eps, x and v predictions are affine in each other at one z and one noise level, so guiding one guides all. Strength 0 is
    the model without classes, 1 the conditional model as it is. Channels after the first (a learned variance) stay those of
    the conditional model. One doubled batch, so two evaluations per image.
    """

    def __init__(self, network: nn.Module, strength: float, guided: int, spec: DataSpec) -> None:
        super().__init__()
        self.network, self.strength, self.guided, self.none = network, strength, guided, spec.classes

    def forward(self, z: Tensor, level: Tensor, y: Tensor | None = None) -> Tensor:
        assert y is not None, "guidance needs labels"
        both = self.network(z.repeat(2, 1, 1, 1), level.repeat(2), torch.cat([y, torch.full_like(y, self.none)]))
        said_with, said_without = both.chunk(2)
        known, unknown = said_with[:, : self.guided], said_without[:, : self.guided]
        return torch.cat([unknown + self.strength * (known - unknown), said_with[:, self.guided :]], 1)


def guided(network: nn.Module, strength: float, label_dropout: float, spec: DataSpec) -> Guided:
    """`network`, which was trained with `label_dropout`, guided in the channels of its prediction.

    Raises ValueError if it never learned to do without the class.
    """
    if label_dropout == 0 and strength != 1:
        raise ValueError(
            f"guidance is {strength}; allowed for a run with label_dropout: 0, which knows no image without a class: 1 or null"
        )
    return Guided(network, strength, spec.shape[0], spec)


class GuidedModel(Trainable, Generative):
    """A generative model that is trained with and without the class, so that it can be guided.

    `guided_networks`: the attributes that hold the networks which say what is in z; each has the prediction in its first
    channels, as many as an image has.
    """

    config: Guidable
    spec: DataSpec
    guided_networks: ClassVar[tuple[str, ...]] = ("network",)

    def with_dropped_labels(self, batch: Batch, rng: Random) -> Batch:
        """What `loss` learns from: in training with labels, `batch` with `label_dropout` of its classes as none."""
        if self.training and self.config.labels:
            return drop_labels(batch, self.config.label_dropout, self.spec, rng)
        return batch

    def guide(self, strength: float) -> None:
        """Raises ValueError if the model lacks a network, or never learned to do without the class."""
        self.config.check_sampling()
        for name in self.guided_networks:
            setattr(self, name, guided(self.get_submodule(name), strength, self.config.label_dropout, self.spec))
