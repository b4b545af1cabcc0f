"""Studies as tables and figures, from what the stage `study` wrote: no code of any study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.core.layout import Layout
from pipeline.reporting.table import Column, Row, significant, with_error
from pipeline.store.results import Source, existing

Study = Mapping[str, Any]


def opened(place: Layout, name: str) -> Source:
    """The rounded numbers of a study: reports/studies/<study>.json."""
    return Source.open(place.report("studies", name), f"study@{name}")


def described(place: Layout, name: str, source: Source) -> Study:
    """A study in reports/compare.json: its presentation, its rows with their names, and what they rest on."""
    shown = Source.open(place.study(name) / "presentation.json", f"study@{name}")
    keys = ("title", "explanation", "caption", "figure", "rows", "quantities", "labels")
    title, explanation, caption, figure, heading, quantities, labels = (shown.get(key) for key in keys)
    columns = [
        {
            "heading": f"{quantity['name']}, {quantity['series']}" if quantity["series"] else quantity["name"],
            **{key: quantity[key] for key in ("key", "error", "better")},
        }
        for quantity in quantities
    ]
    rows = [{"row": labels.get(row, row), **_flat(values)} for row, values in source.get("rows").items()]
    return {
        "title": title, "of": heading, "numbered": all(map(_is_number, source.get("rows"))), "columns": columns, "rows": rows,
        "explanation": explanation, "caption": caption, "figure": figure, "measured": source.get("measured"),
    }  # fmt: skip


def columns(study: Study) -> list[Column]:
    """The table's columns: the names of the rows, then the quantities."""
    found = [Column(study["of"], lambda row: str(row["row"]), numeric=study["numbered"])]
    for column in study["columns"]:
        cell = _cell(column["key"]) if column["error"] is None else with_error(column["key"], column["error"])
        numeric = not any(isinstance(row.get(column["key"]), str) for row in study["rows"])
        found.append(Column(column["heading"], cell, numeric=numeric, better=column["better"]))
    return found


def figure(place: Layout, name: str, study: Study) -> str | None:
    """The study's SVG, or None where it has none."""
    if not study["figure"]:
        return None
    return existing(place.study(name) / "figure.svg", f"study@{name}").read_text(encoding="utf-8")


def _cell(key: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get(key)
        return value if isinstance(value, str) else significant(value)

    return cell


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}: the keys that quantities name."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
