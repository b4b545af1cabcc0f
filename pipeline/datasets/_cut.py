"""Cuts a small class-balanced data set out of a folder of IDX files: the first images of each class, in their order.

What `kind: fashion-mnist-mini` reads was made by the command below and is known by its content; `kind: idx` reads other cuts.

python -m pipeline.datasets._cut /usr/share/datasets/fashion-mnist data/raw/fashion-mnist-mini
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core import artifacts, command
from pipeline.datasets import _idx


def first_of_each_class(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Positions, ascending, of the first `count` images of each class; raises ValueError where a class has fewer."""
    classes, sizes = np.unique(labels, return_counts=True)
    if sizes.min() < count:
        raise ValueError(f"class {classes[sizes.argmin()]} has {sizes.min()} images; {count} were asked for")
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in classes]))


def run(folder: Path, out: Path, train: int, test: int) -> None:
    """Writes the four files and prints their sha256."""
    for split, count in (("train", train), ("test", test)):
        images, labels = _idx.read_split(folder, split)
        kept = first_of_each_class(labels, count)
        stem = _idx.SPLITS[split]
        for name, array in (
            (f"{stem}-images-idx3-ubyte.gz", images[kept, 0]),
            (f"{stem}-labels-idx1-ubyte.gz", labels[kept].astype(np.uint8)),
        ):
            _idx.write(out / name, array)
            print(f"{artifacts.hash_file(out / name)}  {name}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="IDX files of the whole set")
    parser.add_argument("out", type=Path, help="where the cut goes")
    parser.add_argument("--train", type=int, default=1000, help="training images per class (default: %(default)s)")
    parser.add_argument("--test", type=int, default=200, help="test images per class (default: %(default)s)")
    arguments = parser.parse_args(argv)
    return command.run_command(lambda: run(arguments.folder, arguments.out, arguments.train, arguments.test))


if __name__ == "__main__":
    raise SystemExit(main())
