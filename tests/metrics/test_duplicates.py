"""The search for near duplicates against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pipeline.metrics import duplicates


def brute_force(images: np.ndarray, levels: int, grey_levels: float) -> list[tuple[int, int, bool]]:
    flat = images.reshape(len(images), -1).astype(float)
    distance = cdist(flat, flat, "cityblock") / flat.shape[1] * 255 / (levels - 1)
    found = np.argwhere(np.triu(distance <= grey_levels + 1e-9, 1))
    return [(int(i), int(j), bool(distance[i, j] == 0)) for i, j in found]


def listed(pairs: duplicates.Pairs) -> list[tuple[int, int, bool]]:
    return [(int(i), int(j), bool(same)) for i, j, same in zip(pairs.first, pairs.second, pairs.exact, strict=True)]


@pytest.mark.parametrize("levels", [256, 17, 2])
@pytest.mark.parametrize("grey_levels", [0.0, 1.5, 9.0])
def test_pairs_are_those_of_brute_force(levels: int, grey_levels: float) -> None:
    rng = np.random.default_rng(levels)
    # More images than two blocks, in clusters around few bases, so that there are pairs on both sides of the limit.
    bases = rng.integers(0, levels, (250, 1, 6, 5))
    images = bases[rng.integers(0, 250, 1300)]
    for _ in range(8):
        images = images + rng.integers(-1, 2, images.shape) * (rng.random(images.shape) < rng.random((1300, 1, 1, 1)) * 0.2)
    images = images.clip(0, levels - 1).astype(np.uint8)
    images[rng.integers(0, 1300, 60)] = images[rng.integers(0, 1300, 60)]
    expected = brute_force(images, levels, grey_levels)
    assert len(expected) >= 30
    assert listed(duplicates.find(images, levels, grey_levels)) == expected


def test_a_difference_on_the_limit_counts_and_one_above_does_not() -> None:
    images = np.zeros((3, 1, 2, 2), np.uint8)
    images[1, 0] = [[3, 0], [1, 2]]  # 6 over 4 pixels is 1.5
    images[2, 0] = [[255, 255], [255, 255]]
    assert listed(duplicates.find(images, 256, 1.5)) == [(0, 1, False)]
    images[1, 0, 0, 0] = 4
    assert listed(duplicates.find(images, 256, 1.5)) == []


def test_one_pixel_from_black_to_white_is_within_the_bound_of_squares() -> None:
    images = np.full((2, 1, 13, 13), 40, np.uint8)
    images[0, 0, 5, 5], images[1, 0, 5, 5] = 0, 255  # 255/169 = 1.509
    assert listed(duplicates.find(images, 256, 1.51)) == [(0, 1, False)]
    assert listed(duplicates.find(images, 256, 1.5)) == []


def test_groups_follow_chains() -> None:
    pairs = duplicates.Pairs(np.array([0, 2, 5]), np.array([2, 4, 6]), np.array([True, False, False]))
    group = duplicates.groups(pairs, 7)
    assert group[0] == group[2] == group[4]
    assert group[5] == group[6]
    assert len(set(group.tolist())) == 4
    assert pairs.count() == {"exact": 1, "near": 2}


def test_one_image_has_no_pairs() -> None:
    pairs = duplicates.find(np.zeros((1, 1, 2, 2), np.uint8), 256, 1.5)
    assert listed(pairs) == []
    assert duplicates.groups(pairs, 1).tolist() == [0]
