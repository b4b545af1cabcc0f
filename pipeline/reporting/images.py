"""Pictures of images: grids and strips, as PNG bytes that depend on the pixels alone."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_MARGIN = 8  # pixels on either side of a label


def to_bytes(codes: NDArray[np.integer], levels: int) -> NDArray[np.uint8]:
    """Codes 0..levels-1 -> 0..255."""
    return np.round(codes.astype(np.float64) * (255 / (levels - 1))).astype(np.uint8)


def grid(
    images: NDArray[np.uint8], columns: int, scale: int = 2, gap: int = 1, labels: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """(N, C, H, W) in 0..255, C 1 or 3 -> (height, width, 3) picture, row by row, on white; `labels`: at the left, one a row.

    Our own, as torchvision.utils.make_grid writes no labels and its import takes a second.
    """
    count, channels, height, width = images.shape
    assert channels in (1, 3), channels
    assert images.dtype == np.uint8, images.dtype
    rows = -(-count // columns)
    assert len(labels) in (0, rows), (len(labels), rows)
    cell_h, cell_w = height * scale + gap, width * scale + gap
    picture = np.full((rows * cell_h + gap, columns * cell_w + gap, 3), 255, dtype=np.uint8)
    for index in range(count):
        row, column = divmod(index, columns)
        tile = images[index].repeat(scale, 1).repeat(scale, 2).transpose(1, 2, 0)
        top, left = gap + row * cell_h, gap + column * cell_w
        picture[top : top + height * scale, left : left + width * scale] = tile
    if not labels:
        return picture
    centres = [gap + row * cell_h + height * scale / 2 for row in range(rows)]
    return np.concatenate([_written(labels, centres, len(picture)), picture], axis=1)


def _written(labels: Sequence[str], centres: Sequence[float], height: int) -> NDArray[np.uint8]:
    """Labels below each other, black on white, each centred at its height."""
    font = ImageFont.load_default(size=15)  # Pillow's own: no font of the machine
    width = math.ceil(max(font.getlength(label) for label in labels)) + 2 * _MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for label, centre in zip(labels, centres, strict=True):
        draw.text((_MARGIN, centre), label, font=font, fill="black", anchor="lm")
    return np.asarray(canvas)


def png(picture: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    return file.getvalue()
