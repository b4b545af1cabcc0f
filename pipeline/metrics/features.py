"""The metric space: what turns images into features and class probabilities, with a name and a hash beside every number.

It is a network with the role FeatureExtractor: a classifier that this project trained, since no pretrained weights come with
the repository, or one whose weights the user has. Its family says what the Frechet distance in it is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.core.contracts import DataSpec, FeatureExtractor


@dataclass(frozen=True)
class Features:
    """features (N, F) float32; probabilities (N, K) float32, softmax over the extractor's K classes."""

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]


class Extractor(Protocol):
    """name: a name under extractors:; hash: sha256 of the weights file; feature_dim: F.

    distance: what the Frechet distance in its features is called, fd or fid; knows_classes: whether its classes are the data's.
    """

    name: str
    hash: str
    feature_dim: int
    distance: str
    knows_classes: bool
    device: torch.device

    def __call__(self, codes: NDArray[np.uint8]) -> Features:
        """(N, C, H, W) codes 0..levels - 1 -> Features. ValueError for another shape or type, or a code beyond the levels."""


class NetworkExtractor:
    """A network as a metric space. batch: images at a time, None for as many as its family takes."""

    def __init__(
        self,
        model: FeatureExtractor,
        spec: DataSpec,
        *,
        name: str,
        hash: str,
        device: torch.device | str = "cpu",
        batch: int | None = None,
    ) -> None:
        assert isinstance(model, nn.Module), "an extractor is a network"
        self.model, self.spec, self.name, self.hash = model, spec, name, hash
        self.distance, self.knows_classes = model.distance_name, model.knows_classes
        self.device, self.batch = torch.device(device), batch or model.images_per_pass
        model.to(self.device).eval()
        with torch.inference_mode():
            self.feature_dim = model.features(torch.zeros(1, *spec.shape, device=self.device)).shape[1]

    def __call__(self, codes: NDArray[np.uint8]) -> Features:
        features, logits = [], []
        with torch.inference_mode():
            for part, levels in _batches(codes, self.spec, self.batch):
                found = self.model.features_of_codes(part.to(self.device), levels)
                features.append(found.float().cpu())
                logits.append(self.model.logits(found).float().cpu())
        return _gather(features, logits)


def matrix(features: NDArray[np.floating], least: int) -> NDArray[np.float64]:
    """Features as (N, d) float64. ValueError if they have other dimensions, fewer rows than `least`, or NaN or infinity."""
    points = np.asarray(features, dtype=np.float64)
    if points.ndim != 2:
        raise ValueError(f"features have the shape {points.shape}; allowed is (images, width)")
    if len(points) < least:
        raise ValueError(f"there are features of {len(points)} images; this metric needs {least} or more")
    broken = int((~np.isfinite(points)).any(axis=1).sum())
    if broken:
        raise ValueError(f"features of {broken} of {len(points)} images are not finite; the metric would be meaningless")
    return points


def _batches(codes: NDArray[np.uint8], spec: DataSpec, batch: int) -> Iterator[tuple[Tensor, int]]:
    """(codes of a batch, levels), once all codes have been found to be such."""
    if spec.levels is None:
        raise ValueError("the data are latents without levels; images are measured as codes, so decode them first")
    if codes.ndim != 4 or codes.shape[1:] != spec.shape or codes.dtype != np.uint8 or len(codes) == 0:
        expected = ", ".join(str(size) for size in spec.shape)
        raise ValueError(f"images have the shape {codes.shape} and type {codes.dtype}; allowed is (N, {expected}) of uint8")
    if int(codes.max()) >= spec.levels:
        raise ValueError(f"images have a code {int(codes.max())}; allowed are 0 to {spec.levels - 1}")
    for start in range(0, len(codes), batch):
        # A copy: torch does not take read-only memory maps.
        yield torch.from_numpy(np.array(codes[start : start + batch])), spec.levels


def _gather(features: list[Tensor], logits: list[Tensor]) -> Features:
    return Features(torch.cat(features).numpy(), torch.cat(logits).softmax(dim=1).numpy())
