"""PatchGAN: a discriminator that judges every patch of an image by itself (Isola et al. 2017; Rombach et al. 2022).

Differs from the paper's code: group norm in the place of batch norm, so that no image's verdict depends on the others of its
batch and evaluation is the same function as training; fewer and narrower layers, for small images.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.config.base import StrictConfig
from pipeline.core.contracts import DataSpec
from pipeline.networks.layers import group_norm


class PatchDiscriminator(nn.Module):
    """(B, C, H, W) -> (B, h, w) float32: one verdict per patch, above 0 for real."""

    def __init__(self, config: PatchDiscriminatorConfig, spec: DataSpec) -> None:
        super().__init__()
        channels, height, width = spec.shape
        halved = len(config.widths) - 1
        # A 4x4 convolution with padding 1 halves at stride 2 and takes one pixel at stride 1, of which there are two.
        if min(height, width) // 2**halved < 3:
            raise ValueError(
                f"discriminator.widths has {len(config.widths)} levels, which halve the image {halved} times; allowed for "
                f"images of {height}x{width}: fewer levels, as at least 3x3 must be left"
            )
        layers: list[nn.Module] = []
        for level, wide in enumerate(config.widths):
            stride = 2 if level < halved else 1
            layers.append(nn.Conv2d(channels, wide, 4, stride=stride, padding=1))
            if level:
                layers.append(group_norm(wide))
            layers.append(nn.LeakyReLU(0.2))
            channels = wide
        layers.append(nn.Conv2d(channels, 1, 4, padding=1))
        self.body = nn.Sequential(*layers)
        for layer in self.body:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        verdicts: Tensor = self.body(x.contiguous(memory_format=torch.channels_last))
        return verdicts[:, 0].float()


class PatchDiscriminatorConfig(StrictConfig):
    """`widths`: channels per level, multiples of 16; every level but the last halves the image."""

    kind: Literal["patch"] = "patch"
    widths: Annotated[tuple[Annotated[int, Field(ge=16, multiple_of=16)], ...], Field(min_length=2, max_length=5)] = (32, 64)

    def build(self, spec: DataSpec) -> PatchDiscriminator:
        return PatchDiscriminator(self, spec).to(memory_format=torch.channels_last)
