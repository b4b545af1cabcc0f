"""A class-balanced cut of FashionMNIST that lies in the repository: 10,000 training and 2,000 test images, 28 x 28.

The files are those of the repository: their content is checked. Another cut (`_cut.py`) is `kind: idx`.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config.base import StrictConfig
from pipeline.datasets import _fashion
from pipeline.datasets._raw import Raw

# sha256 of the four files, unpacked.
CONTENT = {
    "train-images-idx3-ubyte": "d33512cfdc636a0d8972818e6659995be209a88891df7fa2109d7895922c8985",
    "train-labels-idx1-ubyte": "620cb8e3b9348037c5ff9a07b02d773ab165330e072dfd19e0d21c59f8042dcf",
    "t10k-images-idx3-ubyte": "15a92dd1e9b16ea361928086e77df4dfa890c255c00b5a8c8162c1040ce8eef1",
    "t10k-labels-idx1-ubyte": "234596aeb6eb48133ec99a62541f90bc0728c9559a681f1e0638037462458f2c",
}


class Config(StrictConfig):
    folder: str = "data/raw/fashion-mnist-mini"


def load(cfg: Config) -> Raw:
    """Raises ValueError where the files are missing, damaged or not the repository's."""
    source = (
        "The first 1,000 training and 200 test images of each class of FashionMNIST (Zalando Research, MIT licence), "
        "cut from Debian's package dataset-fashion-mnist."
    )
    return _fashion.raw(Path(cfg.folder), source, "fashion-mnist-mini", CONTENT)
