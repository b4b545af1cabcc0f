"""Exact and near duplicates among images, all pairs, without approximation.

Two images are near duplicates where the mean of |a - b| over the pixels is at most a threshold. Two facts make the search
fast: |mean(a) - mean(b)| <= mean|a - b|, so that after sorting by mean grey level only a narrow window is a candidate; and
|a - b| <= range gives sum (a - b)^2 <= range * sum |a - b|, so that one matrix product discards nearly all of the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 512


@dataclass(frozen=True)
class Pairs:
    """All duplicate pairs: first, second: (P,) positions, first < second; exact: (P,) where the two images are equal."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    exact: NDArray[np.bool_]

    def where(self, chosen: NDArray[np.bool_]) -> Pairs:
        """The pairs that `chosen`, (P,), keeps."""
        return Pairs(self.first[chosen], self.second[chosen], self.exact[chosen])

    def count(self) -> dict[str, int]:
        """{"exact": pairs of equal images, "near": the other pairs}."""
        exact = int(self.exact.sum())
        return {"exact": exact, "near": len(self.exact) - exact}


def find(images: NDArray[np.uint8], levels: int, grey_levels: float) -> Pairs:
    """Pairs of `images`, (N, C, H, W) codes 0..levels - 1, whose mean absolute difference is at most `grey_levels`.

    `grey_levels` is on the scale 0..255; for other `levels` it is scaled by (levels - 1)/255.
    """
    flat = images.reshape(len(images), -1)
    # The budget of a pair: its sum of absolute differences, in codes. The slack keeps pairs that lie on the limit.
    budget = grey_levels * (levels - 1) / 255 * flat.shape[1] * (1 + 1e-12)
    totals = flat.sum(1, dtype=np.int64)
    order = np.argsort(totals, kind="stable")
    parts = [pair for start in range(0, len(flat), BLOCK) for pair in _block(flat, totals, order, start, levels - 1, budget)]
    columns = [np.concatenate([part[i] for part in parts]) for i in range(3)] if parts else [np.empty(0, np.int64)] * 3
    first, second = np.minimum(columns[0], columns[1]), np.maximum(columns[0], columns[1])
    ranked = np.lexsort((second, first))
    return Pairs(first[ranked], second[ranked], columns[2][ranked] == 0)


def groups(pairs: Pairs, count: int) -> NDArray[np.int64]:
    """(count,) the number of each image's group: images joined by a chain of duplicate pairs have the same number."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs.first), np.int8), (pairs.first, pairs.second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _block(
    flat: NDArray[np.uint8], totals: NDArray[np.int64], order: NDArray[np.int64], start: int, widest: int, budget: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """(first, second, sum of absolute differences) of the pairs whose darker image is one of BLOCK images in `order`."""
    rows = order[start : start + BLOCK]
    last = int(np.searchsorted(totals[order], totals[rows[-1]] + budget, side="right"))
    a = flat[rows].astype(np.float64)  # float64 sums these integers exactly
    for begin in range(start, last, 8 * BLOCK):
        columns = order[begin : min(begin + 8 * BLOCK, last)]
        b = flat[columns].astype(np.float64)
        squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T)
        later = np.arange(begin, begin + len(columns))[None] > np.arange(start, start + len(rows))[:, None]
        i, j = np.nonzero((squared <= widest * budget) & later)
        for few in range(0, len(i), 16 * BLOCK):  # in pieces, so that many candidates don't fill the memory
            x, y = rows[i[few : few + 16 * BLOCK]], columns[j[few : few + 16 * BLOCK]]
            difference = np.abs(flat[x].astype(np.int16) - flat[y]).sum(1, dtype=np.int64)
            near = difference <= budget
            yield x[near], y[near], difference[near]


def repeats(images: NDArray[np.uint8], levels: int, grey_levels: float) -> dict[str, int]:
    """Pairs of (N, C, H, W) images that are equal, and that differ by `grey_levels` of 255 per pixel at most."""
    pairs = find(np.asarray(images), levels, grey_levels).count()
    return {"duplicates": pairs["exact"], "near_duplicates": pairs["near"]}
