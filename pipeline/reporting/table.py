"""The comparison as a table: the same columns and cells for Markdown and for HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


def sample_columns(distance: str) -> list[Column]:
    """Columns of samples and baselines; `distance` is "fd", or "fid" when the extractor is Inception-v3."""
    return [
        Column("sample", _text("sample"), numeric=False),
        Column("model", _model, numeric=False),
        Column("sampler", _text("sampler"), numeric=False),
        Column("steps", _text("steps")),
        Column("evaluations", _text("network_evaluations"), better="↓"),
        Column("images/s", _significant("images_per_second"), better="↑"),
        Column(f"{distance.upper()} (95 %)", with_interval(distance), better="↓"),
        Column("KID", _significant("kid"), better="↓"),
        Column("inception score", _decimals("inception_score", 2), better="↑"),
        Column("precision", _decimals("precision"), better="↑"),
        Column("density", _decimals("density"), better="↑"),
        Column("recall", _decimals("recall"), better="↑"),
        Column("coverage", _decimals("coverage"), better="↑"),
        Column("bits/dim", with_error("bits_per_dim", "bits_per_dim_standard_error"), better="↓"),
    ]


def front_columns(distance: str) -> list[Column]:
    """The three axes with their intervals, who is on the front, and who dominates the others."""
    return [
        Column("sample", _text("sample"), numeric=False),
        Column("dominated by", _dominated, numeric=False),
        Column("images/s (95 %)", with_interval("images_per_second"), better="↑"),
        Column("evaluations", _text("network_evaluations"), better="↓"),
        Column(f"{distance.upper()} (95 %)", with_interval(distance), better="↓"),
        Column("recall (95 %)", with_interval("recall"), better="↑"),
        Column("KID (95 %)", with_interval("kid"), better="↓"),
        Column("precision (95 %)", with_interval("precision"), better="↑"),
        Column("coverage (95 %)", with_interval("coverage"), better="↑"),
        Column("bits/dim", with_error("bits_per_dim", "bits_per_dim_standard_error"), better="↓"),
    ]


def _dominated(row: Row) -> str:
    clear = [other["sample"] for other in row["dominated_by"] if other["clear"]]
    within = [f"{other['sample']} ({', '.join(other['within'])})" for other in row["dominated_by"] if not other["clear"]]
    parts = [f"{words}: {', '.join(names)}" for words, names in (("clearly", clear), ("within intervals", within)) if names]
    return "; ".join(parts) or "nobody: on the front"


def memorisation_columns() -> list[Column]:
    def of(name: str) -> Callable[[Row], str]:
        return lambda row: significant(row["memorisation"].get(name))

    return [
        Column("sample", _text("sample"), numeric=False),
        Column("memorised", of("memorised"), better="↓"),
        Column("closer than test", of("closer_than_test")),
        Column("distance ratio", of("distance_ratio")),
        Column("copies of training images", of("training_copies"), better="↓"),
        Column("equal pairs", of("duplicates"), better="↓"),
        Column("nearly equal pairs", of("near_duplicates"), better="↓"),
    ]


MEMORISATION = (
    "Distances are Euclidean between pixels, to the training images. Memorised: the share of images whose nearest training "
    "image is less than a third as far as the second nearest (Yoon et al. 2023), or equal to them. Closer than test: the share "
    "closer to a training image than 1 % of the test images are; fresh real images have 0.01, training images 1. Distance "
    "ratio: the median distance to the nearest training image over that of the test images; below 1 means closer than fresh "
    "real images. Pairs are counted among the images of a row."
)


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


def meaning(distance: str) -> str:
    """What the column FD (or FID) is."""
    if distance == "fid":
        return "FID is the Fréchet distance in Inception-v3 features, with the weights named here."
    return (
        "FD is the Fréchet distance between Gaussians fitted to the extractor's features: it is not FID, which is defined by "
        "Inception-v3, and compares only within one extractor and one number of images."
    )


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
