"""A convolutional encoder and decoder between images and a smaller grid of latents (Rombach et al. 2022, first stage).

Residual blocks, convolutions of stride 2 down, nearest neighbour and a convolution up, a mirrored decoder. Differs from the
paper's code: no attention, no separate 1x1 convolutions about the latent (the 3x3 ones beside them do their work), the same
number of blocks up as down, 16 channels per group, and as small as images of 28x28 allow.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.base import StrictConfig
from pipeline.core.contracts import DataSpec
from pipeline.networks.layers import group_norm, zeroed

# What the paper's code clamps the log variance to: far beyond what is of use, and finite.
LOG_VARIANCE = (-30.0, 20.0)


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, conv (zero at first), plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        inner: Tensor = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(h))))))
        return h + inner


class Encoder(nn.Module):
    """(B, C, H, W) -> (B, 2 * latent channels, H / f, W / f): mean and log variance, as they come."""

    def __init__(self, config: AutoencoderConfig, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, config.widths[0], 3, padding=1)]
        before = config.widths[0]
        for level, width in enumerate(config.widths):
            if level:
                layers.append(nn.Conv2d(before, width, 3, stride=2, padding=1))
            layers += [ResidualBlock(width) for _ in range(config.blocks)]
            before = width
        self.body = nn.Sequential(*layers)
        self.norm = group_norm(before)
        self.head = nn.Conv2d(before, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        moments: Tensor = self.head(F.silu(self.norm(self.body(x))))
        return moments


class Decoder(nn.Module):
    """(B, latent channels, h, w) -> (B, C, h * f, w * f), not bounded. `head` is its last layer."""

    def __init__(self, config: AutoencoderConfig, channels: int) -> None:
        super().__init__()
        widths = config.widths[::-1]
        layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)]
        for level, width in enumerate(widths):
            if level:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[level - 1], width, 3, padding=1)]
            layers += [ResidualBlock(width) for _ in range(config.blocks)]
        self.body = nn.Sequential(*layers)
        self.norm = group_norm(widths[-1])
        self.head = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x_hat: Tensor = self.head(F.silu(self.norm(self.body(z))))
        return x_hat


class Autoencoder(nn.Module):
    """`encode`: images -> moments of a Gaussian over latents; `decode`: latents -> images. All float32 at the edges."""

    def __init__(self, config: AutoencoderConfig, spec: DataSpec) -> None:
        super().__init__()
        channels, height, width = spec.shape
        factor = config.factor
        if height % factor or width % factor:
            raise ValueError(
                f"network.widths has {len(config.widths)} levels, which halve the image {len(config.widths) - 1} times; "
                f"allowed for images of {height}x{width}: fewer levels"
            )
        self.latent_shape = (config.latent_channels, height // factor, width // factor)
        self.encoder, self.decoder = Encoder(config, channels), Decoder(config, channels)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> mean and log variance, each (B, *latent_shape); the latter within LOG_VARIANCE."""
        moments = self.encoder(x.contiguous(memory_format=torch.channels_last)).float()
        mean, log_variance = moments.chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def decode(self, z: Tensor) -> Tensor:
        """(B, *latent_shape) -> (B, C, H, W)."""
        x_hat: Tensor = self.decoder(z.contiguous(memory_format=torch.channels_last))
        return x_hat.float()


class AutoencoderConfig(StrictConfig):
    """`widths`: channels per level, multiples of 16; each level after the first halves the image, so f = 2^(levels - 1)."""

    kind: Literal["autoencoder"] = "autoencoder"
    widths: Annotated[tuple[Annotated[int, Field(ge=16, multiple_of=16)], ...], Field(min_length=2, max_length=6)] = (
        16,
        32,
        64,
    )
    blocks: Annotated[int, Field(ge=1)] = 1
    latent_channels: Annotated[int, Field(ge=1)] = 4

    @property
    def factor(self) -> int:
        """f: pixels along a side of one latent."""
        return int(2 ** (len(self.widths) - 1))

    def build(self, spec: DataSpec) -> Autoencoder:
        return Autoencoder(self, spec).to(memory_format=torch.channels_last)
