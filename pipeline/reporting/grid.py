"""reports/samples.png: one row per sample, so that models are compared by eye."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

FIRST = 16
_SCALE = 2
_GAP = 2
_MARGIN = 8


def rows_png(samples: Mapping[str, NDArray[np.uint8]]) -> bytes:
    """PNG of the first 16 images of every sample, (N, C, H, W) uint8 with C 1 or 3, enlarged twice, names at the left.

    The same bytes for the same images: no date, no font of the machine (Pillow's own).
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=15)
    strips = {name: Image.fromarray(_strip(images[:FIRST])) for name, images in samples.items()}
    text = int(max(font.getlength(name) for name in samples)) + 2 * _MARGIN
    width = text + max(strip.width for strip in strips.values()) + _MARGIN
    height = sum(strip.height + _MARGIN for strip in strips.values()) + _MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    top = _MARGIN
    for name, strip in strips.items():
        draw.text((_MARGIN, top + strip.height / 2), name, font=font, fill="black", anchor="lm")
        canvas.paste(strip, (text, top))
        top += strip.height + _MARGIN
    file = io.BytesIO()
    canvas.save(file, format="PNG", optimize=True)
    return file.getvalue()


def _strip(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, C, H, W) -> (2H, about 2nW, 3): images side by side with white gaps."""
    assert images.ndim == 4, images.shape
    assert images.shape[1] in (1, 3), images.shape
    assert images.dtype == np.uint8, images.dtype
    large = images.repeat(_SCALE, axis=2).repeat(_SCALE, axis=3)
    spaced = np.pad(large, ((0, 0), (0, 0), (0, 0), (0, _GAP)), constant_values=255)
    row = spaced.transpose(2, 0, 3, 1).reshape(large.shape[2], -1, images.shape[1])
    return np.ascontiguousarray(np.broadcast_to(row, (*row.shape[:2], 3)))
