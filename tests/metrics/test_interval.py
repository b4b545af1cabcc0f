import numpy as np
import pytest

from pipeline.metrics.frechet import frechet_distance, moments
from pipeline.metrics.interval import halves, interval
from pipeline.metrics.prdc import manifold, neighbourhoods


def test_halves_are_without_replacement_and_fair():
    rows = halves(11, 4000, np.random.default_rng(0))
    assert rows.shape == (4000, 5)
    assert rows.min() == 0
    assert rows.max() == 10
    assert all(len(set(row)) == 5 for row in rows.tolist())
    np.testing.assert_allclose(np.bincount(rows.ravel()) / 4000, 5 / 11, atol=0.04)


@pytest.mark.parametrize("count", [100, 101, 7])
def test_a_mean_has_the_textbook_standard_error(count):
    """std / sqrt(N), whatever N: also where the halves are not equal."""
    values = np.random.default_rng(1).gamma(2, size=count)
    rows = halves(count, 20_000, np.random.default_rng(2))
    found = interval(values.mean(), values[rows].mean(axis=1), count)
    assert found.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(count), rel=0.03)
    if count > 50:
        half = 1.96 * found.standard_error
        assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
        assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def spread_of(metric, count, width):
    """(deviation of the metric over fresh sets of images, mean standard error by halves of one set)."""
    rng = np.random.default_rng(3)
    fresh = [metric(rng.normal(size=(count, width)) * 0.8) for _ in range(150)]
    errors = []
    for _ in range(8):
        images = rng.normal(size=(count, width)) * 0.8
        replicates = np.array([metric(images[half]) for half in halves(count, 60, rng)])
        errors.append(interval(metric(images), replicates, count).standard_error)
    return np.std(fresh, ddof=1), np.mean(errors)


def test_standard_errors_equal_the_spread_over_fresh_samples():
    """Metrics that are no means: the Frechet distance, recall and coverage, with the reference held fixed."""
    reference = np.random.default_rng(4).normal(size=(400, 6))
    fixed, balls = moments(reference), manifold(reference, 5)
    for metric in (
        lambda images: frechet_distance(moments(images), fixed),
        lambda images: neighbourhoods(manifold(images, 5), balls).recalled.mean(),
        lambda images: neighbourhoods(manifold(images, 5), balls).covered.mean(),
    ):
        true, estimated = spread_of(metric, 300, 6)
        assert 0.75 < estimated / true < 1.35


def test_the_interval_lies_around_its_estimate_where_a_bootstrap_would_not():
    """Drawing with replacement, the usual percentile interval of a Frechet distance lies above the distance itself."""
    rng = np.random.default_rng(5)
    fixed, images = moments(rng.normal(size=(2000, 40))), rng.normal(size=(200, 40))
    estimate = frechet_distance(moments(images), fixed)
    found = interval(estimate, np.array([frechet_distance(moments(images[h]), fixed) for h in halves(200, 60, rng)]), 200)
    interval_resamples = [frechet_distance(moments(images[rng.integers(0, 200, 200)]), fixed) for _ in range(60)]
    assert np.quantile(interval_resamples, 0.025) > estimate
    assert found.low < estimate < found.high


def test_too_few_are_refused():
    with pytest.raises(ValueError, match="there are 1 images"):
        halves(1, 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"evaluate.interval_resamples is 1; allowed is 2 or more"):
        halves(10, 1, np.random.default_rng(0))
