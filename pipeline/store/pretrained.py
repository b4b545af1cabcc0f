"""Weights that a user brings along: read from a file whose sha256 stands in params.yaml, so that DVC sees a change of them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.config.family import PretrainedConfig
from pipeline.core import artifacts


def read_weights(block: PretrainedConfig, key: str) -> Mapping[str, Tensor]:
    """The state dict of the file that `block`, found at `key` of params.yaml, names: safetensors, or a torch state dict.

    Raises ValueError for a file that is missing, has another hash or holds something else. No pickled code is run.
    """
    file = Path(block.weights).expanduser()
    if not file.is_file():
        raise ValueError(f"{key}.weights is {block.weights!r}, which is no file; put the weights there, or name their place")
    found = artifacts.hash_file(file)
    if found != block.sha256:
        raise ValueError(
            f"{key}.sha256 is {block.sha256}, but {file} has {found}; put that value there if the file is the one that is meant"
        )
    try:
        if file.suffix == ".safetensors":
            state = load_file(str(file))
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} is neither a safetensors file nor a plain torch state dict: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file} holds something else than a state dict; save model.state_dict() alone")
    return state
