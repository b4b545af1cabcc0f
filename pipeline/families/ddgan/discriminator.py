"""The discriminator of a denoising diffusion GAN (Xiao, Kreis, Vahdat 2022, appendix C): is z_s a step back from this z_t?

What differs from the reference code: widths as small as the images; the last convolution does not begin at zero, since short
trainings have no time for it; minibatch statistics in evaluation do not depend on the batch.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.base import StrictConfig
from pipeline.core.contracts import DataSpec
from pipeline.families.ddgan.resample import FIRDown
from pipeline.networks.layers import Sinusoid, zeroed


def group_std(h: Tensor, group: int) -> Tensor:
    """(B, C, H, W) -> (B,): the standard deviation over groups of images, averaged over channels and pixels.

    With G = min(B, group) members, image i stands with images i + k B/G (Karras et al. 2018). B is a multiple of G.
    """
    members = min(len(h), group)
    assert len(h) % members == 0, "check_training refuses such batches"
    grouped = h.float().reshape(members, len(h) // members, -1)
    variance = (grouped - grouped.mean(0)).square().mean(0)
    return (variance + 1e-8).sqrt().mean(1).repeat(members)


class MinibatchStd(nn.Module):
    """Adds a channel that holds group_std: a generator that lost its variety gives itself away.

    In evaluation the channel holds the running mean of training (of real and generated batches alike), as batch normalisation
    does: so an image's logit depends on no other image, and batches of any size will do.
    """

    usual: Tensor
    seen: Tensor

    def __init__(self, group: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.group, self.momentum = group, momentum
        self.register_buffer("usual", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, h: Tensor) -> Tensor:
        if self.training:
            std = group_std(h, self.group)
            with torch.no_grad():
                self.seen += 1
                # The mean of all batches so far, until there are enough for an exponential one.
                self.usual.lerp_(std.mean(), max(self.momentum, 1 / int(self.seen)))
        else:
            std = self.usual.expand(len(h))
        return torch.cat([h, std.to(h.dtype)[:, None, None, None].expand(-1, 1, *h.shape[2:])], 1)


class ResidualBlock(nn.Module):
    """LeakyReLU, conv, + time, LeakyReLU, (halving of both branches), conv (zero at first); the sum over sqrt 2."""

    def __init__(self, channels_in: int, channels_out: int, time: int, down: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time = nn.Linear(time, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.resample_inner = FIRDown(channels_out) if down else nn.Identity()
        self.resample_skip = FIRDown(channels_in) if down else nn.Identity()

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        inner: Tensor = self.conv1(F.leaky_relu(h, 0.2)) + self.time(time)[:, :, None, None]
        inner = self.conv2(self.resample_inner(F.leaky_relu(inner, 0.2)))
        skip: Tensor = self.skip(self.resample_skip(h))
        return (skip + inner) / math.sqrt(2)


def _keep_variance(layer: nn.Module) -> None:
    """He et al. 2015: torch's own smaller weights would lose the image on its way, as nothing here normalises."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight, a=0.2)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class Discriminator(nn.Module):
    """z_s and z_t, each (B, C, H, W), time (B,) in [0, 1] of z_t, y (B,) -> logits (B,) float32, large for real z_s."""

    def __init__(self, config: DiscriminatorConfig, spec: DataSpec, labels: bool) -> None:
        super().__init__()
        widths, wide = config.widths, 2 * config.embedding
        factor = 2 ** (len(widths) - 1)
        if min(spec.shape[1:]) < factor:
            raise ValueError(
                f"discriminator.widths has {len(widths)} levels, which halve the image {len(widths) - 1} times; allowed for "
                f"images of {spec.shape[1]}x{spec.shape[2]}: fewer levels"
            )
        self.time = nn.Sequential(
            Sinusoid(config.embedding), nn.Linear(config.embedding, wide), nn.LeakyReLU(0.2), nn.Linear(wide, wide)
        )  # fmt: skip
        self.labels = nn.Embedding(spec.classes, wide) if labels else None
        self.stem = nn.Conv2d(2 * spec.shape[0], widths[0], 1)
        blocks = [ResidualBlock(widths[max(i - 1, 0)], width, wide, down=i > 0) for i, width in enumerate(widths)]
        self.blocks = nn.ModuleList(blocks)
        self.minibatch = MinibatchStd(config.group)
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.head = nn.Linear(widths[-1], 1)
        self.apply(_keep_variance)
        for block in blocks:
            zeroed(block.conv2)

    def forward(self, z_s: Tensor, z_t: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        embedding = self.time(time)
        if self.labels is not None:
            assert y is not None, "a network with labels needs them"
            embedding = embedding + self.labels(y)
        embedding = F.leaky_relu(embedding, 0.2)
        h = self.stem(torch.cat([z_s, z_t], 1).contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = block(h, embedding)
        h = F.leaky_relu(self.last(self.minibatch(h)), 0.2)
        with torch.autocast(h.device.type, enabled=False):  # a sum of many values, whose small differences are the verdict
            logits: Tensor = self.head(h.float().sum((2, 3))).squeeze(1)
        return logits


class DiscriminatorConfig(StrictConfig):
    """`widths`: channels per level, each half the size of the one before; `group`: images that minibatch statistics see."""

    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=8)] = (32, 64, 96)
    group: Annotated[int, Field(ge=1)] = 4
    embedding: Annotated[int, Field(ge=4, multiple_of=2)] = 64

    def build(self, spec: DataSpec, labels: bool) -> Discriminator:
        return Discriminator(self, spec, labels).to(memory_format=torch.channels_last)
