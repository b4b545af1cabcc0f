"""What data and samples must be: two lists of rules, read by `expectations`.

A rule is one expectation on one column (or pair of columns) of one frame of `batches`, with the sentence that is said when it
is not met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import schema
from pipeline.validation.table import Metadata


@dataclass(frozen=True)
class Rule:
    """An expectation of type `kind` with `arguments` on the frame `batch`.

    `words` say what is wrong, with {count} rows of {total}, the first of them {where}, whose value is {value}.
    """

    name: str
    batch: str
    kind: str
    arguments: Mapping[str, Any]
    words: str


def between(
    name: str, batch: str, column: str, words: str, *, low: float | None = None, high: float | None = None, share: float = 0.0
) -> Rule:
    """low <= column <= high in all rows, or in all but `share` of them."""
    arguments = {"column": column, "min_value": low, "max_value": high, "mostly": 1 - share}
    return Rule(name, batch, "expect_column_values_to_be_between", arguments, words)


def one_of(name: str, batch: str, column: str, words: str, *values: Any) -> Rule:
    return Rule(name, batch, "expect_column_values_to_be_in_set", {"column": column, "value_set": list(values)}, words)


def equal(name: str, batch: str, column: str, other: str, words: str) -> Rule:
    arguments = {"column_A": column, "column_B": other}
    return Rule(name, batch, "expect_column_pair_values_to_be_equal", arguments, words)


def data_rules(metadata: Metadata, limits: schema.DataLimits) -> list[Rule]:
    """What prepared data must be."""
    channels, height, width = metadata.shape
    top, last = metadata.levels - 1, metadata.classes - 1
    some = "{count} of {total} images (first: {where})"
    return [
        one_of("image-type", "images", "dtype", f"{some} are {{value}}; only uint8 allowed", "uint8"),
        one_of("channels", "images", "channels", f"{some} have {{value}} channels; spec.json says {channels}", channels),
        one_of("height", "images", "height", f"{some} are {{value}} pixels high; spec.json says {height}", height),
        one_of("width", "images", "width", f"{some} are {{value}} pixels wide; spec.json says {width}", width),
        one_of("finite-pixels", "images", "nonfinite", f"{some} have {{value}} values that are not finite; none allowed", 0),
        between("lowest-pixel", "images", "min", f"{some} have the lowest pixel {{value}}; at least 0 allowed", low=0),
        between("highest-pixel", "images", "max", f"{some} have the highest pixel {{value}}; at most {top} allowed", high=top),
        between(
            "constant-images",
            "images",
            "distinct",
            f"{some} have one value in all their pixels; at most {limits.constant_images:.3g} of all allowed",
            low=2,
            share=limits.constant_images,
        ),
        between(
            "duplicates",
            "images",
            "repeats",
            f"{some} repeat an earlier image of their split; at most {limits.duplicates:.3g} of all allowed",
            high=0,
            share=limits.duplicates,
        ),
        between("leaks", "images", "splits", f"{some} lie in {{value}} splits; at most 1 allowed", high=1),
        between("label-range", "images", "label", f"{some} have the label {{value}}; 0 to {last} allowed", low=0, high=last),
        between("every-class", "classes", "images", "{where} has no image; every split needs every class", low=1),
        between(
            "class-imbalance",
            "classes",
            "times_smallest",
            f"{{where}} has {{value}} times the images of the smallest class; at most {limits.class_imbalance:.3g} allowed",
            high=limits.class_imbalance,
        ),
        one_of("label-type", "splits", "label_dtype", "labels of {where} are {value}; only int64 allowed", "int64"),
        equal(
            "counts",
            "splits",
            "images",
            "recorded_images",
            "{where} has {value} images in its array and in spec.json; they must be equal",
        ),
        equal(
            "class-counts",
            "splits",
            "class_counts",
            "recorded_class_counts",
            "{where} has {value} images by class in its array and in spec.json; they must be equal",
        ),
        equal(
            "content-hash",
            "splits",
            "hash",
            "recorded_hash",
            "{value} are the hashes of the arrays and in spec.json; they must be equal",
        ),
        *(
            between(
                f"{statistic}-drift",
                "splits",
                f"{statistic}_shift",
                f"the images' {words} in {{where}} lies {{value}} standard deviations from the training split's; "
                f"at most {limits.drift:.3g} allowed",
                low=-limits.drift,
                high=limits.drift,
            )
            for statistic, words in (("mean", "average brightness"), ("std", "average contrast"))
        ),
    ]


def sample_rules(limits: schema.SampleLimits, levels: int, classes: int) -> list[Rule]:
    """What generated images must be. With a single class there is no balance to speak of."""
    batch, some = "sample-images", "{count} of {total} samples (first: {where})"
    rules = [
        one_of("image-type", batch, "dtype", f"{some} are {{value}}; only uint8 allowed", "uint8"),
        one_of("finite-pixels", batch, "nonfinite", f"{some} had {{value}} values that are not finite; none allowed", 0),
        between("lowest-pixel", batch, "min", f"{some} have the lowest pixel {{value}}; at least 0 allowed", low=0),
        between(
            "highest-pixel",
            batch,
            "max",
            f"{some} have the highest pixel {{value}}; at most {levels - 1} allowed",
            high=levels - 1,
        ),
        between("constant-images", batch, "distinct", f"{some} have one value in all their pixels; none allowed", low=2),
        between(
            "duplicates",
            batch,
            "repeats",
            f"{some} repeat an earlier sample; at most {limits.duplicates:.3g} of all allowed",
            high=0,
            share=limits.duplicates,
        ),
        between(
            "collapse",
            "sample-collection",
            "diversity",
            f"the samples spread {{value}} times as wide as the reference images; at least {limits.diversity:.3g} allowed",
            low=limits.diversity,
        ),
    ]
    if classes > 1:
        rules += [
            between(
                "smallest-class",
                "sample-classes",
                "share",
                f"{{where}} has a share of {{value}} under the extractor; at least {limits.smallest_class:.3g} allowed",
                low=limits.smallest_class,
            ),
            between(
                "largest-class",
                "sample-classes",
                "share",
                f"{{where}} has a share of {{value}} under the extractor; at most {limits.largest_class:.3g} allowed",
                high=limits.largest_class,
            ),
        ]
    return rules
