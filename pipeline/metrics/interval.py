"""Standard errors and 95 % intervals by resampling the generated images: half-samples instead of the usual bootstrap.

A bootstrap draws with replacement, and copies of an image break these metrics: nearest neighbours at distance zero empty
the balls of recall, pairs of copies inflate the kernel distance, and the missing 37 % of images raise the Frechet distance,
so that the interval would lie beside its own estimate. A resample here is a random half drawn without replacement (the
delete-d jackknife of Shao and Wu 1989, Annals of Statistics 17:1176, with d = N/2): no copies, and the spread of resamples
of m of N images, times sqrt(m / (N - m)) (1 for halves), estimates the standard error at N. Resamples are centred before
use, since at N/2 images the metrics that depend on N have another bias.

What the interval says: how the number would move with other images from the same sampler. The reference images, the
extractor and the trained weights are held fixed. It does not tell the bias of a metric at N images, and is not clipped to
the range of a metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """low, high: the 95 % percentile interval; standard_error: the deviation of the resamples. Units of the metric."""

    low: float
    high: float
    standard_error: float


def halves(count: int, resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(resamples, count // 2) indices: every row a random half of range(count), without replacement.

    Raises ValueError for fewer than 2 images or resamples, which have no spread.
    """
    if count < 2:
        raise ValueError(f"there are {count} images; intervals need 2 or more")
    if resamples < 2:
        raise ValueError(f"evaluate.interval_resamples is {resamples}; allowed is 2 or more, or 0 for no intervals")
    return np.stack([rng.permutation(count)[: count // 2] for _ in range(resamples)])


def interval(estimate: float, resamples: NDArray[np.float64], count: int) -> Interval:
    """`estimate` at `count` images, with the spread of `resamples`, (R,): the same metric on each of `halves`."""
    kept = count // 2
    deviations = (resamples - resamples.mean()) * np.sqrt(kept / (count - kept))
    low, high = np.quantile(deviations, [0.025, 0.975])
    return Interval(float(estimate + low), float(estimate + high), float(deviations.std(ddof=1)))
