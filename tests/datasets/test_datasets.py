"""Each kind of data set against what is known of it."""

from __future__ import annotations

import gzip
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits

from pipeline.config import plugins, schema
from pipeline.config.base import Block
from pipeline.config.load import read_block
from pipeline.core import artifacts
from pipeline.datasets import _cut, _idx, digits, fashion_mnist, fashion_mnist_mini, gaussian
from pipeline.datasets._raw import Raw

ROOT = Path(__file__).parents[2]
MINI = ROOT / "data" / "raw" / "fashion-mnist-mini"


def write_folder(folder: Path, train: int = 30, test: int = 20) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("t10k", test)):
        _idx.write(folder / f"{split}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)).astype(np.uint8))
        _idx.write(folder / f"{split}-labels-idx1-ubyte.gz", (np.arange(count) * 7 % 10).astype(np.uint8))
    return folder


def test_the_mini_set_is_balanced_and_as_its_readme_says() -> None:
    raw = fashion_mnist_mini.load(fashion_mnist_mini.Config(folder=str(MINI)))
    assert raw.train_images.shape == (10_000, 1, 28, 28)
    assert raw.test_images.shape == (2_000, 1, 28, 28)
    assert np.bincount(raw.train_labels).tolist() == [1000] * 10
    assert np.bincount(raw.test_labels).tolist() == [200] * 10
    assert (raw.levels, raw.classes, raw.class_names[9]) == (256, 10, "Ankle boot")
    listed = re.findall(r"\| ([0-9a-f]{64}) \| (\S+) \|", (MINI / "README.md").read_text())
    assert len(listed) == 4
    for digest, name in listed:
        assert artifacts.hash_file(MINI / name) == digest
    # The first labels of FashionMNIST, as printed in its documentation: 9 0 0 3 0 2 7 2 5 5 and 9 2 1 1 6 1 4 6 5 7.
    assert raw.train_labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert raw.test_labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_the_cut_keeps_the_first_of_each_class_in_their_order(tmp_path: Path) -> None:
    labels = np.array([1, 0, 1, 1, 0, 0, 1])
    assert _cut.first_of_each_class(labels, 2).tolist() == [0, 1, 2, 4]
    with pytest.raises(ValueError, match="class 0 has 3 images; 4 were asked for"):
        _cut.first_of_each_class(labels, 4)
    whole = write_folder(tmp_path / "whole")
    for out in ("first", "second"):
        assert _cut.main([str(whole), str(tmp_path / out), "--train", "2", "--test", "1"]) == 0
    images, kept = _idx.read_split(tmp_path / "first", "train")
    assert kept.tolist() == [label * 7 % 10 for label in range(20)]
    assert np.array_equal(images, _idx.read_split(whole, "train")[0][:20])
    names = sorted(file.name for file in (tmp_path / "first").iterdir())
    assert len(names) == 4
    assert [(tmp_path / "first" / name).read_bytes() for name in names] == [
        (tmp_path / "second" / name).read_bytes() for name in names
    ]


def test_fashion_mnist_from_a_folder(tmp_path: Path) -> None:
    raw = fashion_mnist.load(fashion_mnist.Config(folder=str(write_folder(tmp_path))))
    assert (raw.train_images.shape, raw.test_images.shape) == ((30, 1, 28, 28), (20, 1, 28, 28))
    assert (raw.levels, raw.classes) == (256, 10)


def test_fashion_mnist_needs_exactly_one_origin() -> None:
    module = "data.source"
    for values in ({}, {"folder": "somewhere", "download": True}):
        with pytest.raises(ValueError, match=r"^data\.source\.folder is .* allowed is one of the two"):
            read_block(fashion_mnist.Config, values, module)


def test_a_download_goes_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def fetch(root: str, train: bool, download: bool) -> None:
        assert train
        assert download
        write_folder(Path(root) / "FashionMNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fetch)
    raw = fashion_mnist.load(fashion_mnist.Config(download=True, cache=str(tmp_path)))
    assert len(raw.train_images) == 30

    def fail(root: str, train: bool, download: bool) -> None:
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    with pytest.raises(ValueError, match=r"could not be downloaded .*data\.source\.folder"):
        fashion_mnist.load(fashion_mnist.Config(download=True, cache=str(tmp_path)))


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    file = folder / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-1] + b"\x0a"))
    with pytest.raises(ValueError, match="test split has labels from 0 to 10; allowed: 0 to 9"):
        fashion_mnist.load(fashion_mnist.Config(folder=str(folder)))


