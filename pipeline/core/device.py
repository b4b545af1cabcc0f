"""Where the numbers are computed, and in what precision."""

from __future__ import annotations

import contextlib
import platform
from typing import Any, Literal

import torch


def pick_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(wanted: Literal["auto", "bf16", "float32"], device: torch.device) -> Literal["bf16", "float32"]:
    """`auto` is bf16 where the machine is fast at it: a GPU that has it, or a CPU with AMX tiles. Elsewhere on CPUs bf16 is
    several times slower than float32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "float32"


def autocast(chosen: Literal["bf16", "float32"], device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast for networks, or nothing. Schedules and losses stay in float32 and float64 by their own types."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=chosen == "bf16")


def describe_device(device: torch.device) -> dict[str, str | int]:
    """What a number was computed on; belongs beside it."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "torch": torch.__version__}
    return {"device": f"cpu ({platform.machine()})", "threads": torch.get_num_threads(), "torch": torch.__version__}
