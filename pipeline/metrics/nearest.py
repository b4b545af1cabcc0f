"""Memorisation: how close generated images lie to training images, against how close unseen real images do.

Distances are Euclidean, between the codes of the pixels. Not between features of the extractor: it was trained on the same
training images and sees them with other eyes than images it has not seen, and a pass of it over them costs more than the
search. Three questions, since each alone has a hole:

    memorised          share of images whose nearest training image is less than a third as far as the second nearest, or equal
                       to them (Yoon et al. 2023, "Diffusion probabilistic models generalize when they fail to memorize";
                       Gu et al. 2023); a plain image that is close to everything does not count
    closer_than_test   share of images closer to a training image than 1 % of the test images are: 0.01 for fresh real images;
                       a model that makes one easy class only has more, without any copy
    distance_ratio     median distance to the nearest training image, over that of the test images: 0 for copies, 1 for fresh
                       real images, above 1 for images that are unlike real ones
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.rounding import to_digits
from pipeline.metrics import base
from pipeline.metrics.base import Column, Found, Images, Keyed, MetricConfig, Real
from pipeline.metrics.distances import BLOCK, squared_distances

POINTS = 8192  # training images in memory as floating point at a time
SPARE = 4
THIRD = 1 / 3
CLOSE = 0.01  # the quantile of the test images' distances that counts as close


@dataclass(frozen=True)
class Nearest:
    """distances (Q, k), ascending; indices (Q, k) of the points at these distances."""

    distances: NDArray[np.float64]
    indices: NDArray[np.int64]


@dataclass(frozen=True)
class Memorisation:
    """`generated` and `unseen` (the test images): their two nearest training images."""

    generated: Nearest
    unseen: Nearest

    @property
    def copies(self) -> NDArray[np.bool_]:
        """(N,): whether a generated image equals a training image."""
        return np.asarray(self.generated.distances[:, 0] == 0)

    @property
    def memorised(self) -> NDArray[np.bool_]:
        """(N,): whether a generated image is less than a third as far from its nearest training image as from the next."""
        first, second = self.generated.distances.T
        return np.asarray(self.copies | (first < THIRD * second))

    @property
    def close(self) -> float:
        """The distance below which 1 % of the test images lie."""
        return float(np.quantile(self.unseen.distances[:, 0], CLOSE))

    @property
    def closer_than_test(self) -> NDArray[np.bool_]:
        """(N,): whether a generated image lies closer to a training image than that."""
        return np.asarray(self.generated.distances[:, 0] < self.close)

    @property
    def distance_ratio(self) -> float:
        """Median distance of the generated images over that of the test images. ValueError if the latter is zero."""
        usual = float(np.median(self.unseen.distances[:, 0]))
        if usual == 0:
            raise ValueError("half of the test images are training images; memorisation needs test images of their own")
        return float(np.median(self.generated.distances[:, 0])) / usual

    @property
    def values(self) -> dict[str, float]:
        return {
            "memorised": float(self.memorised.mean()),
            "closer_than_test": float(self.closer_than_test.mean()),
            "distance_ratio": self.distance_ratio,
            "training_copies": int(self.copies.sum()),
        }

    def details(self) -> dict[str, Any]:
        """The nearest training image of every generated image, and what its distance is held against."""
        return {
            "nearest": self.generated.indices[:, 0].tolist(),
            "distances": [to_digits(distance, 6) for distance in self.generated.distances[:, 0]],
            "distance_of_1_percent_of_test_images": self.close,
            "median_distance_of_test_images": float(np.median(self.unseen.distances[:, 0])),
        }


def nearest(queries: NDArray[np.number], points: NDArray[np.number], k: int = 2) -> Nearest:
    """The `k` nearest of (P, ...) `points` to each of (Q, ...) `queries`, by Euclidean distance over all entries.

    Who is nearest is found by products of blocks; the distance itself is then taken from the difference, so that it is zero
    for equal entries, and for them only. Raises ValueError for fewer points than `k` and for shapes that differ.
    """
    if queries.shape[1:] != points.shape[1:]:
        raise ValueError(
            f"images have the shapes {queries.shape[1:]} and {points.shape[1:]}; only equal shapes have a distance"
        )
    if len(points) < k:
        raise ValueError(f"there are {len(points)} images to search; {k} nearest ones need as many or more")
    parts = [_of_block(queries[start : start + BLOCK], points, k) for start in range(0, len(queries), BLOCK)]
    return Nearest(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def memorisation(generated: NDArray[np.number], training: NDArray[np.number], unseen: Nearest) -> Memorisation:
    """generated (N, C, H, W), training (M, C, H, W): codes of pixels; unseen: nearest(test images, training images)."""
    return Memorisation(nearest(generated, training), unseen)


def _of_block(queries: NDArray[np.number], points: NDArray[np.number], k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distances and indices, (Q, k) each, of `points` that are turned into floating point a few at a time.

    Single precision finds a few candidates more than asked for; double precision ranks them.
    """
    rows, kept = _flat(queries, np.float32), min(k + SPARE, len(points))
    best, indices = torch.empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.int64)
    for start in range(0, len(points), POINTS):
        squared = squared_distances(rows, _flat(points[start : start + POINTS], np.float32))
        found = squared.topk(min(kept, squared.shape[1]), dim=1, largest=False)
        best, indices = torch.cat([best, found.values], dim=1), torch.cat([indices, start + found.indices], dim=1)
        best, places = best.topk(min(kept, best.shape[1]), dim=1, largest=False)
        indices = indices.gather(1, places)
    rows = _flat(queries, np.float64)
    columns = [_flat(points[column], np.float64) for column in indices.T.numpy()]
    exact = torch.stack([torch.linalg.vector_norm(rows - column, dim=1) for column in columns], dim=1)
    order = exact.argsort(dim=1, stable=True)[:, :k]
    return exact.gather(1, order).numpy(), indices.gather(1, order).numpy()


def _flat(images: NDArray[np.number], kind: type[np.floating]) -> Tensor:
    return torch.from_numpy(images.reshape(len(images), -1).astype(kind))


class Config(MetricConfig):
    """No settings."""


class Metric(base.Metric):
    order = 50
    reads = "pixels"
    resampled = False  # counts of rare events: a half may have none of them
    columns = (
        Column("memorised", "memorised", "memorisation", "lower"),
        Column("closer_than_test", "closer than test", "memorisation", None),
        Column("distance_ratio", "distance ratio", "memorisation", None),
        Column("training_copies", "copies of training images", "memorisation", "lower"),
    )
    explanation = (
        "Distances are Euclidean between pixels, to the training images. Memorised: the share of images whose nearest training "
        "image is less than a third as far as the second nearest (Yoon et al. 2023), or equal to them. Closer than test: the "
        "share closer to a training image than 1 % of the test images are; fresh real images have 0.01, training images 1. "
        "Distance ratio: the median distance to the nearest training image over that of the test images; below 1 means closer "
        "than fresh real images."
    )

    @property
    def fewest(self) -> int:
        return 1

    def describe(self, real: Real) -> tuple[NDArray[np.uint8], Nearest]:
        return real.training, nearest(real.test, real.training)

    def measure(self, generated: Images, known: tuple[NDArray[np.uint8], Nearest], rng: Keyed) -> Found:
        found = memorisation(generated.codes, *known)
        return Found(found.values, found.details(), found)
