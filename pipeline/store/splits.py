"""From a data directory to batches: memory-mapped reading, and an order that is a function of (seed, step)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.contracts import Batch
from pipeline.core.pixels import dequantize
from pipeline.core.random import generator
from pipeline.store.data import DataDirectory


class Split:
    """One split of a data directory as batches in model space."""

    def __init__(self, data: DataDirectory, name: str) -> None:
        self.images, self.labels = data.images(name), data.labels(name)
        self.levels = data.data_spec.levels

    @classmethod
    def of(cls, images: NDArray[Any], labels: NDArray[np.int64], levels: int | None) -> Split:
        """A split of arrays in memory: (N, C, H, W) codes 0..levels - 1, or latents where `levels` is None; (N,) labels."""
        assert len(images) == len(labels), (images.shape, labels.shape)
        split = cls.__new__(cls)
        split.images, split.labels, split.levels = images, labels, levels
        return split

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: NDArray[np.int64], device: torch.device) -> Batch:
        """The images at `index`, in that order."""
        order = np.argsort(index)  # a memory map is read fastest from front to back
        undo = np.empty_like(order)
        undo[order] = np.arange(len(order))
        images = torch.from_numpy(self.images[index[order]][undo]).to(device)
        labels = torch.from_numpy(self.labels[index[order]][undo]).to(device)
        return Batch(images.float() if self.levels is None else dequantize(images, self.levels), labels)


def training_rows(count: int, batch: int, step: int, seed: int) -> NDArray[np.int64]:
    """Rows of training batch `step` (from 0): epochs are permutations keyed by (seed, epoch), read without gaps."""
    first = step * batch
    rows = [_position(count, first + i, seed) for i in range(batch)]
    return np.array(rows, dtype=np.int64)


_epochs: dict[tuple[int, int, int], NDArray[np.int64]] = {}


def _position(count: int, position: int, seed: int) -> int:
    epoch, offset = divmod(position, count)
    found = _epochs.get((count, seed, epoch))
    if found is None:
        _epochs.clear() if len(_epochs) > 3 else None
        found = torch.randperm(count, generator=generator(seed, epoch, "order")).numpy()
        _epochs[count, seed, epoch] = found
    return int(found[offset])
