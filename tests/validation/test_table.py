"""The table of images against direct computation."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import artifacts
from pipeline.store.data import DataDirectory, write_data
from pipeline.validation import table


def test_statistics_of_an_image_worked_by_hand() -> None:
    images = np.array([[[[0, 2], [4, 2]], [[1, 1], [1, 5]]], np.full((2, 2, 2), 7)], np.uint8)
    rows = table.statistics(images)
    assert rows.loc[0, ["dtype", "channels", "height", "width"]].tolist() == ["uint8", 2, 2, 2]
    # 0 1 1 1 2 2 4 5: sum 16, sum of squares 52, variance 52/8 - 2^2 = 2.5
    assert rows.loc[0, ["min", "max", "mean", "distinct", "nonfinite"]].tolist() == [0, 5, 2, 5, 0]
    assert rows.loc[0, "std"] == pytest.approx(2.5**0.5)
    assert rows.loc[1, ["min", "max", "mean", "std", "distinct"]].tolist() == [7, 7, 7, 0, 1]
    assert rows.loc[1, "sha256"] == hashlib.sha256(b"\x07" * 8).hexdigest()


def test_height_and_width_are_not_swapped() -> None:
    rows = table.statistics(np.zeros((1, 3, 5, 7), np.uint8))
    assert rows.loc[0, ["channels", "height", "width"]].tolist() == [3, 5, 7]


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    images = np.array([[[[1.0, np.nan, np.inf, 3.0]]], [[[np.nan] * 4]]], np.float32)
    rows = table.statistics(images)
    assert rows["nonfinite"].tolist() == [2, 4]
    assert rows.loc[0, ["min", "max", "mean", "distinct"]].tolist() == [1, 3, 2, 2]
    assert np.isnan(rows.loc[1, "mean"])


def test_spread_is_the_mean_squared_difference_of_pairs() -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 2, 3, 3)).astype(np.uint8)
    flat = images.reshape(12, -1).astype(float)
    pairs = ((flat[:, None] - flat[None]) ** 2).mean(2)
    assert table.spread(images) == pytest.approx(np.sqrt(pairs.mean() / 2), rel=1e-12)
    assert table.spread(np.repeat(images[:1], 5, 0)) == 0


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.integers(0, 256, (count, 1, 4, 3)).astype(np.uint8), np.arange(count, dtype=np.int64) % 2)
        for split, count in (("train", 8), ("valid", 4), ("test", 6))
    }
    return write_data(tmp_path, splits, levels=256, classes=2, extra={})


def test_rows_come_in_order_with_their_labels(directory: DataDirectory) -> None:
    rows = table.data_table(directory)
    assert rows.groupby("split", sort=False).size().to_dict() == {"train": 8, "valid": 4, "test": 6}
    last = rows.iloc[-1]
    assert (last["split"], last["position"], last["label"]) == ("test", 5, 1)
    assert last["mean"] == pytest.approx(directory.images("test")[5].mean())


def test_metadata_hashes_the_arrays_anew(directory: DataDirectory) -> None:
    before = table.metadata(directory)
    assert before.found_hash == before.recorded_hash
    images = np.array(directory.images("valid"))
    images[0, 0, 0, 0] ^= 1
    artifacts.write_array(directory.path / "valid.images.npy", images)
    after = table.metadata(directory)
    assert after.recorded_hash == before.recorded_hash
    assert after.found_hash != before.found_hash


def test_arrays_that_cannot_be_described_are_refused(directory: DataDirectory) -> None:
    artifacts.write_array(directory.path / "valid.labels.npy", np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"valid images of shape \(4, 1, 4, 3\) and labels of shape \(3,\)"):
        table.data_table(directory)
    (directory.path / "valid.labels.npy").unlink()
    with pytest.raises(ValueError, match=r"no readable valid\.labels\.npy"):
        table.data_table(directory)
    artifacts.write_array(directory.path / "valid.labels.npy", np.zeros(4, np.int64))
    whole = (directory.path / "test.images.npy").read_bytes()
    (directory.path / "test.images.npy").write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"no readable test\.images\.npy"):
        table.metadata(directory)


def test_an_incomplete_spec_is_refused(directory: DataDirectory) -> None:
    spec = {key: value for key, value in directory.spec.items() if key not in ("hash", "levels")}
    with pytest.raises(ValueError, match="lacks hash, levels"):
        table.metadata(DataDirectory(directory.path, spec))
    with pytest.raises(ValueError, match="latents"):
        table.metadata(DataDirectory(directory.path, {**directory.spec, "levels": None}))
