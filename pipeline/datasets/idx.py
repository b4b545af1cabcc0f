"""Images of one's own: a folder of four IDX files, named as MNIST's, plain or gzipped.

data:
  kind: idx
  source:
    folder: data/raw/mine
    class_names: [cat, dog]
    source: Photographs by the authors, 2024, CC BY 4.0.

Nobody but the user knows what the images are: names and origin are copied to spec.json as they are given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.config.base import StrictConfig
from pipeline.datasets import _idx
from pipeline.datasets._raw import Raw

Text = Annotated[str, Field(min_length=1)]


class Config(StrictConfig):
    """`class_names`: that of label 0 first; `source`: one sentence, where the images are from and under which licence.

    `levels`: how many values a pixel may have, from 0 up.
    """

    folder: Text
    class_names: Annotated[tuple[Text, ...], Field(min_length=1)]
    source: Text
    levels: Annotated[int, Field(ge=2, le=256)] = 256

    @model_validator(mode="after")
    def _says_something(self) -> Config:
        for name in self.class_names:
            if self.class_names.count(name) > 1:
                raise ValueError(f"data.source.class_names has {name!r} more than once; allowed: names that differ")
        for key, text in (("source", self.source), *(("class_names", name) for name in self.class_names)):
            if not text.strip():
                raise ValueError(f"data.source.{key} has {text!r}; allowed: words, as they are all that is known of the images")
        return self


def load(cfg: Config) -> Raw:
    """Images (N, 1, H, W). Raises ValueError where files are missing or damaged, or have labels or levels beyond those said."""
    folder, classes = Path(cfg.folder).expanduser(), len(cfg.class_names)
    train_images, train_labels = _idx.read_split(folder, "train")
    test_images, test_labels = _idx.read_split(folder, "test")
    largest = max(labels.max(initial=0) for labels in (train_labels, test_labels))
    if largest >= classes:
        raise ValueError(
            f"data.source.class_names has {classes} names, and {folder} has labels up to {largest}; allowed: a name for each, "
            f"so {largest + 1}"
        )
    return Raw(train_images, train_labels, test_images, test_labels, cfg.levels, classes, cfg.class_names, cfg.source)
