"""FashionMNIST in full: 60,000 training and 10,000 test images, 28 x 28, from a folder of IDX files or downloaded."""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from pipeline.config.base import Block
from pipeline.datasets import _fashion
from pipeline.datasets._raw import Raw


class Config(Block):
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
    """Raises ValueError where files are missing or damaged, or where the download fails."""
    if cfg.folder is not None:
        folder, origin = Path(cfg.folder), "read from a folder of IDX files"
    else:
        folder, origin = _download(Path(cfg.cache)), "downloaded and checked by torchvision"
    return _fashion.raw(folder, f"FashionMNIST (Zalando Research, MIT licence), {origin}.")


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
