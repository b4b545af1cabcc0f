"""Every rule has a committed broken batch, which fails that rule and no other; the good batch fails none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.validation import expectations, rules, table
from pipeline.validation.expectations import Outcome
from tests.support import good
from tests.support.blocks import data_limits, sample_limits

DATA_LIMITS = data_limits()
SAMPLE_LIMITS = sample_limits(smallest_class=0.1, largest_class=0.7)
DATA_PATCHES, SAMPLE_PATCHES = good.patches("data"), good.patches("samples")


def check_data(patch: dict) -> Outcome:
    rows, metadata = good.data()
    return expectations.check_data(good.patched(rows, patch), good.patched_metadata(metadata, patch), DATA_LIMITS)


def check_samples(patch: dict) -> Outcome:
    rows = good.patched(good.samples(), patch)
    return expectations.check_samples(rows, SAMPLE_LIMITS, good.REFERENCE_SPREAD, levels=256, classes=3)


def failed(outcome: Outcome) -> list[str]:
    return [result["rule"] for result in outcome.results if not result["success"]]


def test_every_rule_has_a_broken_batch_and_every_broken_batch_a_rule() -> None:
    data = [rule.name for rule in rules.data_rules(good.data()[1], DATA_LIMITS)]
    samples = [rule.name for rule in rules.sample_rules(SAMPLE_LIMITS, 256, 3)]
    assert len(set(data)) == len(data)
    assert len(set(samples)) == len(samples)
    assert set(data) == set(DATA_PATCHES)
    assert set(samples) == set(SAMPLE_PATCHES)


def test_good_batches_pass() -> None:
    for outcome in (check_data({}), check_samples({})):
        assert outcome.success
        assert outcome.failures == []
        assert failed(outcome) == []


@pytest.mark.parametrize("name", DATA_PATCHES)
def test_broken_data_is_caught_by_its_rule_alone(name: str) -> None:
    outcome = check_data(DATA_PATCHES[name])
    assert not outcome.success
    assert failed(outcome) == [name]
    assert [failure.split(":")[0] for failure in outcome.failures] == [name]


@pytest.mark.parametrize("name", SAMPLE_PATCHES)
def test_broken_samples_are_caught_by_their_rule_alone(name: str) -> None:
    outcome = check_samples(SAMPLE_PATCHES[name])
    assert not outcome.success
    assert failed(outcome) == [name]
    assert [failure.split(":")[0] for failure in outcome.failures] == [name]


def test_failures_say_where_what_and_what_is_allowed() -> None:
    assert check_data(DATA_PATCHES["class-imbalance"]).failures == [
        "class-imbalance: split test, label 0 has 1.67 times the images of the smallest class; at most 1.5 allowed"
    ]
    assert check_data(DATA_PATCHES["leaks"]).failures == [
        "leaks: 2 of 120 images (first: split train, position 0) lie in 2 splits; at most 1 allowed"
    ]
    assert check_data(DATA_PATCHES["counts"]).failures == [
        "counts: split valid has 40 and 41 images in its array and in spec.json; they must be equal"
    ]
    assert check_samples(SAMPLE_PATCHES["collapse"]).failures == [
        "collapse: the samples spread 0.24 times as wide as the reference images; at least 0.25 allowed"
    ]


def test_shares_within_their_limit_pass() -> None:
    # 1 repeat among 120 images is 0.83 %, below the limit of 1 %; the committed batch has 2, which is 1.7 %.
    one = {"set": [{"where": {"split": "train", "position": 3}, "to": {"sha256": "train-0"}}]}
    assert check_data(one).success
    # Drift of a fifth of a standard deviation (5.77) is below the limit of a quarter; a third of one is above.
    rows, metadata = good.data()
    for shift, expected in ((1.15, []), (1.92, ["mean-drift"]), (-1.92, ["mean-drift"])):
        moved = rows.copy()
        moved.loc[moved["split"] == "valid", "mean"] += shift
        assert failed(expectations.check_data(moved, metadata, DATA_LIMITS)) == expected


def test_a_class_missing_in_the_samples_counts_as_the_smallest() -> None:
    outcome = expectations.check_samples(good.samples(), SAMPLE_LIMITS, good.REFERENCE_SPREAD, levels=256, classes=4)
    assert failed(outcome) == ["smallest-class"]
    assert "label 3 has a share of 0 under" in outcome.failures[0]


def test_one_class_has_no_balance_to_judge() -> None:
    rows = good.samples().assign(predicted=0)
    assert expectations.check_samples(rows, SAMPLE_LIMITS, good.REFERENCE_SPREAD, levels=256, classes=1).success


def test_samples_of_real_arrays() -> None:
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (200, 1, 4, 4)).astype(np.uint8)
    spread, predicted, finite = table.spread(reference), np.arange(200) % 4, np.zeros(200, np.int64)

    def rules_failed(images: np.ndarray) -> list[str]:
        rows = table.sample_table(images, finite, predicted)
        return failed(expectations.check_samples(rows, sample_limits(), spread, levels=256, classes=4))

    assert rules_failed(reference) == []
    # Mode collapse: all samples are one image with a little noise, distinct but alike.
    collapsed = reference[:1] // 2 + rng.integers(0, 20, reference.shape)
    assert rules_failed(collapsed.astype(np.uint8)) == ["collapse"]
    assert rules_failed(reference[np.arange(200) % 100]) == ["duplicates"]


def test_a_reference_without_spread_is_refused() -> None:
    with pytest.raises(ValueError, match="spread 0"):
        expectations.check_samples(good.samples(), SAMPLE_LIMITS, 0.0, levels=256, classes=3)


def test_results_are_the_same_each_time_and_plain_json() -> None:
    first, second = (json.dumps(check_data(DATA_PATCHES["leaks"]).results, allow_nan=False) for _ in range(2))
    assert first == second


def test_infinite_drift_is_a_failure_that_json_can_hold() -> None:
    rows, metadata = good.data()
    rows["mean"] = np.where(rows["split"] == "test", 101.0, 100.0)
    outcome = expectations.check_data(rows, metadata, DATA_LIMITS)
    assert failed(outcome) == ["mean-drift"]
    assert '"inf"' in json.dumps(outcome.results, allow_nan=False)


def test_data_docs_show_every_table(tmp_path: Path) -> None:
    rows, metadata = good.data()
    expectations.check_data(rows, metadata, DATA_LIMITS, tmp_path / "docs")
    pages = {page.stem for page in (tmp_path / "docs" / "validations").rglob("*.html")}
    assert pages == {"tables-images", "tables-classes", "tables-splits"}
    index = (tmp_path / "docs" / "index.html").read_text()
    assert all(f"{page}.html" in index for page in pages)
