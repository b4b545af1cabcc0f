"""FashionMNIST in full: 60,000 training and 10,000 test images, 28 x 28, from a folder of IDX files or downloaded.

The files are Zalando's own: their content is checked. Other images in the same format are `kind: idx`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from pipeline.config.base import StrictConfig
from pipeline.datasets import _fashion
from pipeline.datasets._raw import Raw

# sha256 of the four files, unpacked: the same for Zalando's own and for Debian's, which are gzipped otherwise.
CONTENT = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class Config(StrictConfig):
    """`folder`: IDX files, plain or gzipped; or `download`: torchvision fetches them into `cache` and checks their MD5."""

    folder: str | None = None
    download: bool = False
    cache: str = "tmp/downloads"

    @model_validator(mode="after")
    def _one_way(self) -> Config:
        if (self.folder is None) != self.download:
            found = (
                "is null and data.source.download is false"
                if self.folder is None
                else "is set and data.source.download is true"
            )
            raise ValueError(
                f"data.source.folder {found}; allowed is one of the two: name a folder of IDX files (Debian's package "
                "dataset-fashion-mnist installs /usr/share/datasets/fashion-mnist), or set data.source.download: true"
            )
        return self


def load(cfg: Config) -> Raw:
    """Raises ValueError where files are missing, damaged or not FashionMNIST's, or where the download fails."""
    if cfg.folder is not None:
        folder, origin = Path(cfg.folder).expanduser(), "read from a folder of IDX files"
    else:
        folder, origin = _download(Path(cfg.cache).expanduser()), "downloaded and checked by torchvision"
    return _fashion.raw(folder, f"FashionMNIST (Zalando Research, MIT licence), {origin}.", "fashion-mnist", CONTENT)


def _download(cache: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(cache), train=True, download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; RuntimeError: all mirrors failed, or a wrong checksum
        raise ValueError(
            f"data.source.download is true, but FashionMNIST could not be downloaded ({error}); "
            "go online, or name a folder of IDX files by data.source.folder"
        ) from None
    return cache / "FashionMNIST" / "raw"
