from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.store.data import DataDirectory, write_data
from pipeline.store.splits import Split, training_rows


@pytest.mark.parametrize(("count", "batch"), [(10, 3), (12, 4), (5, 7), (1, 2)])
def test_every_epoch_is_a_permutation(count: int, batch: int) -> None:
    """Batches laid end to end, cut into pieces of `count`: each holds every row once, also where a batch spans epochs."""
    steps = 6 * count
    rows = np.concatenate([training_rows(count, batch, step, seed=1) for step in range(steps)])
    epochs = rows.reshape(-1, count)
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs.tolist())


def test_epochs_and_seeds_differ() -> None:
    orders = {
        tuple(np.concatenate([training_rows(50, 10, step, seed) for step in range(first, first + 5)]))
        for seed in (0, 1)
        for first in (0, 5, 10)
    }
    assert len(orders) == 6
    assert tuple(range(50)) not in orders


def test_rows_are_a_function_of_the_step() -> None:
    forward = {step: training_rows(30, 8, step, seed=4) for step in range(40)}
    for step in reversed(range(40)):  # back over more epochs than are held
        assert np.array_equal(training_rows(30, 8, step, seed=4), forward[step])


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 1, 2, 2) % 5
    labels = np.array([0, 1, 2, 0, 1, 2])
    return write_data(tmp_path, {"train": (images, labels)}, levels=5, classes=3, extra={})


def test_rows_come_in_the_order_asked_for_and_at_their_bins_centres(directory: DataDirectory) -> None:
    split = Split(directory, "train")
    batch = split.rows(np.array([4, 0, 2, 2]), torch.device("cpu"))
    # Five levels: bins of width 0.4, whose centres are -0.8, -0.4, 0, 0.4, 0.8.
    centres = np.array([-0.8, -0.4, 0.0, 0.4, 0.8])
    expected = centres[np.asarray(directory.images("train"))[[4, 0, 2, 2]]]
    assert batch.x.dtype == torch.float32
    assert batch.x.numpy() == pytest.approx(expected, abs=1e-6)
    assert batch.y.tolist() == [1, 0, 2, 2]
    assert len(split) == 6


def test_latents_are_taken_as_they_are(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(0, 3, (4, 2, 3, 3)).astype(np.float32)
    made = write_data(tmp_path, {"train": (latents, np.zeros(4, np.int64))}, levels=None, classes=1, extra={})
    batch = Split(made, "train").rows(np.array([3, 1]), torch.device("cpu"))
    assert np.array_equal(batch.x.numpy(), latents[[3, 1]])


def test_a_split_of_arrays_is_the_split_of_the_directory_that_holds_them(directory: DataDirectory) -> None:
    stored = Split(directory, "train")
    held = Split.of(np.array(stored.images), np.array(stored.labels), stored.levels)
    rows, cpu = np.array([5, 0, 3]), torch.device("cpu")
    ours, theirs = held.rows(rows, cpu), stored.rows(rows, cpu)
    assert len(held) == 6
    assert torch.equal(ours.x, theirs.x)
    assert torch.equal(ours.y, theirs.y)
    with pytest.raises(AssertionError):
        Split.of(np.zeros((3, 1, 2, 2), np.uint8), np.zeros(2, np.int64), 5)
