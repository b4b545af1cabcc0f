"""DiffEnc's time-dependent encoder y_phi(x, lambda) (DiffEnc, section 5 and appendix; its official code).

Two levels with 2x2 max-pooling, attention in the middle, tanh at the end, zero at initialisation. Parameter counts are the
published ones with widths 64-128: 1,903,937 at 28x28x1, and at 32x32x3 1,906,243, 2,744,131 and 4,419,907 with 1, 2 and 4
blocks per level. `patch: 2` is not in the paper: it folds 2x2 pixels into channels first, which makes a small encoder
affordable on a CPU, where the derivative by lambda costs several passes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.base import StrictConfig
from pipeline.core.contracts import DataSpec
from pipeline.networks.layers import zeroed
from pipeline.networks.variational_unet import Attention, Conditioning, ResidualBlock, lecun, norm


class Encoder(nn.Module):
    """(B, C, H, W) in [-1, 1] and the noise level (B,) in about [0, 1] -> (B, C, H, W) in (-1, 1)."""

    def __init__(self, config: EncoderConfig, spec: DataSpec) -> None:
        super().__init__()
        widths, blocks = config.widths, config.blocks
        factor = config.patch * 2 ** len(widths)
        if spec.shape[1] % factor or spec.shape[2] % factor:
            raise ValueError(
                f"encoder.widths has {len(widths)} levels after patches of {config.patch}; allowed for images of "
                f"{spec.shape[1]}x{spec.shape[2]}: sides divisible by patch times 2 for each level, here {factor}"
            )
        first, last = widths[0], widths[-1]
        channels = spec.shape[0] * config.patch**2
        self.fold, self.unfold = nn.PixelUnshuffle(config.patch), nn.PixelShuffle(config.patch)
        wide = 4 * first
        # With one block per level the middle blocks use 16 groups, as in the official code; elsewhere it is flax's 32.
        groups = min(32, first)
        middle = min(16 if blocks == 1 else 32, last)
        self.conditioning = Conditioning(first)
        self.stem = lecun(nn.Conv2d(channels, first, 3, padding=1))
        self.down = nn.ModuleList()
        before = first
        for width in widths:
            chain = [ResidualBlock(before if i == 0 else width, width, wide, config.dropout, groups) for i in range(blocks)]
            self.down.append(nn.ModuleList(chain))
            before = width
        self.middle1 = ResidualBlock(last, last, wide, config.dropout, middle)
        self.attention = Attention(last, groups)
        self.middle2 = ResidualBlock(last, last, wide, config.dropout, middle)
        self.grow, self.up = nn.ModuleList(), nn.ModuleList()
        for width in reversed(widths):
            self.grow.append(lecun_transposed(nn.ConvTranspose2d(before, width, 2, stride=2)))
            chain = [ResidualBlock(2 * width if i == 0 else width, width, wide, config.dropout, groups) for i in range(blocks)]
            self.up.append(nn.ModuleList(chain))
            before = width
        self.norm = norm(first, min(16, first))
        self.head = zeroed(nn.Conv2d(first, channels, 3, padding=1))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        conditioning = self.conditioning(level)
        h = self.stem(self.fold(x))
        skips: list[Tensor] = []
        for chain in self.down:
            assert isinstance(chain, nn.ModuleList)
            for block in chain:
                h = block(h, conditioning)
            skips.append(h)
            h = F.max_pool2d(h, 2)
        h = self.middle2(self.attention(self.middle1(h, conditioning)), conditioning)
        for grow, chain in zip(self.grow, self.up, strict=True):
            h = torch.cat([grow(h), skips.pop()], 1)
            assert isinstance(chain, nn.ModuleList)
            for block in chain:
                h = block(h, conditioning)
        return torch.tanh(self.unfold(self.head(F.silu(self.norm(h)))))


def lecun_transposed(layer: nn.ConvTranspose2d) -> nn.Module:
    """As `lecun`; the fan-in of a 2x2 stride-2 transposed convolution is its input channels times 4."""
    nn.init.trunc_normal_(
        layer.weight, std=(std := (1 / (layer.weight.shape[0] * 4)) ** 0.5 / 0.87962566), a=-2 * std, b=2 * std
    )
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class EncoderConfig(StrictConfig):
    """`blocks`: residual blocks per level, 1 for the paper's DiffEnc-*-2, 2 for -4, 4 for -8."""

    widths: Annotated[tuple[Annotated[int, Field(ge=16, multiple_of=16)], ...], Field(min_length=1, max_length=4)] = (64, 128)
    blocks: Annotated[int, Field(ge=1)] = 1
    patch: Literal[1, 2, 4] = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _groups_fit(self) -> EncoderConfig:
        for width in self.widths:
            if width > 32 and width % 32:
                raise ValueError(f"widths holds {width}; allowed: 16, or multiples of 32")
        return self

    def build(self, spec: DataSpec) -> Encoder:
        return Encoder(self, spec)
