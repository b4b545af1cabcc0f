"""The picture of memorisation: generated images beside their nearest training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.metrics.nearest import Memorisation

SHOWN, PER_ROW = 20, 10


def picture(images: NDArray[np.uint8], training: NDArray[np.uint8], memory: Memorisation, levels: int) -> bytes:
    """PNG: the images that lie closest to training images, the closest first; below each, its nearest training image."""
    from pipeline.reporting.images import grid, png, to_bytes

    closest = np.argsort(memory.generated.distances[:, 0], kind="stable")[:SHOWN]
    closest = closest[: len(closest) // PER_ROW * PER_ROW or None]  # full rows, or one that is shorter
    rows = [closest[start : start + PER_ROW] for start in range(0, len(closest), PER_ROW)]
    pairs = [part for row in rows for part in (images[row], training[memory.generated.indices[row, 0]])]
    return png(grid(to_bytes(np.concatenate(pairs), levels), len(rows[0])))
