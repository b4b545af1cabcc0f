"""A small convolutional classifier whose penultimate layer is the metric space of the sample metrics."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.base import StrictConfig
from pipeline.core.contracts import DataSpec
from pipeline.networks.layers import group_norm


class ConvNet(nn.Module):
    """Two convolutions per width, halving in between; global average; one hidden layer of `features`."""

    def __init__(self, config: ConvNetConfig, spec: DataSpec) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = spec.shape[0]
        for width in config.widths:
            for stride in (1, 2):
                layers += [nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False), group_norm(width), nn.SiLU()]
                channels = width
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(channels, config.features)
        self.head = nn.Linear(config.features, spec.classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, features) float32, not negative."""
        h = self.body(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        return F.relu(self.hidden(self.dropout(h))).float()

    def maps(self, x: Tensor) -> list[Tensor]:
        """After each width: (B, width, H / 2^l, W / 2^l)."""
        h, found = x.contiguous(memory_format=torch.channels_last), []
        for index, layer in enumerate(self.body, start=1):
            h = layer(h)
            if index % 6 == 0:  # two convolutions, each with its norm and SiLU
                found.append(h)
        return found

    def logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features)
        return logits.float()


class ConvNetConfig(StrictConfig):
    kind: Literal["convnet"] = "convnet"
    widths: tuple[Annotated[int, Field(ge=16, multiple_of=16)], ...] = (32, 64, 128)
    features: Annotated[int, Field(ge=2)] = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2

    def build(self, spec: DataSpec) -> ConvNet:
        return ConvNet(self, spec).to(memory_format=torch.channels_last)
