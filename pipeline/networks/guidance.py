"""Classifier-free guidance (Ho and Salimans 2022): one network with and without the class, composed at sampling time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.core.contracts import Batch, DataSpec, Random


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
