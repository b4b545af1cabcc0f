"""How fast images were made: what the sample stage recorded, reduced to the two numbers that are compared, and on what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Speed:
    """network_evaluations: per image, a count; images_per_second: on `device`, the median of the repeats, without files.

    low, high: the 95 % interval of that median, from the order of the repeats alone; None where the record has no repeats.
    """

    network_evaluations: int
    images_per_second: float
    device: str
    low: float | None = None
    high: float | None = None


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
    low = high = None
    if "seconds_per_repeat" in record:
        seconds, batch = record["seconds_per_repeat"], record.get("batch")
        if not isinstance(batch, int) or batch <= 0 or not seconds or min(seconds) <= 0:
            raise ValueError(f"timing.json: {batch!r} images in {seconds!r} seconds; allowed are positive numbers of both")
        rates, left_out = sorted(batch / duration for duration in seconds), _left_out(len(seconds))
        low, high = rates[left_out], rates[-1 - left_out]
    return Speed(evaluations, float(rate), str(record["device"]), low, high)


def _left_out(count: int) -> int:
    """How many of `count` sorted repeats lie below the 95 % interval of their median, and as many above.

    The true median lies below the k-th smallest with probability P(Binomial(count, 1/2) < k), whatever the distribution. Fewer
    than 6 repeats have no such interval: all of them are taken, which covers 94 % at 5 and 88 % at 4.
    """
    below, left_out = 0.5**count, 0
    while below + math.comb(count, left_out + 1) * 0.5**count <= 0.025:
        left_out += 1
        below += math.comb(count, left_out) * 0.5**count
    return left_out
