"""What a finished run shows in Prefect: rows of a table, pictures inside Markdown. Pure functions of files' contents."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def rows(compare: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows under `samples` of reports/compare.json, whatever their columns: {"a": {"b": 1}} becomes the column a.b.

    Of a list of other samples, such as those that dominate one, their names are left.
    """
    return [_flat(row) for row in compare["samples"]]


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, list):
            value = ", ".join(str(item["sample"] if isinstance(item, Mapping) else item) for item in value)
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def grids(repository: str | Path = ".") -> list[Path]:
    """The grids of all named samples: samples/<sample>/grid.png."""
    return sorted(Path(repository).glob("samples/*/grid.png"))


def gallery(pictures: Mapping[str, bytes]) -> str:
    """Markdown with every PNG inside as a data URI, so that it shows without a file server; title -> PNG."""
    return "\n\n".join(
        f"## {title}\n\n![{title}](data:image/png;base64,{base64.b64encode(png).decode()})" for title, png in pictures.items()
    )
