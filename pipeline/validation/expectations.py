"""Judges data and samples by their rules: the one module that calls Great Expectations."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import schema
from pipeline.core.rounding import to_digits
from pipeline.validation import batches, site
from pipeline.validation.rules import Rule, data_rules, sample_rules
from pipeline.validation.table import Metadata

if TYPE_CHECKING:
    from pandas import DataFrame

# The columns by which a failure names a row of a frame.
KEYS = {
    "images": ("split", "position"),
    "classes": ("split", "label"),
    "splits": ("split",),
    "sample-images": ("position",),
    "sample-classes": ("label",),
    "sample-collection": ("samples",),
}


@dataclass(frozen=True)
class Outcome:
    """failures: one sentence per rule that is not met; results: plain JSON, the same for the same data."""

    success: bool
    failures: list[str]
    results: list[dict[str, Any]]


def check_data(table: DataFrame, metadata: Metadata, limits: schema.DataLimits, docs: Path | None = None) -> Outcome:
    """Judges the rows of `table.data_table`; with `docs`, writes Data Docs, a static site, into that folder."""
    frames = {
        "images": batches.data_images(table),
        "classes": batches.data_classes(table, metadata.classes),
        "splits": batches.data_splits(table, metadata),
    }
    return _check(frames, data_rules(metadata, limits), docs)


def check_samples(
    table: DataFrame,
    limits: schema.SampleLimits,
    reference_spread: float,
    *,
    levels: int,
    classes: int,
    docs: Path | None = None,
) -> Outcome:
    """Judges the rows of `table.sample_table`; `reference_spread` is `table.spread` of real images.

    levels and classes are those of the data. Raises ValueError where the reference images don't differ at all.
    """
    frames = {
        "sample-images": batches.sample_images(table),
        "sample-classes": batches.sample_classes(table, classes),
        "sample-collection": batches.sample_collection(table, reference_spread),
    }
    return _check(frames, sample_rules(limits, levels, classes), docs)


def _check(frames: Mapping[str, DataFrame], rules: Sequence[Rule], docs: Path | None) -> Outcome:
    """Each frame is a batch of its own with its own suite; one context, so that one site shows them all."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read on import
    import great_expectations as gx
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    source = context.data_sources.add_pandas("tables")
    judged: dict[str, Any] = {}
    for batch, frame in frames.items():
        configurations = [
            ExpectationConfiguration(type=rule.kind, kwargs=dict(rule.arguments), meta={"rule": rule.name})
            for rule in rules
            if rule.batch == batch
        ]
        if not configurations:
            continue
        suite = gx.ExpectationSuite(name=batch, expectations=[entry.to_domain_obj() for entry in configurations])
        data = source.add_dataframe_asset(batch).add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=batch, data=data, suite=context.suites.add(suite))
        )
        form = {"result_format": "SUMMARY", "unexpected_index_column_names": list(KEYS[batch])}
        result: Any = definition.run(batch_parameters={"dataframe": frame}, result_format=form)
        judged |= {entry.expectation_config.meta["rule"]: entry for entry in result.results}
    assert set(judged) == {rule.name for rule in rules}, set(judged)
    failures = [_sentence(rule, judged[rule.name]) for rule in rules if not judged[rule.name].success]
    if docs is not None:
        met = {batch: [bool(judged[rule.name].success) for rule in rules if rule.batch == batch] for batch in frames}
        site.write(context, docs, [site.Suite(name, len(all_), sum(all_)) for name, all_ in met.items() if all_], failures)
    return Outcome(not failures, failures, [_plain(rule, judged[rule.name], frames[rule.batch]) for rule in rules])


def _sentence(rule: Rule, entry: Any) -> str:
    """What is wrong, in words; `entry` is what Great Expectations found for a rule that is not met."""
    result = entry.result
    if "unexpected_count" not in result:
        raise RuntimeError(f"the expectation {rule.name} could not be judged: {entry.exception_info}")
    first = result["partial_unexpected_index_list"][0]
    where = ", ".join(f"{name} {first[name]}" for name in KEYS[rule.batch])
    value = result["partial_unexpected_list"][0]
    said = " and ".join(map(_short, value)) if isinstance(value, list | tuple) else _short(value)
    count, total = result["unexpected_count"], result["element_count"]
    return f"{rule.name}: " + rule.words.format(count=count, total=total, where=where, value=said)


def _plain(rule: Rule, entry: Any, frame: DataFrame) -> dict[str, Any]:
    """A rule and what was found, without times and identifiers; lowest and highest are those of a numeric column."""
    plain: dict[str, Any] = {
        "rule": rule.name,
        "success": bool(entry.success),
        "expectation": rule.kind,
        "table": rule.batch,
        "arguments": {key: value for key, value in rule.arguments.items() if value is not None},
        "rows": int(entry.result["element_count"]),
        "unexpected": int(entry.result["unexpected_count"]),
    }
    column = frame[rule.arguments["column"]] if "column" in rule.arguments else None
    if column is not None and column.dtype.kind in "iuf":
        plain |= {"lowest": _number(column.min()), "highest": _number(column.max())}
    return plain


def _number(value: float) -> float | str:
    """Six significant digits; JSON has no infinity and no NaN, so these are words."""
    return to_digits(value, 6) if math.isfinite(value) else str(value)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
