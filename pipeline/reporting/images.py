"""Pictures of images: grids and strips, as PNG bytes that depend on the pixels alone."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def to_bytes(codes: NDArray[np.integer], levels: int) -> NDArray[np.uint8]:
    """Codes 0..levels-1 -> 0..255."""
    return np.round(codes.astype(np.float64) * (255 / (levels - 1))).astype(np.uint8)


def grid(images: NDArray[np.uint8], columns: int, scale: int = 2, gap: int = 1) -> NDArray[np.uint8]:
    """(N, C, H, W) in 0..255, C 1 or 3 -> (rows, columns, 3) picture, row by row, on white."""
    count, channels, height, width = images.shape
    assert channels in (1, 3), channels
    rows = -(-count // columns)
    cell_h, cell_w = height * scale + gap, width * scale + gap
    picture = np.full((rows * cell_h + gap, columns * cell_w + gap, 3), 255, dtype=np.uint8)
    for index in range(count):
        row, column = divmod(index, columns)
        tile = images[index].repeat(scale, 1).repeat(scale, 2).transpose(1, 2, 0)
        top, left = gap + row * cell_h, gap + column * cell_w
        picture[top : top + height * scale, left : left + width * scale] = tile
    return picture


def png(picture: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    return file.getvalue()
