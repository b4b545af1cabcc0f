"""Each kind of data set against what is known of it."""

from __future__ import annotations

import gzip
import math
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits

from pipeline import prepare
from pipeline.config import plugins
from pipeline.config.base import StrictConfig
from pipeline.config.load import read_block
from pipeline.core import artifacts
from pipeline.datasets import _cut, _idx, digits, fashion_mnist, fashion_mnist_mini, gaussian, idx
from pipeline.datasets._raw import Raw
from tests.support import blocks

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


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
@pytest.mark.parametrize("unpacked", [False, True])
def test_fashion_mnist_from_a_folder(unpacked: bool, tmp_path: Path) -> None:
    for file in DEBIAN.iterdir():
        content = file.read_bytes()
        if unpacked:
            (tmp_path / file.stem).write_bytes(gzip.decompress(content))
        else:
            (tmp_path / file.name).write_bytes(content)
    raw = fashion_mnist.load(fashion_mnist.Config(folder=str(tmp_path)))
    assert (raw.train_images.shape, raw.test_images.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert np.bincount(raw.train_labels).tolist() == [6000] * 10
    assert np.bincount(raw.test_labels).tolist() == [1000] * 10
    assert (raw.levels, raw.classes, raw.class_names[9]) == (256, 10, "Ankle boot")
    assert "FashionMNIST" in raw.source


def write_digits(folder: Path) -> Path:
    """scikit-learn's digits, three times as large and with a margin: 28 x 28 pixels, in MNIST's files."""
    pixels, labels = load_digits(return_X_y=True)
    images = np.pad(np.kron(pixels.reshape(-1, 8, 8) * 15, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    for stem, rows in (("train", slice(0, 1500)), ("t10k", slice(1500, None))):
        _idx.write(folder / f"{stem}-images-idx3-ubyte.gz", images[rows])
        _idx.write(folder / f"{stem}-labels-idx1-ubyte.gz", labels[rows].astype(np.uint8))
    return folder


@pytest.mark.parametrize("kind", [fashion_mnist, fashion_mnist_mini])
def test_other_images_are_not_called_fashion_mnist(kind: ModuleType, tmp_path: Path) -> None:
    name = kind.__name__.rpartition(".")[2].replace("_", "-")
    with pytest.raises(ValueError) as refusal:
        kind.load(kind.Config(folder=str(write_digits(tmp_path))))
    said = str(refusal.value)
    assert said.startswith(f"{tmp_path} holds another train-images-idx3-ubyte than {name} has (sha256 of its content ")
    assert "data.kind: idx" in said
    assert set(kind.CONTENT) == {file.stem for file in MINI.glob("*.gz")}
    assert "\n" not in said


@pytest.mark.parametrize("file", sorted(file.name for file in MINI.glob("*.gz")))
def test_a_flipped_byte_is_refused(file: str, tmp_path: Path) -> None:
    """One bit of one pixel, or one label: the files are still whole and well-formed, and are called by another name."""
    for source in MINI.glob("*.gz"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    content = bytearray(gzip.decompress((tmp_path / file).read_bytes()))
    content[-1] ^= 1
    (tmp_path / file).write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=f"holds another {file.removesuffix('.gz')} than fashion-mnist-mini has"):
        fashion_mnist_mini.load(fashion_mnist_mini.Config(folder=str(tmp_path)))


def test_the_content_counts_not_its_compression(tmp_path: Path) -> None:
    for source in MINI.glob("*.gz"):
        (tmp_path / source.stem).write_bytes(gzip.decompress(source.read_bytes()))
    raw = fashion_mnist_mini.load(fashion_mnist_mini.Config(folder=str(tmp_path)))
    assert len(raw.train_images) == 10_000


NAMES = ("nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OWN = {"class_names": list(NAMES), "source": "Digits of 43 writers (UCI, CC BY 4.0), enlarged."}


def read_own(where: Path, **changed: object) -> idx.Config:
    return read_block(idx.Config, {"folder": str(where), **OWN, **changed}, "data.source")  # type: ignore[no-any-return]


def test_images_of_ones_own_have_the_names_that_are_given(tmp_path: Path) -> None:
    """Into spec.json, which is all that later stages know of the data."""
    source = {"folder": str(write_digits(tmp_path / "raw")), **OWN}
    made = prepare.run(blocks.data("idx", source=source), tmp_path / "out")
    assert (made.spec["kind"], made.spec["class_names"], made.spec["source"]) == ("idx", list(NAMES), OWN["source"])
    assert made.spec["shape"] == [1, 28, 28]
    assert made.spec["levels"] == 256
    assert made.spec["counts"]["test"] == 297
    pixels, labels = load_digits(return_X_y=True)
    assert np.array_equal(made.images("test")[:, 0, 2:26:3, 2:26:3], 15 * pixels[1500:].reshape(-1, 8, 8))
    assert np.array_equal(made.labels("test"), labels[1500:])


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"class_names": ["a", "b", "a"]}, "data.source.class_names has 'a' more than once; allowed: names that differ"),
        ({"class_names": []}, "data.source.class_names is (); allowed: "),
        ({"class_names": ["a", " "]}, "data.source.class_names has ' '; allowed: words"),
        ({"class_names": [0, 1]}, "data.source.class_names.0 is 0; allowed: a valid string"),
        ({"source": "\t"}, "data.source.source has '\\t'; allowed: words"),
        ({"source": ""}, "data.source.source is ''; allowed: "),
        ({"folder": ""}, "data.source.folder is ''; allowed: "),
        ({"levels": 257}, "data.source.levels is 257; allowed: less than or equal to 256"),
    ],
)
def test_what_is_said_of_ones_own_images_must_say_something(changed: dict[str, object], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as refusal:
        read_own(tmp_path, **changed)
    assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize("missing", ["folder", "class_names", "source"])
def test_ones_own_images_are_never_named_by_default(missing: str) -> None:
    values = {"folder": "somewhere", **OWN}
    del values[missing]
    with pytest.raises(ValueError, match=rf"^data\.source\.{missing} is missing; it is required$"):
        read_block(idx.Config, values, "data.source")


def test_labels_and_levels_beyond_what_is_said_are_refused(tmp_path: Path) -> None:
    write_digits(tmp_path)
    with pytest.raises(ValueError, match=r"^data\.source\.class_names has 9 names, and .* has labels up to 9; .* so 10$"):
        idx.load(read_own(tmp_path, class_names=NAMES[:9]))
    with pytest.raises(ValueError, match="has a pixel of value 240; allowed: 0 to 239"):
        idx.load(read_own(tmp_path, levels=240))
    assert idx.load(read_own(tmp_path, levels=241)).levels == 241


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
    wanted = fashion_mnist.Config(download=True, cache=str(tmp_path))
    with pytest.raises(ValueError, match="holds another train-images-idx3-ubyte than fashion-mnist has"):
        fashion_mnist.load(wanted)
    # As if what was downloaded were the real thing.
    monkeypatch.setattr(fashion_mnist, "CONTENT", _idx.digests(tmp_path / "FashionMNIST" / "raw"))
    assert len(fashion_mnist.load(wanted).train_images) == 30

    def fail(root: str, train: bool, download: bool) -> None:
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    with pytest.raises(ValueError, match=r"could not be downloaded .*data\.source\.folder"):
        fashion_mnist.load(wanted)


def test_raw_refuses_what_does_not_agree() -> None:
    images, labels = np.full((2, 1, 2, 2), 3, np.uint8), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="pixel of value 3; allowed: 0 to 2"):
        Raw(images, labels, images, labels, 3, 1, ("one",), "")
    with pytest.raises(ValueError, match="test split has labels from 0 to 3; allowed: 0 to 2"):
        Raw(images, labels, images, np.array([0, 3]), 4, 3, ("one", "two", "three"), "")
    with pytest.raises(ValueError, match="must be alike"):
        Raw(images, labels, images[..., :1], labels, 4, 1, ("one",), "")
    with pytest.raises(ValueError, match="test split of the data set has no images"):
        Raw(images, labels, images[:0], labels[:0], 4, 1, ("one",), "")


def test_a_model_is_told_shape_levels_and_classes() -> None:
    images, labels = np.zeros((2, 3, 4, 5), np.uint8), np.zeros(2, np.int64)
    spec = Raw(images, labels, images, labels, 7, 2, ("one", "two"), "").data_spec
    assert (spec.shape, spec.levels, spec.classes, spec.dimensions) == ((3, 4, 5), 7, 2, 60)


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
    cfg = gaussian.Config(shape=(3, 2, 5), mean=-0.2, std=0.2, levels=16, train=4000, test=50)
    raw = gaussian.load(cfg)
    assert raw.train_images.shape == (4000, 3, 2, 5)
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
    module = plugins.dataset(kind)
    assert issubclass(module.Config, StrictConfig)
    assert callable(module.load)
    required = {"folder": "somewhere", **OWN} if kind == "idx" else {}
    with pytest.raises(ValueError, match=r"data\.source\.foldr is not a known key"):
        read_block(module.Config, {**required, "foldr": "x"}, "data.source")
