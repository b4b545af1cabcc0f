"""What the metrics of an evaluation are, as its details.json describes them: titles, groups, directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.store.results import Source


@dataclass(frozen=True)
class Measure:
    """One number of a metric. group: quality, diversity or memorisation; better: lower, higher or None.

    decimals: places in tables, None for 3 significant digits; intervals: whether it has any; interval_in_table, on_front:
    whether the table of all numbers shows its interval, and that of the front shows it; explanation: of its metric.
    """

    key: str
    title: str
    group: str
    better: str | None
    decimals: int | None
    interval_in_table: bool
    on_front: bool
    intervals: bool
    explanation: str

    @property
    def arrow(self) -> str:
        return {"lower": "↓", "higher": "↑", None: ""}[self.better]


def described(details: Sequence[Source]) -> list[Measure]:
    """What was measured, in the order of the tables. Raises ValueError where one file describes other numbers than another."""
    first, *others = ([_one(source, column) for column in _columns(source)] for source in details)
    for source, measures in zip(details[1:], others, strict=True):
        if measures != first:
            raise ValueError(
                f"not comparable: {details[0].path} holds the metrics {_keys(first)}, {source.path} {_keys(measures)}, or "
                f"describes them otherwise; run: dvc repro {details[0].stage} {source.stage}"
            )
    order = {"quality": 0, "diversity": 1, "memorisation": 2}
    return sorted(first, key=lambda measure: order[measure.group])


def stored(comparison: Source) -> list[Measure]:
    """The measures of reports/compare.json."""
    return [_one(comparison, values) for values in comparison.get("metrics")]


def for_json(measures: Sequence[Measure]) -> list[dict[str, Any]]:
    return [asdict(measure) for measure in measures]


def explanations(measures: Sequence[Measure]) -> str:
    """What they are, each metric once."""
    return " ".join(dict.fromkeys(measure.explanation for measure in measures))


def grouped(measures: Sequence[Measure], *groups: str) -> list[Measure]:
    return [measure for measure in measures if measure.group in groups]


def _columns(source: Source) -> list[dict[str, Any]]:
    return [
        {**column, "intervals": metric["intervals"], "explanation": metric["explanation"]}
        for metric in source.get("measured.metrics")
        for column in metric["columns"]
    ]


def _one(source: Source, values: Mapping[str, Any]) -> Measure:
    try:
        return Measure(**values)
    except TypeError:
        raise ValueError(f"{source.path} describes a metric as {dict(values)}; run: dvc repro -f {source.stage}") from None


def _keys(measures: Sequence[Measure]) -> str:
    return ", ".join(measure.key for measure in measures)
