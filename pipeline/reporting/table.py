"""The comparison as a table: the same columns and cells for Markdown and for HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.measures import Measure, grouped

Row = Mapping[str, Any]
DASH = "–"


@dataclass(frozen=True)
class Column:
    """`cell` makes the text of a row; numbers are aligned to the right; `better` is shown beside the heading."""

    heading: str
    cell: Callable[[Row], str]
    numeric: bool = True
    better: str = ""

    @property
    def title(self) -> str:
        return f"{self.heading} {self.better}".strip()


def significant(value: float | None, digits: int = 3) -> str:
    """`value` with that many significant digits and no exponent where a person would write none; None is a dash."""
    if value is None:
        return DASH
    if value == 0 or isinstance(value, int):
        return str(value)
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -5:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def decimals(value: float | None, places: int = 3) -> str:
    return DASH if value is None else f"{value:.{places}f}"


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: DASH if row.get(key) is None else str(row[key])


def _significant(key: str) -> Callable[[Row], str]:
    return lambda row: significant(row.get(key))


def _decimals(key: str, places: int = 3) -> Callable[[Row], str]:
    return lambda row: decimals(row.get(key), places)


def _model(row: Row) -> str:
    run, family = row.get("run"), row.get("family")
    if run is None:
        return DASH
    return str(run) if run == family else f"{run} ({family})"


def with_interval(key: str) -> Callable[[Row], str]:
    """Cell "4.33 (3.94 to 4.85)"; the value alone for a row that has no interval."""

    def cell(row: Row) -> str:
        low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
        value = significant(row[key])
        return value if low is None or high is None else f"{value} ({significant(low)} to {significant(high)})"

    return cell


def with_error(key: str, error: str) -> Callable[[Row], str]:
    """Cell "3.012 ± 0.008"; a dash for a row that has no such number."""

    def cell(row: Row) -> str:
        value, spread = row.get(key), row.get(error)
        return decimals(value) if value is None or spread is None else f"{decimals(value)} ± {decimals(spread)}"

    return cell


def _value(measure: Measure) -> Callable[[Row], str]:
    return _significant(measure.key) if measure.decimals is None else _decimals(measure.key, measure.decimals)


def _with_interval(measure: Measure) -> Column:
    return Column(f"{measure.title} (95 %)", with_interval(measure.key), better=measure.arrow)


def sample_columns(measures: Sequence[Measure]) -> list[Column]:
    """Columns of samples and baselines."""
    return [
        Column("sample", _text("sample"), numeric=False),
        Column("model", _model, numeric=False),
        Column("sampler", _text("sampler"), numeric=False),
        Column("steps", _text("steps")),
        Column("evaluations", _text("network_evaluations"), better="↓"),
        Column("images/s", _significant("images_per_second"), better="↑"),
        *(
            _with_interval(measure)
            if measure.interval_in_table
            else Column(measure.title, _value(measure), better=measure.arrow)
            for measure in grouped(measures, "quality", "diversity")
        ),
        Column("bits/dim", with_error("bits_per_dim", "bits_per_dim_standard_error"), better="↓"),
    ]


def front_columns(measures: Sequence[Measure], distance: str) -> list[Column]:
    """The three axes with their intervals, who is on the front, and who dominates the others; then what else is shown there.

    `distance` is "fd", or "fid" where the extractor is Inception-v3.
    """
    shown = [measure for measure in grouped(measures, "quality", "diversity") if measure.on_front]
    shown.sort(key=lambda measure: measure.key not in (distance, "recall"))
    return [
        Column("sample", _text("sample"), numeric=False),
        Column("dominated by", _dominated, numeric=False),
        Column("images/s (95 %)", with_interval("images_per_second"), better="↑"),
        Column("evaluations", _text("network_evaluations"), better="↓"),
        *(_with_interval(measure) for measure in shown),
        Column("bits/dim", with_error("bits_per_dim", "bits_per_dim_standard_error"), better="↓"),
    ]


def _dominated(row: Row) -> str:
    clear = [other["sample"] for other in row["dominated_by"] if other["clear"]]
    within = [f"{other['sample']} ({', '.join(other['within'])})" for other in row["dominated_by"] if not other["clear"]]
    parts = [f"{words}: {', '.join(names)}" for words, names in (("clearly", clear), ("within intervals", within)) if names]
    return "; ".join(parts) or "nobody: on the front"


def memorisation_columns(measures: Sequence[Measure]) -> list[Column]:
    def of(name: str) -> Callable[[Row], str]:
        return lambda row: significant(row["memorisation"].get(name))

    return [
        Column("sample", _text("sample"), numeric=False),
        *(Column(measure.title, of(measure.key), better=measure.arrow) for measure in grouped(measures, "memorisation")),
    ]


def bound_columns() -> list[Column]:
    return [
        Column("model", _model, numeric=False),
        Column("bits/dim", with_error("total", "standard_error"), better="↓"),
        Column("prior", _significant("prior")),
        Column("reconstruction", _significant("reconstruction")),
        Column("diffusion", _decimals("diffusion")),
        Column("split", _text("split"), numeric=False),
        Column("images", _text("images")),
    ]


def markdown(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """A GitHub table, padded so that it reads as plain text too.

    Our own: tabulate, on which pandas' to_markdown rests, escapes no `|` and would be one dependency more.
    """
    lines = [[column.title for column in columns]]
    lines += [[column.cell(row).replace("|", "\\|") for column in columns] for row in rows]
    widths = [max(3, *(len(line[index]) for line in lines)) for index in range(len(columns))]

    def padded(line: Sequence[str]) -> str:
        cells = [
            text.rjust(width) if column.numeric else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ]
        return "| " + " | ".join(cells) + " |"

    rule = ["-" * (width - 1) + ":" if column.numeric else "-" * width for width, column in zip(widths, columns, strict=True)]
    return "\n".join([padded(lines[0]), "| " + " | ".join(rule) + " |", *(padded(line) for line in lines[1:])])
