"""The Pareto front of samples on the axes of the trilemma: who is beaten by whom on all of them, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """A column of the rows; `<key>_low` and `<key>_high` are its interval, null where none was measured."""

    key: str
    title: str
    higher_is_better: bool

    def gain(self, row: Row, other: Row) -> float:
        """By how much `row` is better than `other`; negative where it is worse."""
        difference = row[self.key] - other[self.key]
        return float(difference if self.higher_is_better else -difference)

    def beyond(self, row: Row, other: Row) -> bool:
        """Whether the whole interval of `row` is better than that of `other`; not where one of them has none."""
        better, worse = ("low", "high") if self.higher_is_better else ("high", "low")
        end, start = row.get(f"{self.key}_{better}"), other.get(f"{self.key}_{worse}")
        if end is None or start is None:
            return False
        return bool(end > start if self.higher_is_better else end < start)


@dataclass(frozen=True)
class Dominance:
    """`sample` is no worse on any axis and better on one; `within`: titles of the axes on which the intervals meet."""

    sample: str
    within: tuple[str, ...]

    @property
    def clear(self) -> bool:
        """Better on every axis beyond the intervals."""
        return not self.within


def axes(distance: str) -> tuple[Axis, ...]:
    """Speed, quality, diversity; `distance` is "fd" or "fid"."""
    return (
        Axis("images_per_second", "images/s", True),
        Axis(distance, distance.upper(), False),
        Axis("recall", "recall", True),
    )


def dominates(row: Row, other: Row, over: Sequence[Axis]) -> bool:
    """No worse on any axis and better on one, by the estimates. Rows that are equal on all axes do not dominate each other."""
    gains = [axis.gain(row, other) for axis in over]
    return min(gains) >= 0 and max(gains) > 0


def dominators(rows: Sequence[Row], over: Sequence[Axis]) -> dict[str, list[Dominance]]:
    """By the name of every sample, in the order of `rows`: who dominates it. Nobody: it is on the front."""
    return {
        row["sample"]: [
            Dominance(other["sample"], tuple(axis.title for axis in over if not axis.beyond(other, row)))
            for other in rows
            if dominates(other, row, over)
        ]
        for row in rows
    }
