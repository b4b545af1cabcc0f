"""Data whose best denoiser is known, and draws under which averages over one image are expectations.

Data vary along the rows of an image and noise along its columns, so that an image is the full product of both. Where the
noise has mean 0 and variance 1 in every image, the average of anything quadratic is its expectation, without sampling error.
What is not quadratic is integrated over noise that differs from image to image, with a weight for each image.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from pipeline.core.contracts import Batch, Random
from pipeline.diffusion.schedule import NoiseSchedule


def noise_grid(columns: int, shift: float = 0.5) -> NDArray[np.float64]:
    """Evenly spaced quantiles of N(0, 1), standardised."""
    values = stats.norm.ppf((np.arange(columns) + shift) / columns)
    return (values - values.mean()) / values.std()


def code_grid(rows: int, mean: float, std: float, levels: int) -> NDArray[np.float64]:
    """Evenly spaced quantiles of N(mean, std^2), each at the centre of its bin."""
    values = stats.norm.ppf((np.arange(rows) + 0.5) / rows, mean, std)
    return (2 * np.clip(np.floor((values + 1) * levels / 2), 0, levels - 1) + 1) / levels - 1


def images(values: NDArray[np.float64], count: int, columns: int) -> Batch:
    """`count` equal images whose row i holds values[i]."""
    x = torch.tensor(values, dtype=torch.float32)[:, None].expand(count, 1, len(values), columns).contiguous()
    return Batch(x, torch.zeros(count, dtype=torch.int64))


class GridRandom(Random):
    """Noise along the columns, the same in every image and for every purpose; every uniform number is `offset`."""

    def __init__(self, offset: float = 0.5) -> None:
        self.offset = offset

    def normal(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        del purpose
        return torch.tensor(noise_grid(shape[-1]), dtype=torch.float32).expand(shape)

    def uniform(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        del purpose
        return torch.full(shape, self.offset)


class NodeRandom(Random):
    """Image i has the noise nodes[i] in every pixel: with weights for the images, a quadrature that reaches into the tails."""

    def __init__(self, nodes: NDArray[np.float64]) -> None:
        self.nodes = torch.tensor(nodes, dtype=torch.float32)

    def normal(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        del purpose
        return self.nodes.reshape(-1, 1, 1, 1).expand(shape)

    def uniform(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        raise AssertionError("the times are given")


def normal_nodes(count: int = 121, reach: float = 6.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of the trapezoid rule for N(0, 1), which converges at once for smooth functions."""
    nodes = np.linspace(-reach, reach, count)
    weights = stats.norm.pdf(nodes)
    return nodes, weights / weights.sum()


class Denoiser(nn.Module):
    """In the place of a trained network: says E[x | z] in the language of `prediction`."""

    def __init__(self, prediction: str, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.prediction = prediction
        low, high = schedule.input(torch.tensor([-10.0, 10.0], dtype=torch.float64)).double()
        self.slope = 20 / (high - low)
        self.gamma_at_zero = -10 - self.slope * low

    def x_hat(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, z: Tensor, level: Tensor, y: Tensor | None = None) -> Tensor:
        gamma = (self.gamma_at_zero + self.slope * level.double())[:, None, None, None]
        alpha, sigma = (1 / (1 + gamma.exp())) ** 0.5, (1 / (1 + (-gamma).exp())) ** 0.5
        x_hat = self.x_hat(z.double(), alpha, sigma)
        eps_hat = (z - alpha * x_hat) / sigma
        said = {"x": x_hat, "eps": eps_hat, "v": alpha * eps_hat - sigma * x_hat}[self.prediction]
        return said.to(z.dtype)


class GaussianDenoiser(Denoiser):
    """Exact for pixels from N(mean, std^2)."""

    def __init__(self, prediction: str, schedule: NoiseSchedule, mean: float, std: float) -> None:
        super().__init__(prediction, schedule)
        self.mean, self.std = mean, std

    def x_hat(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (z - alpha * self.mean)


class CodeDenoiser(Denoiser):
    """Exact for pixels that take the values x with probabilities p."""

    def __init__(self, prediction: str, schedule: NoiseSchedule, x: NDArray[np.float64], p: NDArray[np.float64]) -> None:
        super().__init__(prediction, schedule)
        self.x, self.log_p = torch.tensor(x), torch.tensor(np.log(p))

    def x_hat(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        alpha, sigma = alpha[..., None], sigma[..., None]
        return ((self.log_p - 0.5 * ((z[..., None] - alpha * self.x) / sigma) ** 2).softmax(-1) * self.x).sum(-1)


def squared_error(alpha_squared: NDArray[np.float64], spread: float, std: float) -> NDArray[np.float64]:
    """E (x - x_hat)^2 of GaussianDenoiser(std) on data with E (x - mean)^2 = spread: signal it misses plus noise it passes."""
    sigma_squared = 1 - alpha_squared
    gain = np.sqrt(alpha_squared) * std**2 / (alpha_squared * std**2 + sigma_squared)
    return (1 - gain * np.sqrt(alpha_squared)) ** 2 * spread + gain**2 * sigma_squared
