"""The generator of a denoising diffusion GAN (Xiao, Kreis, Vahdat 2022, appendix C): a U-Net with a latent beside the image.

The latent z enters only through adaptive group normalisation, the time only as a bias. What differs from the reference code
(NCSN++): no attention and no pyramid of input images, since images are small; skips are concatenated after a plain FIR
doubling instead of a doubling residual block. Widths 32-64-96 have about 1.1M parameters, as many as networks/unet.py has.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.base import StrictConfig
from pipeline.core.contracts import DataSpec
from pipeline.families.ddgan.resample import FIRDown, FIRUp
from pipeline.networks.layers import Sinusoid, zeroed


class PixelNorm(nn.Module):
    """(B, F) -> (B, F): every row over its root mean square (Karras et al. 2018)."""

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)


class AdaptiveGroupNorm(nn.Module):
    """GroupNorm without weights of its own, times gamma(w) plus beta(w); gamma is about 1 and beta about 0 at first.

    h: (B, C, H, W), w: (B, embedding) -> (B, C, H, W). Groups of 16 channels, as in layers.group_norm.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels // 16, channels, eps=1e-6, affine=False)
        self.style = nn.Linear(embedding, 2 * channels)
        with torch.no_grad():
            self.style.bias.copy_(torch.cat([torch.ones(channels), torch.zeros(channels)]))

    def forward(self, h: Tensor, w: Tensor) -> Tensor:
        gamma, beta = self.style(w)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(beta, self.norm(h), gamma)


class ResidualBlock(nn.Module):
    """AdaGN, SiLU, (halving of both branches), conv, + time, AdaGN, SiLU, conv (zero at first); the sum over sqrt 2."""

    def __init__(self, channels_in: int, channels_out: int, time: int, embedding: int, down: bool = False) -> None:
        super().__init__()
        self.norm1 = AdaptiveGroupNorm(channels_in, embedding)
        self.norm2 = AdaptiveGroupNorm(channels_out, embedding)
        self.resample = FIRDown(channels_in) if down else nn.Identity()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time = nn.Linear(time, channels_out)
        self.conv2 = zeroed(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out or down else nn.Identity()

    def forward(self, h: Tensor, time: Tensor, w: Tensor) -> Tensor:
        inner: Tensor = self.conv1(self.resample(F.silu(self.norm1(h, w))))
        inner = inner + self.time(time)[:, :, None, None]
        inner = self.conv2(F.silu(self.norm2(inner, w)))
        skip: Tensor = self.skip(self.resample(h))
        return skip + inner


class Generator(nn.Module):
    """z_t (B, C, H, W), time (B,) in [0, 1], latent (B, F), y (B,) -> x_hat (B, C, H, W) float32.

    Within (-1, 1) by a tanh for pixels; real-valued data (levels: None) have no bounds, and their x_hat none either.
    """

    def __init__(self, config: GeneratorConfig, spec: DataSpec, labels: bool) -> None:
        super().__init__()
        channels, widths, wide = spec.shape[0], config.widths, 2 * config.embedding
        factor = 2 ** (len(widths) - 1)
        if spec.shape[1] % factor or spec.shape[2] % factor:
            raise ValueError(
                f"generator.widths has {len(widths)} levels, which halve the image {len(widths) - 1} times; allowed for images "
                f"of {spec.shape[1]}x{spec.shape[2]}: fewer levels"
            )
        self.bounded = spec.levels is not None
        self.time = nn.Sequential(
            Sinusoid(config.embedding), nn.Linear(config.embedding, wide), nn.SiLU(), nn.Linear(wide, wide)
        )  # fmt: skip
        self.labels = nn.Embedding(spec.classes, wide) if labels else None
        mapping: list[nn.Module] = [PixelNorm()]
        for layer in range(config.mapping):
            mapping += [nn.Linear(config.style if layer else config.latent, config.style), nn.SiLU()]
        self.mapping = nn.Sequential(*mapping)

        def block(before: int, after: int, down: bool = False) -> ResidualBlock:
            return ResidualBlock(before, after, wide, config.style, down)

        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(block(widths[max(i - 1, 0)], width, down=i > 0) for i, width in enumerate(widths))
        self.middle = nn.ModuleList(block(widths[-1], widths[-1]) for _ in range(2))
        # On its way up h takes the width of the next level before it grows: wide maps at full size are dear.
        self.up = nn.ModuleList(block(2 * width, widths[max(i - 1, 0)]) for i, width in enumerate(widths))
        self.grow = nn.ModuleList(FIRUp(width) for width in widths[:-1])
        self.norm = nn.GroupNorm(widths[0] // 16, widths[0], eps=1e-6)
        self.head = zeroed(nn.Conv2d(widths[0], channels, 3, padding=1))

    def forward(self, z_t: Tensor, time: Tensor, latent: Tensor, y: Tensor | None = None) -> Tensor:
        embedding = self.time(time)
        if self.labels is not None:
            assert y is not None, "a network with labels needs them"
            embedding = embedding + self.labels(y)
        embedding, w = F.silu(embedding), self.mapping(latent)
        h = self.stem(z_t.contiguous(memory_format=torch.channels_last))
        skips: list[Tensor] = []
        for block in self.down:
            h = block(h, embedding, w)
            skips.append(h)
        for block in self.middle:
            h = block(h, embedding, w)
        for level in reversed(range(len(self.up))):
            h = self.up[level](torch.cat([h, skips[level]], 1), embedding, w)
            if level:
                h = self.grow[level - 1](h)
        out = self.head(F.silu(self.norm(h))).float()
        return torch.tanh(out) if self.bounded else out


class GeneratorConfig(StrictConfig):
    """`widths`: channels per level, multiples of 16; `latent`: length of z, which `mapping` layers take to `style` units."""

    widths: Annotated[tuple[Annotated[int, Field(ge=16, multiple_of=16)], ...], Field(min_length=1, max_length=6)] = (
        32,
        64,
        96,
    )
    latent: Annotated[int, Field(ge=1)] = 64
    style: Annotated[int, Field(ge=1)] = 64
    mapping: Annotated[int, Field(ge=1)] = 3
    embedding: Annotated[int, Field(ge=4, multiple_of=2)] = 64

    def build(self, spec: DataSpec, labels: bool) -> Generator:
        return Generator(self, spec, labels).to(memory_format=torch.channels_last)
