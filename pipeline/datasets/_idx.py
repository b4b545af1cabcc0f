"""The IDX format of MNIST and its successors, plain or gzipped (http://yann.lecun.com/exdb/mnist, "file formats").

Big-endian: two zero bytes, a type byte (0x08: unsigned byte), the number of dimensions, each dimension as 4 bytes, the data.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core import artifacts

UNSIGNED_BYTE = 0x08
SPLITS = {"train": "train", "test": "t10k"}


def read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of one file; raises ValueError where it isn't unsigned-byte IDX with that many dimensions and that length."""
    content = _content(path)
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(
            f"{path} is truncated: {len(content)} bytes, and an IDX header of {dimensions} dimensions has {header}"
        )
    zeros, kind, rank = struct.unpack(">HBB", content[:4])
    if zeros != 0 or kind != UNSIGNED_BYTE or rank != dimensions:
        raise ValueError(
            f"{path} begins with the bytes {content[:4].hex(' ')}; an IDX file of unsigned bytes in {dimensions} dimensions "
            f"begins with 00 00 08 {dimensions:02x}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = math.prod(shape)
    if len(content) - header != expected:
        word = "truncated" if len(content) - header < expected else "too long"
        raise ValueError(f"{path} is {word}: {len(content) - header} bytes of data, and {shape} in its header makes {expected}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of what each of the four files holds, by its name without .gz: the same however it was compressed."""
    names = [f"{stem}-{what}" for stem in SPLITS.values() for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    return {name: hashlib.sha256(_content(_find(folder, name))).hexdigest() for name in names}


def write(path: Path, array: NDArray[np.uint8]) -> None:
    """One gzipped IDX file; the same array gives the same bytes (no time, no name in the gzip header)."""
    header = struct.pack(f">HBB{array.ndim}I", 0, UNSIGNED_BYTE, array.ndim, *array.shape)
    with artifacts.atomic(path) as file, gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=0) as zipped:
        zipped.write(header + np.ascontiguousarray(array).tobytes())


def read_split(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 1, H, W) uint8 and labels (N,) int64 of "train" or "test", by the file names of MNIST."""
    stem = SPLITS[split]
    images = read(_find(folder, f"{stem}-images-idx3-ubyte"), 3)
    labels = read(_find(folder, f"{stem}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{folder} has {len(images)} {split} images and {len(labels)} labels for them; the counts must be equal"
        )
    return images[:, None], labels.astype(np.int64)


def _content(path: Path) -> bytes:
    """The bytes of one file, unpacked; raises ValueError for a damaged .gz."""
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); fetch it again") from None


def _find(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise ValueError(f"{folder} holds neither {name} nor {name}.gz; name a folder of IDX files by data.source.folder")
