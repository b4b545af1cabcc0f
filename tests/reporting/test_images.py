from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.reporting.images import grid, png, to_bytes


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_codes_fill_the_range_of_bytes(levels: int) -> None:
    """Evenly from 0 to 255: the first code is black, the last one white, and the order is kept."""
    codes = np.arange(levels)
    found = to_bytes(codes, levels)
    assert found.dtype == np.uint8
    assert (found[0], found[-1]) == (0, 255)
    assert found == pytest.approx(np.linspace(0, 255, levels), abs=0.5)
    assert (np.diff(found.astype(int)) > 0).all()


def test_256_levels_are_bytes_already() -> None:
    codes = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_bytes(codes, 256), codes)


def test_grid_places_images_row_by_row() -> None:
    """Seven images in three columns: 3 rows, of which the last has one; each is at its place, enlarged, not turned."""
    images = np.arange(7 * 2 * 3, dtype=np.uint8).reshape(7, 1, 2, 3)
    picture = grid(images, columns=3, scale=2, gap=1)
    assert picture.shape == (3 * (2 * 2 + 1) + 1, 3 * (3 * 2 + 1) + 1, 3)
    for index in range(7):
        row, column = index // 3, index % 3
        tile = picture[1 + row * 5 : 5 + row * 5, 1 + column * 7 : 7 + column * 7]
        for y in range(2):
            for x in range(3):
                assert (tile[2 * y : 2 * y + 2, 2 * x : 2 * x + 2] == images[index, 0, y, x]).all()
    assert (picture[0] == 255).all(), "gaps are white"
    assert (picture[11:, 8:] == 255).all(), "places without an image are white"


def test_colours_keep_their_channel() -> None:
    red = np.zeros((1, 3, 2, 2), np.uint8)
    red[0, 0] = 200
    assert (grid(red, columns=1, scale=1, gap=0) == [200, 0, 0]).all()


def test_labels_stand_beside_their_rows() -> None:
    """A label is ink at the height of its own row, a longer one is wider, and the picture itself stays as it was."""
    images = np.full((3, 1, 12, 12), 128, np.uint8)
    plain = grid(images, columns=1)
    narrow, wide = (grid(images, columns=1, labels=["a", " ", last]) for last in ("-", "a much longer name"))
    margins = [picture[:, : -plain.shape[1]] for picture in (narrow, wide)]
    for picture in (narrow, wide):
        assert np.array_equal(picture[:, -plain.shape[1] :], plain)
    assert margins[1].shape[1] > margins[0].shape[1] + 60
    for margin in margins:
        inked = [bool((margin[1 + row * 25 : 25 + row * 25] < 128).any()) for row in range(3)]
        assert inked == [True, False, True]
        assert (margin[:, :8] == 255).all() and (margin[:, -8:] == 255).all(), "labels are not cut"


def test_labels_are_one_a_row() -> None:
    with pytest.raises(AssertionError):
        grid(np.zeros((4, 1, 2, 2), np.uint8), columns=2, labels=["a", "b", "c"])


def test_two_channels_are_no_picture() -> None:
    with pytest.raises(AssertionError):
        grid(np.zeros((1, 2, 2, 2), np.uint8), columns=1)


def test_png_round_trip_and_same_bytes() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)
    assert png(picture) == png(picture.copy())
