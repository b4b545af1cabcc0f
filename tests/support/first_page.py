"""The rows of results in README.md, taken from reports/compare.json: `make docs` writes them, a test compares.

The page names the samples that it shows in the comment before the table, `<!-- rows: NAME NAME ... -->`; the comment
`<!-- end of rows -->` stands after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core import artifacts

REPOSITORY = Path(__file__).parents[2]
_ROWS = re.compile(r"(<!-- rows: ([^>]*) -->\n).*?(<!-- end of rows -->)", re.DOTALL)


def with_rows(page: str, comparison: Mapping[str, Any]) -> str:
    """`page` with the table between its markers anew. Raises ValueError without markers, or for a sample that is not there."""
    if not _ROWS.search(page):
        raise ValueError("README.md has no <!-- rows: ... --> and <!-- end of rows -->; put them around the table")
    return _ROWS.sub(lambda found: f"{found[1]}{table(found[2].split(), comparison)}{found[3]}", page)


def table(names: list[str], comparison: Mapping[str, Any]) -> str:
    """The samples `names` in Markdown, in that order, with a final newline."""
    rows = {row["sample"]: row for row in comparison["samples"]}
    missing = [name for name in names if name not in rows]
    if missing:
        raise ValueError(f"README.md shows the sample {missing[0]!r}; reports/compare.json has: {', '.join(rows)}")
    lines = [
        "| sample | family | sampler | network evaluations | images/s ↑ | FD (95 %) ↓ | recall ↑ | bits/dim ↓ |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        row = rows[name]
        interval = f" ({row['fd_low']:.2f} to {row['fd_high']:.2f})" if row["fd_low"] is not None else ""
        bits = "–" if row["bits_per_dim"] is None else f"{row['bits_per_dim']:.2f}"
        cells = [
            name, row["family"], row["sampler"], str(row["network_evaluations"]), f"{row['images_per_second']:.3g}",
            f"{row['fd']:.2f}{interval}", f"{row['recall']:.2f}", bits,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    readme = REPOSITORY / "README.md"
    comparison = artifacts.read_json(REPOSITORY / "reports" / "compare.json")
    artifacts.write_text(readme, with_rows(readme.read_text(encoding="utf-8"), comparison))
