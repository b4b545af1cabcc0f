"""The Pareto front against brute force and by hand, ties and missing intervals included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.reporting.conclusion import conclusion, enumerated
from pipeline.reporting.pareto import Dominance, axes, dominates, dominators

AXES = axes("fd")


def row(name: str, speed: float, fd: float, recall: float, /, **intervals: tuple[float, float] | None) -> dict[str, Any]:
    """Intervals of a tenth of the value to either side, unless given."""
    values = {"images_per_second": speed, "fd": fd, "recall": recall}
    found: dict[str, Any] = {"sample": name, **values}
    for key, value in values.items():
        low, high = intervals.get(key, (0.9 * value, 1.1 * value)) or (None, None)
        found |= {f"{key}_low": low, f"{key}_high": high}
    return found


@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_equals_brute_force(seed: int, levels: int) -> None:
    """With 3 levels of each value most comparisons are ties; with 1000 hardly any is."""
    rng = np.random.default_rng(seed)
    table = rng.integers(1, levels + 1, (30, 3)).astype(float)
    rows = [row(str(index), *values) for index, values in enumerate(table)]
    larger_is_better = table * [1, -1, 1]
    expected = {
        str(i): {
            str(j)
            for j in range(30)
            if all(larger_is_better[j, k] >= larger_is_better[i, k] for k in range(3))
            and any(larger_is_better[j, k] > larger_is_better[i, k] for k in range(3))
        }
        for i in range(30)
    }
    found = dominators(rows, AXES)
    assert {name: {other.sample for other in others} for name, others in found.items()} == expected
    front = [name for name, others in found.items() if not others]
    assert 0 < len(front) < 30
    assert all(any(other.sample in front for other in others) for name, others in found.items() if name not in front)


@pytest.mark.parametrize(
    ("better", "worse"),
    [((20, 5, 0.5), (10, 5, 0.5)), ((10, 4, 0.5), (10, 5, 0.5)), ((10, 5, 0.6), (10, 5, 0.5)), ((20, 4, 0.6), (10, 5, 0.5))],
)
def test_better_in_one_and_worse_in_none(better: tuple[float, ...], worse: tuple[float, ...]) -> None:
    first, second = row("a", *better), row("b", *worse)
    assert dominates(first, second, AXES)
    assert not dominates(second, first, AXES)


def test_equals_do_not_dominate_each_other_and_neither_do_trades() -> None:
    rows = [row("a", 10, 5, 0.5), row("b", 10, 5, 0.5), row("fast", 20, 9, 0.5), row("good", 5, 2, 0.4)]
    assert dominators(rows, AXES) == {"a": [], "b": [], "fast": [], "good": []}


def test_clearly_is_beyond_the_intervals_on_every_axis() -> None:
    better, worse = row("a", 20, 4, 0.9), row("b", 10, 8, 0.6)
    assert dominators([better, worse], AXES)["b"] == [Dominance("a", ())]
    assert dominators([better, worse], AXES)["b"][0].clear
    # Intervals that meet, on one axis at a time: from above for the worse one, from below for the better.
    for changed, title in (
        ({"images_per_second": (10.0, 30.0)}, "images/s"), ({"fd": (3.0, 7.5)}, "FD"), ({"recall": (0.65, 1.0)}, "recall"),
    ):  # fmt: skip
        found = dominators([row("a", 20, 4, 0.9, **changed), worse], AXES)["b"]
        assert found == [Dominance("a", (title,))]
        assert not found[0].clear
    # Where intervals touch they meet.
    assert dominators([row("a", 20, 4, 0.9, fd=(3.6, 7.2)), worse], AXES)["b"] == [Dominance("a", ("FD",))]


def test_an_axis_without_an_interval_is_never_clear() -> None:
    for one, other in ((None, (0.5, 0.6)), ((0.8, 0.9), None)):
        rows = [row("a", 20, 4, 0.9, recall=one), row("b", 10, 8, 0.6, recall=other)]
        assert dominators(rows, AXES)["b"] == [Dominance("a", ("recall",))]


def test_the_axis_of_quality_has_the_name_of_the_distance() -> None:
    assert [axis.key for axis in axes("fid")] == ["images_per_second", "fid", "recall"]
    assert axes("fid")[1].title == "FID"


def test_one_sample_is_its_own_conclusion() -> None:
    alone = row("a", 20, 4, 0.9) | {
        "run": "a",
        "guidance": None,
        "family": "ddpm",
        "front": True,
        "dominated_by": [],
        "network_evaluations": 1,
    }
    found = conclusion([alone], [], "fd")
    assert len(found) == 2
    assert "1 network evaluation per image" in found[0]
    assert "a (1 of 1)" in found[1]


def test_lists_are_read_aloud() -> None:
    assert [enumerated(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
