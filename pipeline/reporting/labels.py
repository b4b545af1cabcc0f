"""Where the names of points stand on a chart, so that none covers another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Directions in order of preference (right, left, up, down, then diagonals), as unit steps.
_DIRECTIONS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
_DISTANCES = [7.0, 10.0, 14.0, 20.0, 27.0, 36.0, 48.0, 60.0, 75.0, 90.0, 110.0, 130.0, 150.0]
_CROSSING = 150.0  # what a line through a name costs, in square points of overlap


@dataclass(frozen=True)
class Box:
    """A rectangle in points, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Shared area, in square points; 0 if they do not meet."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    def outside(self, frame: Box) -> float:
        """Area of this box beyond `frame`."""
        return (self.right - self.left) * (self.top - self.bottom) - self.overlap(frame)


def place(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], taken: Sequence[Box], frame: Box
) -> list[Box]:
    """A box of `sizes[i]` (width, height) near `points[i]`, for every i, in the given order.

    Each takes the nearest free place among fixed candidates around its point; `taken` holds what must stay visible (markers,
    error bars). Where nothing is free, the place with the smallest overlap. Lines to names avoid names too.
    """
    placed: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        candidates = [_beside(point, size, direction, distance) for distance in _DISTANCES for direction in _DIRECTIONS]
        obstacles = [*taken, *placed]

        def cost(box: Box, point: tuple[float, float] = point, obstacles: Sequence[Box] = obstacles) -> float:
            hidden = sum(box.overlap(other) for other in obstacles) + box.outside(frame)
            through = sum(_crosses(point, box, other) for other in placed)
            under = sum(_crosses(start, end, box) for start, end in zip(points, placed, strict=False))
            return hidden + _CROSSING * (through + under)

        placed.append(min(candidates, key=cost))  # the first of equals: the nearest
    return placed


def gap(point: tuple[float, float], box: Box) -> float:
    """Distance from a point to a box, in points."""
    return math.dist(point, nearest(point, box))


def nearest(point: tuple[float, float], box: Box) -> tuple[float, float]:
    """Where a line from `point` meets `box`."""
    return min(max(point[0], box.left), box.right), min(max(point[1], box.bottom), box.top)


def _crosses(point: tuple[float, float], box: Box, other: Box) -> bool:
    """Whether the line from `point` to `box` runs through `other`."""
    end = nearest(point, box)
    steps = [index / 20 for index in range(21)]
    line = [(point[0] + step * (end[0] - point[0]), point[1] + step * (end[1] - point[1])) for step in steps]
    return any(other.left <= x <= other.right and other.bottom <= y <= other.top for x, y in line)


def _beside(point: tuple[float, float], size: tuple[float, float], direction: tuple[int, int], distance: float) -> Box:
    x, y = point[0] + direction[0] * distance, point[1] + direction[1] * distance
    left = {1: x, 0: x - size[0] / 2, -1: x - size[0]}[direction[0]]
    bottom = {1: y, 0: y - size[1] / 2, -1: y - size[1]}[direction[1]]
    return Box(left, bottom, left + size[0], bottom + size[1])
