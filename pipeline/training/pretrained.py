"""Takes over the weights of a model that somebody else trained."""

from __future__ import annotations

import time

from pipeline.config import schema
from pipeline.config.family import PretrainedConfig
from pipeline.config.load import read_model
from pipeline.core.contracts import Pretrained
from pipeline.store.data import DataDirectory
from pipeline.store.pretrained import read_weights
from pipeline.training import result


def adopt(model: Pretrained, cfg: schema.Entry, data: DataDirectory, paths: result.Paths, key: str) -> None:
    """Writes a pretrained model as if it had been trained, with a curve that has no rows.

    `key`: where it stands in params.yaml. Raises ValueError for its file.
    """
    began = time.monotonic()
    block = read_model(cfg, key)
    assert isinstance(block, PretrainedConfig), "the block of a family that is Pretrained"
    state = read_weights(block, f"{key}.model")
    try:
        model.adopt(state)
    except ValueError as error:
        raise ValueError(f"{block.weights} {error}") from None
    result.write(paths, cfg, data, model, model.state_dict(), [], {})
    result.write_timing(paths, time.monotonic() - began, next(model.parameters()).device, {})
