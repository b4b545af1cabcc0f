"""How fast images were made: what the sample stage recorded, reduced to the two numbers that are compared, and on what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Speed:
    """network_evaluations: per image, a count; images_per_second: on `device`, without warm-up and files."""

    network_evaluations: int
    images_per_second: float
    device: str


def speed(record: Mapping[str, Any]) -> Speed:
    """Reads timing.json of a sample. Raises ValueError if a key is missing or a number is not positive and finite."""
    for key in ("network_evaluations", "images_per_second", "device"):
        if key not in record:
            raise ValueError(f"timing.json has no {key}; run the sample stage again")
    evaluations, rate = record["network_evaluations"], record["images_per_second"]
    if not isinstance(evaluations, int) or evaluations <= 0:
        raise ValueError(f"timing.json: network_evaluations is {evaluations!r}; allowed is a count of 1 or more per image")
    if not isinstance(rate, int | float) or not math.isfinite(rate) or rate <= 0:
        raise ValueError(f"timing.json: images_per_second is {rate!r}; allowed is a positive number")
    return Speed(evaluations, float(rate), str(record["device"]))
