"""Squared Euclidean distances between two sets of points."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1024


def squared_distances(rows: Tensor, columns: Tensor) -> Tensor:
    """(N, M) of (N, d) `rows` to (M, d) `columns`, by |a|^2 + |b|^2 - 2 a.b around the mean of `columns`.

    Rounding may turn a distance of zero into a tiny negative number.
    """
    centre = columns.mean(dim=0)
    rows, columns = rows - centre, columns - centre
    norms = rows.square().sum(dim=1, keepdim=True) + columns.square().sum(dim=1)
    return torch.addmm(norms, rows, columns.T, alpha=-2)


def blocks(rows: Tensor, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(start, squared distances of rows[start : start + BLOCK] to all `columns`), so that memory stays bounded."""
    for start in range(0, len(rows), BLOCK):
        yield start, squared_distances(rows[start : start + BLOCK], columns)
