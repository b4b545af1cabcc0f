"""A U-Net for small images, fast on a CPU and on a GPU.

One residual block per level down and up, FiLM on the noise level, no attention: about 1.1M parameters at widths 32-64-96.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.base import StrictConfig
from pipeline.core.contracts import DataSpec
from pipeline.networks.layers import Sinusoid, fourier_features, group_norm, zeroed


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, norm with FiLM, SiLU, dropout, conv (zero at first), plus the input."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels_in), group_norm(channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.film = zeroed(nn.Linear(embedding, 2 * channels_out))
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        inner = self.conv1(F.silu(self.norm1(h)))
        inner = F.silu(self.norm2(inner) * (1 + scale) + shift)
        out: Tensor = self.skip(h) + self.conv2(self.dropout(inner))
        return out


class UNet(nn.Module):
    """(B, C, H, W) and the noise level (B,) in about [0, 1] -> (B, outputs, H, W) float32; zero at initialisation."""

    def __init__(self, config: UNetConfig, spec: DataSpec, outputs: int, labels: bool) -> None:
        super().__init__()
        channels = spec.shape[0]
        widths = config.widths
        factor = 2 ** (len(widths) - 1)
        if spec.shape[1] % factor or spec.shape[2] % factor:
            raise ValueError(
                f"network.widths has {len(widths)} levels, which halve the image {len(widths) - 1} times; allowed for images "
                f"of {spec.shape[1]}x{spec.shape[2]}: fewer levels"
            )
        self.octaves = config.fourier
        self.time = nn.Sequential(
            Sinusoid(config.embedding), nn.Linear(config.embedding, 2 * config.embedding), nn.SiLU(),
            nn.Linear(2 * config.embedding, 2 * config.embedding), nn.SiLU(),
        )  # fmt: skip
        self.labels = nn.Embedding(spec.classes + 1, 2 * config.embedding) if labels else None
        wide = 2 * config.embedding
        self.stem = nn.Conv2d(channels * (1 + 2 * len(self.octaves)), widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        for level, width in enumerate(widths):
            before = widths[max(level - 1, 0)]
            self.shrink.append(nn.Conv2d(before, width, 3, stride=2, padding=1) if level else nn.Identity())
            self.down.append(nn.ModuleList([ResidualBlock(width, width, wide, config.dropout) for _ in range(config.blocks)]))
        self.middle = ResidualBlock(widths[-1], widths[-1], wide, config.dropout)
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            below = widths[min(level + 1, len(widths) - 1)]
            self.up.append(
                nn.ModuleList(
                    [
                        ResidualBlock((below if i == 0 else width) + width, width, wide, config.dropout)
                        for i in range(config.blocks)
                    ]
                )
            )
        self.norm = group_norm(widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], outputs, 3, padding=1))

    def forward(self, z: Tensor, level: Tensor, y: Tensor | None = None) -> Tensor:
        embedding = self.time(level)
        if self.labels is not None:
            assert y is not None, "a network with labels needs them"
            embedding = embedding + self.labels(y)
        h = torch.cat([z, fourier_features(z, self.octaves)], 1) if self.octaves else z
        h = self.stem(h.contiguous(memory_format=torch.channels_last))
        skips: list[Tensor] = []
        for shrink, blocks in zip(self.shrink, self.down, strict=True):
            h = shrink(h)
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                h = block(h, embedding)
                skips.append(h)
        h = self.middle(h, embedding)
        for position, blocks in enumerate(self.up):
            if position:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                h = block(torch.cat([h, skips.pop()], 1), embedding)
        output: Tensor = self.head(F.silu(self.norm(h)))
        return output.float()


class UNetConfig(StrictConfig):
    """`widths`: channels per level, multiples of 16; `fourier`: octaves k of the input features sin and cos of 2^k 2 pi z."""

    kind: Literal["unet"] = "unet"
    widths: Annotated[tuple[Annotated[int, Field(ge=16, multiple_of=16)], ...], Field(min_length=1, max_length=6)] = (
        32,
        64,
        96,
    )
    blocks: Annotated[int, Field(ge=1)] = 1
    embedding: Annotated[int, Field(ge=4, multiple_of=2)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    fourier: tuple[Annotated[int, Field(ge=0, le=8)], ...] = ()

    @model_validator(mode="after")
    def _octaves_differ(self) -> UNetConfig:
        if len(set(self.fourier)) != len(self.fourier):
            raise ValueError(f"fourier is {list(self.fourier)}; allowed: each octave once")
        return self

    def build(self, spec: DataSpec, outputs: int, labels: bool) -> nn.Module:
        return UNet(self, spec, outputs, labels).to(memory_format=torch.channels_last)
