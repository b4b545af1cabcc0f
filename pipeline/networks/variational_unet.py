"""VDM's network: no down- or up-sampling, one width throughout (Kingma et al. 2021, appendix B; DiffEnc uses the same).

Parameter counts are the published ones: 8,891,393 at 28x28x1 and 8,905,219 at 32x32x3 with 8 blocks of 128 channels,
30,578,179 at 32x32x3 with 32. Initialisation and group-norm epsilon follow flax, in which the originals are written.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.base import StrictConfig
from pipeline.core.contracts import DataSpec
from pipeline.networks.layers import Layer, Sinusoid, fourier_features, zeroed


def lecun(layer: Layer) -> Layer:
    """Weights from a truncated normal of variance 1 / fan-in, bias zero: flax's default."""
    fan_in = layer.weight[0].numel()
    # Truncation at two standard deviations shrinks the standard deviation by 0.8796.
    nn.init.trunc_normal_(layer.weight, std=(std := math.sqrt(1 / fan_in) / 0.87962566), a=-2 * std, b=2 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """At least two channels per group: alone in its group, a channel would lose all that the conditioning adds to it."""
    return nn.GroupNorm(min(groups, channels // 2), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """norm, swish, conv, plus the conditioning (added), norm, swish, dropout, conv (zero at first), plus the input."""

    def __init__(self, channels_in: int, channels_out: int, conditioning: int, dropout: float, groups: int = 32) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(channels_in, groups), norm(channels_out, groups)
        self.conv1 = lecun(nn.Conv2d(channels_in, channels_out, 3, padding=1))
        self.condition = zeroed(nn.Linear(conditioning, channels_out, bias=False))
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = lecun(nn.Conv2d(channels_in, channels_out, 1)) if channels_in != channels_out else nn.Identity()

    def forward(self, h: Tensor, conditioning: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(h))) + self.condition(conditioning)[:, :, None, None]
        out: Tensor = self.skip(h) + self.conv2(self.dropout(F.silu(self.norm2(inner))))
        return out


class Attention(nn.Module):
    """One head over all positions.

    The softmax is written out: fused attention has no forward-mode derivative, and a backward pass through the forward-mode
    derivative of torch.softmax stops at a tensor that was changed in place.
    """

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.norm = norm(channels, groups)
        self.query, self.key, self.value = (lecun(nn.Linear(channels, channels)) for _ in range(3))
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        batch, channels, height, width = h.shape
        tokens = self.norm(h).flatten(2).transpose(1, 2)
        logits = self.query(tokens) @ self.key(tokens).transpose(1, 2) / math.sqrt(channels)
        raised = torch.exp(logits - logits.detach().amax(-1, keepdim=True))
        mixed: Tensor = self.out(raised / raised.sum(-1, keepdim=True) @ self.value(tokens))
        return h + mixed.transpose(1, 2).reshape(batch, channels, height, width)


class Conditioning(nn.Module):
    """Noise level (B,) in about [0, 1] -> (B, 4 width): sinusoid, a constant zero (the original's unused flag), two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sinusoid = Sinusoid(width)
        self.dense1, self.dense2 = lecun(nn.Linear(width + 1, 4 * width)), lecun(nn.Linear(4 * width, 4 * width))

    def forward(self, level: Tensor) -> Tensor:
        embedded = F.pad(self.sinusoid(level), (0, 1))
        return F.silu(self.dense2(F.silu(self.dense1(embedded))))


class VariationalUNet(nn.Module):
    """(B, C, H, W) and the noise level (B,) -> (B, outputs, H, W) float32; equals the input at initialisation."""

    def __init__(self, config: VariationalUNetConfig, spec: DataSpec, outputs: int, labels: bool) -> None:
        super().__init__()
        channels, width = spec.shape[0], config.width
        self.octaves = config.fourier
        self.conditioning = Conditioning(width)
        self.labels = nn.Embedding(spec.classes + 1, 4 * width) if labels else None
        self.stem = lecun(nn.Conv2d(channels * (1 + 2 * len(self.octaves)), width, 3, padding=1))
        self.down = nn.ModuleList([ResidualBlock(width, width, 4 * width, config.dropout) for _ in range(config.blocks)])
        self.middle1 = ResidualBlock(width, width, 4 * width, config.dropout)
        self.attention = Attention(width)
        self.middle2 = ResidualBlock(width, width, 4 * width, config.dropout)
        self.up = nn.ModuleList([ResidualBlock(2 * width, width, 4 * width, config.dropout) for _ in range(config.blocks + 1)])
        self.norm = norm(width)
        self.head = zeroed(nn.Conv2d(width, outputs, 3, padding=1))

    def forward(self, z: Tensor, level: Tensor, y: Tensor | None = None) -> Tensor:
        conditioning = self.conditioning(level)
        if self.labels is not None:
            assert y is not None, "a network with labels needs them"
            conditioning = conditioning + self.labels(y)
        h = self.stem(torch.cat([z, fourier_features(z, self.octaves)], 1) if self.octaves else z)
        skips = [h]
        for block in self.down:
            h = block(h, conditioning)
            skips.append(h)
        h = self.middle2(self.attention(self.middle1(h, conditioning)), conditioning)
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], 1), conditioning)
        output: Tensor = self.head(F.silu(self.norm(h))).float()
        # The base measure: the network says how its output differs from z. Further channels (a learned variance) have none.
        return output + F.pad(z, (0, 0, 0, 0, 0, output.shape[1] - z.shape[1]))


class VariationalUNetConfig(StrictConfig):
    """`blocks`: residual blocks on the way down; the paper's small models have 8, the large ones 32."""

    kind: Literal["variational-unet"]
    width: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    blocks: Annotated[int, Field(ge=1)] = 8
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    fourier: tuple[Annotated[int, Field(ge=0, le=8)], ...] = (6, 7)

    def build(self, spec: DataSpec, outputs: int, labels: bool) -> nn.Module:
        return VariationalUNet(self, spec, outputs, labels)
