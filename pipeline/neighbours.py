"""What an evaluation says of memorisation beside distances: how close unseen images come, repeats, and the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline import artifacts

if TYPE_CHECKING:
    from pipeline.metrics.nearest import Memorisation, Nearest

SHOWN, PER_ROW = 20, 10


def picture(images: NDArray[np.uint8], training: NDArray[np.uint8], memory: Memorisation, levels: int) -> bytes:
    """PNG: the images that lie closest to training images, the closest first; below each, its nearest training image."""
    from pipeline.images import grid, png, to_bytes

    closest = np.argsort(memory.generated.distances[:, 0], kind="stable")[:SHOWN]
    closest = closest[: len(closest) // PER_ROW * PER_ROW or None]  # full rows, or one that is shorter
    rows = [closest[start : start + PER_ROW] for start in range(0, len(closest), PER_ROW)]
    pairs = [part for row in rows for part in (images[row], training[memory.generated.indices[row, 0]])]
    return png(grid(to_bytes(np.concatenate(pairs), levels), len(rows[0])))


def unseen(data: artifacts.DataDirectory) -> Nearest:
    """How close real images come to the training images that they are not among."""
    from pipeline.metrics.nearest import nearest

    return nearest(data.images("test"), data.images("train"))


def repeats(images: NDArray[np.uint8], levels: int, grey_levels: float) -> dict[str, int]:
    """Pairs of (N, C, H, W) images that are equal, and that differ by `grey_levels` of 255 per pixel at most."""
    from pipeline.datasets._duplicates import find

    pairs = find(np.asarray(images), levels, grey_levels).count()
    return {"duplicates": pairs["exact"], "near_duplicates": pairs["near"]}