def test_raw_refuses_what_does_not_agree() -> None:
    images, labels = np.full((2, 1, 2, 2), 3, np.uint8), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="pixel of value 3; allowed: 0 to 2"):
        Raw(images, labels, images, labels, 3, 1, ("one",), "")
    with pytest.raises(ValueError, match="must be alike"):
        Raw(images, labels, images[..., :1], labels, 4, 1, ("one",), "")
    with pytest.raises(ValueError, match="test split of the data set has no images"):
        Raw(images, labels, images[:0], labels[:0], 4, 1, ("one",), "")


def test_digits_are_all_there_once_and_stratified() -> None:
    raw = digits.load(digits.Config(test_fraction=0.25))
    assert (raw.levels, raw.classes, raw.train_images.max()) == (17, 10, 16)
    assert len(raw.test_images) == math.ceil(0.25 * 1797)
    pixels, labels = load_digits(return_X_y=True)
    rows = sorted((label, *row) for label, row in zip(labels, pixels.astype(int).tolist(), strict=True))
    images = np.concatenate([raw.train_images, raw.test_images]).reshape(1797, -1)
    found = zip(np.concatenate([raw.train_labels, raw.test_labels]).tolist(), images.tolist(), strict=True)
    assert sorted((label, *row) for label, row in found) == rows
    assert np.abs(np.bincount(raw.test_labels) - 0.25 * np.bincount(labels)).max() <= 1


def test_gaussian_pixels_have_the_coded_density() -> None:
    cfg = gaussian.Config(shape=(2, 3, 5), mean=-0.2, std=0.2, levels=16, train=4000, test=50)
    raw = gaussian.load(cfg)
    assert raw.train_images.shape == (4000, 2, 3, 5)
    edges = np.linspace(-1, 1, 17)
    edges[0], edges[-1] = -np.inf, np.inf
    expected = np.diff(stats.norm.cdf(edges, -0.2, 0.2)) * raw.train_images.size
    counts = np.bincount(raw.train_images.ravel(), minlength=16)
    likely = expected >= 5
    statistic = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    assert statistic < stats.chi2.ppf(0.9999, likely.sum())
    assert raw.classes == 1
    assert raw.density is not None
    assert (raw.density["mean"], raw.density["std"]) == (-0.2, 0.2)


def test_gaussian_pixels_are_coded_to_the_nearest_bin_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.array([-1.3, -1.0, -0.74, -0.26, -0.24, 0.3, 0.51, 0.99, 1.0, 1.2, 0.1, 0.0001]).reshape(1, 1, 3, 4)

    class Fixed:
        def normal(self, mean: float, std: float, shape: tuple[int, ...]) -> np.ndarray:
            return np.broadcast_to(x, shape)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Fixed())
    raw = gaussian.load(gaussian.Config(shape=(1, 3, 4), levels=4, train=2, test=1))
    centres = (2 * np.arange(4) + 1) / 4 - 1
    nearest = np.abs(x[..., None] - centres).argmin(-1)
    assert np.array_equal(raw.train_images[0], nearest[0])
    assert raw.density is not None
    assert raw.density["pixels_outside"] == {"train": 4, "test": 2}
    assert raw.density["pixels"] == {"train": 24, "test": 12}


def test_gaussian_refuses_a_density_that_does_not_fit() -> None:
    for mean, std in ((0.0, 0.3), (0.7, 0.1), (-0.5, 0.16)):
        expected = stats.norm.sf(1, mean, std) + stats.norm.cdf(-1, mean, std)
        assert gaussian.outside_probability(mean, std) == pytest.approx(expected, rel=1e-9)
        values = {"mean": mean, "std": std}
        if expected <= 1e-3:
            assert read_block(gaussian.Config, values, "data.source").mean == mean
        else:
            with pytest.raises(ValueError, match=r"^data\.source\.std is .* lower data\.source\.std"):
                read_block(gaussian.Config, values, "data.source")


def test_gaussian_is_keyed_by_its_seed() -> None:
    first, again, other = (gaussian.load(gaussian.Config(seed=seed, train=9, test=9)) for seed in (1, 1, 2))
    assert np.array_equal(first.train_images, again.train_images)
    assert not np.array_equal(first.train_images, other.train_images)
    assert not np.array_equal(first.train_images, first.test_images)


@pytest.mark.parametrize("kind", plugins.names("datasets"))
def test_every_kind_has_config_and_load(kind: str) -> None:
    module = schema.dataset_module(schema.Data(kind=kind))
    assert issubclass(module.Config, Block)
    assert callable(module.load)
    with pytest.raises(ValueError, match=r"data\.source\.foldr is not a known key"):
        read_block(module.Config, {"foldr": "x"}, "data.source")
