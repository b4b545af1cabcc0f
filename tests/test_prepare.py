"""prepare on a folder of IDX files with planted duplicates."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pipeline import prepare
from pipeline.config import schema
from pipeline.core import artifacts
from pipeline.datasets import _idx
from pipeline.store.data import SPLITS, DataDirectory
from tests.support import blocks

CLASSES, TRAIN, TEST = 10, 400, 100


def planted() -> tuple[np.ndarray, np.ndarray]:
    """Images of noise; training images 0 and 1 equal test images, 2 nearly does, 10 to 39 are ten groups of three, 50 = 51."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (TRAIN, 28, 28)).astype(np.uint8)
    test = rng.integers(0, 256, (TEST, 28, 28)).astype(np.uint8)
    train[0], train[1], train[2] = test[5], test[6], near(test[7], 1)
    for group in range(10):
        first = train[10 + group]
        # A chain: first and last differ by 2 grey levels on average, above the limit of 1.5, but each by 1 from the second.
        train[20 + group] = near(first, 1)
        train[30 + group] = near(train[20 + group], 1)
    train[51] = train[50]
    return train, test


def near(image: np.ndarray, grey_levels: int) -> np.ndarray:
    """`image` with every pixel moved by `grey_levels`, downwards only where there is no room upwards."""
    return np.where(image <= 250, image.astype(int) + grey_levels, image.astype(int) - grey_levels).astype(np.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "idx"
    train, test = planted()
    for stem, images in (("train", train), ("t10k", test)):
        _idx.write(folder / f"{stem}-images-idx3-ubyte.gz", images)
        _idx.write(folder / f"{stem}-labels-idx1-ubyte.gz", (np.arange(len(images)) % CLASSES).astype(np.uint8))
    return folder


def data(source: Path, **changed: object) -> schema.Data:
    names = [str(label) for label in range(CLASSES)]
    return blocks.data("idx", source={"folder": str(source), "class_names": names, "source": "Noise."}, **changed)


def positions(made: DataDirectory, split: str) -> list[int]:
    """Where the images of a split stand among the planted training images (the first of equal ones)."""
    first = {image.tobytes(): position for position, image in reversed(list(enumerate(planted()[0])))}
    return [first[np.asarray(image).tobytes()] for image in made.images(split)]


def test_no_image_is_on_two_sides(source: Path, tmp_path: Path) -> None:
    made = prepare.run(data(source), tmp_path / "out")
    flat = {split: np.array(made.images(split)).reshape(-1, 784).astype(float) for split in SPLITS}
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert cdist(flat[a], flat[b], "cityblock").min() / 784 > 1.5
    assert len(flat["test"]) == TEST
    assert len(flat["train"]) + len(flat["valid"]) == TRAIN - 3
    assert made.spec["duplicates"] == {
        "near_grey_levels": 1.5,
        "pairs_found": {
            "within_training": {"exact": 1, "near": 20},
            "within_test": {"exact": 0, "near": 0},
            "between_training_and_test": {"exact": 2, "near": 1},
        },
        "training_images_removed": {"exact": 2, "near": 1},
        "groups_kept_on_one_side": 11,
        "pairs_between_splits": {"exact": 0, "near": 0},
    }


def test_chains_stay_together_whatever_the_seed(source: Path, tmp_path: Path) -> None:
    sides = set()
    for seed in range(6):
        made = prepare.run(data(source, seed=seed, valid_fraction=0.4), tmp_path / f"{seed}")
        valid = set(positions(made, "valid"))
        for group in range(10):
            members = {10 + group, 20 + group, 30 + group}
            assert members <= valid or not members & valid
            sides.add(members <= valid)
    assert sides == {True, False}


def test_without_near_duplicates_only_equal_images_count(source: Path, tmp_path: Path) -> None:
    made = prepare.run(data(source, near_duplicate_grey_levels=0.0), tmp_path / "out")
    assert made.spec["duplicates"]["training_images_removed"] == {"exact": 2, "near": 0}
    assert made.spec["duplicates"]["groups_kept_on_one_side"] == 1


def test_the_split_is_stratified_and_of_the_asked_size(source: Path, tmp_path: Path) -> None:
    made = prepare.run(data(source, valid_fraction=0.25, near_duplicate_grey_levels=0.0), tmp_path / "out")
    train, valid = (np.array(made.spec["class_counts"][split]) for split in ("train", "valid"))
    assert abs(valid.sum() - 0.25 * (TRAIN - 2)) <= 2
    assert np.abs(valid - 0.25 * (train + valid)).max() <= 2
    assert made.spec["counts"] == {"train": int(train.sum()), "valid": int(valid.sum()), "test": TEST}


def test_images_keep_their_labels_and_their_order(source: Path, tmp_path: Path) -> None:
    made = prepare.run(data(source), tmp_path / "out")
    for split in ("train", "valid"):
        found = positions(made, split)
        assert sorted(found) == found
        assert [position % CLASSES for position in found if position != 50] == [
            int(label) for position, label in zip(found, made.labels(split), strict=True) if position != 50
        ]
    assert np.array_equal(made.images("test")[:, 0], planted()[1])
    assert made.labels("test").tolist() == [position % CLASSES for position in range(TEST)]


def test_two_runs_write_the_same_bytes_and_another_seed_does_not(source: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare.run(data(source, seed=seed), tmp_path / name)
    files = sorted(os.listdir(tmp_path / "a"))
    assert files == sorted(["spec.json", *(f"{split}.{kind}.npy" for split in SPLITS for kind in ("images", "labels"))])
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert (tmp_path / "a" / "train.images.npy").read_bytes() != (tmp_path / "c" / "train.images.npy").read_bytes()


def test_a_run_that_is_stopped_leaves_no_spec_of_an_earlier_one(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare.run(data(source), tmp_path / "out")

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts, "write_array", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare.run(data(source, seed=1), tmp_path / "out")
    with pytest.raises(ValueError, match="run: dvc repro prepare"):
        DataDirectory.open(tmp_path / "out")


def test_spec_of_synthetic_data_has_its_density(tmp_path: Path) -> None:
    source = {"shape": [1, 4, 4], "mean": 0.2, "std": 0.2, "train": 60, "test": 20}
    made = prepare.run(blocks.data("gaussian", source=source), tmp_path)
    assert (made.spec["shape"], made.spec["levels"], made.spec["classes"]) == ([1, 4, 4], 256, 1)
    assert (made.spec["density"]["mean"], made.spec["density"]["std"]) == (0.2, 0.2)
    assert made.spec["class_names"] == ["noise"]
    assert made.data_spec.dimensions == 16


def test_splits_that_cannot_be_made_are_refused(source: Path, tmp_path: Path) -> None:
    small = {"shape": [1, 4, 4], "std": 0.2, "train": 1, "test": 1}
    with pytest.raises(ValueError, match=r"^data\.valid_fraction is 0\.1, by which 1 distinct training images"):
        prepare.run(blocks.data("gaussian", source=small), tmp_path)
    with pytest.raises(ValueError, match=r"^data\.valid_fraction is 0\.001, .* 10 classes cannot be split"):
        prepare.run(data(source, valid_fraction=0.001), tmp_path)
    alike = {"shape": [1, 4, 4], "std": 0.001, "train": 50, "test": 5}
    with pytest.raises(ValueError, match=r"^data\.near_duplicate_grey_levels is 1\.5, at which every training image"):
        prepare.run(blocks.data("gaussian", source=alike), tmp_path)
