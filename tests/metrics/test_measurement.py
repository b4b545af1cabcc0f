from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.metrics import base, kid
from pipeline.metrics.base import Real
from pipeline.metrics.features import Features
from pipeline.metrics.frechet import frechet_distance, moments
from pipeline.metrics.inception_score import inception_score
from pipeline.metrics.interval import halves, interval
from pipeline.metrics.measurement import columns, describe, images, measure, one_thread, open_metrics
from pipeline.metrics.prdc import manifold, neighbourhoods

SETTINGS = {"prdc": {"nearest_k": 3}, "kid": {"subsets": 10, "subset_size": 30}, "inception_score": {"splits": 2}}
METRICS = open_metrics(SETTINGS, "fd")
RESAMPLED = {column.key for metric in METRICS if metric.resampled for column in metric.columns}


def keyed(purpose: str) -> np.random.Generator:
    return np.random.default_rng(list(purpose.encode()))


def features(seed: int, count: int, shift: float = 0.0, scale: float = 1.0) -> Features:
    rng = np.random.default_rng(seed)
    found = (rng.normal(size=(count, 6)) * scale + shift).astype(np.float32)
    return Features(found, rng.dirichlet(np.ones(4), count).astype(np.float32))


def some(seed: int, count: int, shift: float = 0.0, scale: float = 1.0):
    """Features as above, and codes that have nothing to do with them."""
    codes = np.random.default_rng(seed + 1000).integers(0, 16, (count, 1, 4, 4), dtype=np.uint8)
    return images(codes, features(seed, count, shift, scale))


def reference(count: int = 120, replicates: int = 20):
    training, test = some(5, 60).codes, some(6, 50).codes
    return describe(Real(some(0, count), training, test, 16, 1.5), METRICS, replicates)


def test_every_metric_has_a_value_and_an_interval_around_it():
    found = measure(some(1, 100, shift=0.5), reference(), keyed)
    assert list(found.values) == [column.key for column in columns(METRICS)]
    assert set(found.intervals) == RESAMPLED == {
        "fd", "kid", "inception_score", "precision", "density", "recall", "coverage"
    }  # fmt: skip
    for name, span in found.intervals.items():
        assert span.low < found.values[name] < span.high, name
        assert 0 < span.standard_error < span.high - span.low, name
    ours, real = features(1, 100, shift=0.5).features, features(0, 120).features
    assert found.values["fd"] == frechet_distance(moments(ours), moments(real))


def test_columns_stand_in_the_order_of_the_tables():
    assert [column.key for column in columns(METRICS)] == [
        "fd", "kid", "inception_score", "precision", "density", "recall", "coverage",
        "memorised", "closer_than_test", "distance_ratio", "training_copies", "duplicates", "near_duplicates",
    ]  # fmt: skip


def test_the_same_seed_gives_the_same_numbers_and_no_replicates_no_intervals():
    first, second = (measure(some(1, 100), reference(), keyed) for _ in range(2))
    assert (first.values, first.intervals) == (second.values, second.intervals)
    plain = measure(some(1, 100), reference(replicates=0), keyed)
    assert plain.intervals == {}
    assert plain.values == first.values  # intervals draw from streams of their own


def test_replicates_are_the_metrics_of_each_half():
    """An interval by the definition: every metric anew on every half, by the functions that measure whole sets."""
    whole = features(1, 100, shift=0.5)
    found = measure(some(1, 100, shift=0.5), reference(), keyed)
    chosen, shuffle = halves(100, 20, keyed("halves")), keyed("inception score of halves")
    real = features(0, 120).features.astype(np.float64)
    anew = {name: [] for name in RESAMPLED}
    for half in chosen:
        part = whole.features[half].astype(np.float64)
        shares = neighbourhoods(manifold(part, 3), manifold(real, 3))
        anew["fd"].append(frechet_distance(moments(part), moments(real)))
        anew["kid"].append(kid.mmd(part, real))
        anew["inception_score"].append(inception_score(whole.probabilities[half], 2, shuffle).mean)
        for name, of in (("precision", "precise"), ("density", "densities"), ("recall", "recalled"), ("coverage", "covered")):
            anew[name].append(getattr(shares, of).mean())
    for name, values in anew.items():
        expected = interval(found.values[name], np.array(values), 100)
        for end in ("low", "high", "standard_error"):
            assert getattr(found.intervals[name], end) == pytest.approx(getattr(expected, end), rel=1e-10), (name, end)


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_too_narrow_samples_lose_diversity_and_far_ones_quality():
    sets = some(1, 300), some(1, 300, scale=0.3), some(1, 300, shift=3.0)
    good, narrow, far = (measure(one, reference(300), keyed).values for one in sets)
    assert narrow["recall"] < 0.5 * good["recall"]
    assert narrow["precision"] > good["precision"]
    assert far["precision"] < 0.5 * good["precision"]
    assert far["density"] < 0.5 * good["density"]
    for name in ("fd", "kid"):
        assert far[name] > 10 * abs(good[name])
        assert narrow[name] > 3 * abs(good[name])


def test_too_few_images_are_refused_with_what_is_needed():
    with pytest.raises(
        ValueError, match="there are 7 images; intervals from halves of them need 8 or more with the metric prdc"
    ):
        measure(some(1, 7), reference(), keyed)
    with pytest.raises(ValueError, match="nearest_k is 3; allowed is at most 2"):
        reference(3)


def test_settings_are_read_by_the_metric_they_belong_to():
    with pytest.raises(ValueError, match=r"evaluate.metrics.kid.subset_size is 1; allowed: greater than or equal to 2"):
        open_metrics({**SETTINGS, "kid": {"subsets": 10, "subset_size": 1}}, "fd")
    with pytest.raises(ValueError, match=r"evaluate.metrics.prdc.nearest_k is missing; it is required"):
        open_metrics({name: values for name, values in SETTINGS.items() if name != "prdc"}, "fd")


def test_a_module_with_a_metric_is_found():
    """What has no `Config` is a helper for whoever looks into the folder: a Metric without one would never be measured."""
    written = [
        file.stem for file in Path(base.__file__).parent.glob("*.py") if "\nclass Metric(base.Metric)" in file.read_text()
    ]
    assert sorted(written) == sorted(metric.name for metric in METRICS)


def test_the_distance_has_the_name_that_the_extractor_gives_it():
    frechet = open_metrics(SETTINGS, "fid")[0]
    assert [(column.key, column.title) for column in frechet.columns] == [("fid", "FID")]
    assert "Inception" in frechet.explanation
