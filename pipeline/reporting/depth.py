"""A run as a chain of T steps: its table and its figure, from reports/depth/<run>.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.reporting.figure import COLOURS, new, style, svg
from pipeline.reporting.table import Column, Row, significant, with_error
from pipeline.store.results import Source

CHOICES = {"posterior": "posterior variance", "optimal": "optimal variance"}


def rows(source: Source) -> list[dict[str, Any]]:
    """One row per number of steps: bits/dim with its standard error and FD for each choice of the variance."""
    table = []
    for steps, choices in source.get("depths").items():
        row: dict[str, Any] = {"steps": "∞" if steps == "inf" else steps}
        for choice in CHOICES:
            found = choices[choice]
            row |= {f"{choice}_{name}": found.get(name) for name in ("bits_per_dim", "standard_error", "fd")}
        table.append(row)
    return table


def columns() -> list[Column]:
    def distance(choice: str) -> Column:
        return Column(f"FD, {CHOICES[choice]}", lambda row: significant(row[f"{choice}_fd"]), better="↓")

    def bits(choice: str) -> Column:
        return Column(
            f"bits/dim, {CHOICES[choice]}", with_error(f"{choice}_bits_per_dim", f"{choice}_standard_error"), better="↓"
        )

    return [Column("steps T", lambda row: str(row["steps"])), *map(bits, CHOICES), *map(distance, CHOICES)]


def meaning(measured: Mapping[str, Any]) -> str:
    return (
        f"bits/dim on {measured['images']} test images with the same noise for every T; FD of {measured['samples']} ancestral "
        "samples, so few that it compares only within this table. The optimal variance was estimated on training images."
    )


def figure(table: Sequence[Row]) -> str:
    """bits/dim and FD against T, both axes logarithmic; the limit is a dashed line."""
    from matplotlib.ticker import NullLocator, ScalarFormatter

    with style():
        drawn = new(7.6, 3.0)
        panels = drawn.subplots(1, 2)
        finite = [row for row in table if row["steps"] != "∞"]
        limit = next((row for row in table if row["steps"] == "∞"), None)
        for axes, quantity, title in zip(panels, ("bits_per_dim", "fd"), ("bits/dim", "FD"), strict=True):
            for (choice, label), colour, marker in zip(CHOICES.items(), COLOURS, "os", strict=False):
                steps, values = [int(row["steps"]) for row in finite], [row[f"{choice}_{quantity}"] for row in finite]
                axes.plot(steps, values, f"{marker}-", color=colour, markersize=4, linewidth=1.3, label=label)
            if limit is not None and limit[f"posterior_{quantity}"] is not None:
                axes.axhline(limit[f"posterior_{quantity}"], color="#777777", linestyle="--", linewidth=1, label="T → ∞")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks([int(row["steps"]) for row in finite])
            axes.set_title(title)
            axes.set_xlabel("steps T")
        panels[0].legend()
        drawn.tight_layout()
        return svg(drawn)
