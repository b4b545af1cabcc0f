"""What a network may predict, and the way from there to x_hat.

v = alpha eps - sigma x (Salimans and Ho 2022), so x = alpha z - sigma v and eps = sigma z + alpha v.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pipeline.diffusion.gaussian import alpha_sigma, per_image

Prediction = Literal["eps", "x", "v"]


def target(prediction: Prediction, x: Tensor, noise: Tensor, gamma: Tensor) -> Tensor:
    """What the network should have said at z = alpha x + sigma noise; (B, C, H, W)."""
    if prediction == "eps":
        return noise
    if prediction == "x":
        return x
    alpha, sigma = alpha_sigma(gamma)
    return per_image(alpha, x) * noise - per_image(sigma, x) * x


def to_x(prediction: Prediction, output: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
    """x_hat from the network's output at z."""
    alpha, sigma = alpha_sigma(gamma)
    if prediction == "eps":
        return (z - per_image(sigma, z) * output) / per_image(alpha, z)
    if prediction == "x":
        return output
    return per_image(alpha, z) * z - per_image(sigma, z) * output
