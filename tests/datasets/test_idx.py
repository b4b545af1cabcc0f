"""The IDX reader on small files in the true format, whole and broken."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets import _idx

PIXELS = bytes(range(2 * 3 * 4))
IMAGES = bytes.fromhex("00000803 00000002 00000003 00000004") + PIXELS
LABELS = bytes.fromhex("00000801 00000002") + b"\x07\x09"


def folder(path: Path, **replaced: bytes) -> Path:
    files = {"train-images-idx3-ubyte": IMAGES, "train-labels-idx1-ubyte": LABELS}
    files |= {"t10k-images-idx3-ubyte": IMAGES, "t10k-labels-idx1-ubyte": LABELS}
    for name, content in (files | {key.replace("_", "-"): value for key, value in replaced.items()}).items():
        (path / f"{name}.gz").write_bytes(gzip.compress(content))
    return path


def test_pixels_are_read_row_by_row(tmp_path: Path) -> None:
    images, labels = _idx.read_split(folder(tmp_path), "train")
    assert images.shape == (2, 1, 3, 4)
    assert images.dtype == np.uint8
    assert images[1, 0, 2, 1] == (1 * 3 + 2) * 4 + 1
    assert labels.dtype == np.int64
    assert labels.tolist() == [7, 9]


def test_plain_files_are_read_as_gzipped_ones(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(IMAGES)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(LABELS)
    images, labels = _idx.read_split(tmp_path, "test")
    assert images.tobytes() == PIXELS
    assert labels.tolist() == [7, 9]


def test_written_files_are_what_torchvision_reads(tmp_path: Path) -> None:
    from torchvision.datasets.mnist import read_image_file

    array = np.random.default_rng(0).integers(0, 256, (5, 4, 6)).astype(np.uint8)
    _idx.write(tmp_path / "images.gz", array)
    (tmp_path / "images").write_bytes(gzip.decompress((tmp_path / "images.gz").read_bytes()))
    assert np.array_equal(read_image_file(str(tmp_path / "images")).numpy(), array)
    assert np.array_equal(_idx.read(tmp_path / "images.gz", 3), array)
    first = (tmp_path / "images.gz").read_bytes()
    assert first[4:8] == bytes(4), "a time in the gzip header would change the bytes of each cut"


BROKEN = {
    "another magic number": (b"\x00\x01" + IMAGES[2:], "begins with the bytes 00 01 08 03"),
    "another type": (b"\x00\x00\x0d\x03" + IMAGES[4:], "begins with the bytes 00 00 0d 03"),
    "labels for images": (LABELS + bytes(20), "begins with the bytes 00 00 08 01"),
    "a byte lost": (IMAGES[:-1], "truncated: 23 bytes"),
    "a byte too many": (IMAGES + b"\x00", "too long: 25 bytes"),
    "no whole header": (IMAGES[:9], "truncated: 9 bytes, and an IDX header of 3 dimensions has 16"),
    "nothing": (b"", "truncated: 0 bytes"),
    "a dimension too large": (IMAGES[:4] + struct.pack(">I", 3) + IMAGES[8:], r"\(3, 3, 4\) in its header makes 36"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_images_are_refused(tmp_path: Path, case: str) -> None:
    content, sentence = BROKEN[case]
    with pytest.raises(ValueError, match=sentence):
        _idx.read_split(folder(tmp_path, train_images_idx3_ubyte=content), "train")


def test_counts_of_images_and_labels_must_agree(tmp_path: Path) -> None:
    labels = bytes.fromhex("00000801 00000003") + b"\x01\x02\x03"
    with pytest.raises(ValueError, match="2 train images and 3 labels"):
        _idx.read_split(folder(tmp_path, train_labels_idx1_ubyte=labels), "train")


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-9], lambda whole: b"plain" + whole, lambda whole: whole[:12] + b"!!" + whole[14:]]
)
def test_damaged_gzip_is_refused(tmp_path: Path, damage) -> None:
    file = folder(tmp_path) / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match="not a whole gzip file"):
        _idx.read_split(tmp_path, "train")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither train-images-idx3-ubyte nor train-images-idx3-ubyte\.gz"):
        _idx.read_split(tmp_path, "train")
