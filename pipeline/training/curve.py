"""The training curve: rows of what was reported since the row before, and their file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.training.loop import Report

Row = dict[str, Any]  # "step", then the value of each quantity; what was measured on validation images is named valid/...


def row(window: Sequence[Report], clipped: Mapping[str, int]) -> Row:
    """One row: means over the steps of `window`; rates are the last step's; clipped: steps by group, since the first."""
    mean = {name: sum(report.parts[name] for report in window) / len(window) for name in window[0].parts}
    norms = {
        f"{group}/gradient_norm": sum(report.gradient_norm[group] for report in window) / len(window)
        for group in window[0].gradient_norm
    }
    counts = {f"{group}/clipped": count for group, count in clipped.items()}
    rates = {f"{group}/learning_rate": rate for group, rate in window[-1].learning_rate.items()}
    return {"step": window[-1].step, **mean, **norms, **counts, **rates}


def valid(measured: Row) -> Row:
    """What of a row was measured on validation images."""
    return {name: value for name, value in measured.items() if name.startswith("valid/")}


def to_csv(rows: Sequence[Row]) -> str:
    """One line per step, split and quantity, as `dvc plots` has it: what is measured rarely leaves no empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("step", "split", "quantity", "value"))
    for measured in rows:
        for name, value in measured.items():
            if name == "step":
                continue
            split = "valid" if name.startswith("valid/") else "train"
            written = f"{value:.6g}" if isinstance(value, float) else value
            writer.writerow((measured["step"], split, name.removeprefix("valid/"), written))
    return text.getvalue()
