import numpy as np
import pytest
import torch

from pipeline.metrics import kid
from pipeline.metrics.features import Features
from pipeline.metrics.frechet import frechet_distance, moments
from pipeline.metrics.inception_score import inception_score
from pipeline.metrics.interval import halves, interval
from pipeline.metrics.measurement import DIVERSITY, QUALITY, Settings, describe, measure, one_thread
from pipeline.metrics.prdc import manifold, neighbourhoods

SETTINGS = Settings(nearest_k=3, kid_subsets=10, kid_subset_size=30, inception_score_splits=2, replicates=20)


def keyed(purpose: str) -> np.random.Generator:
    return np.random.default_rng(list(purpose.encode()))


def images(seed: int, count: int, shift: float = 0.0, scale: float = 1.0) -> Features:
    rng = np.random.default_rng(seed)
    features = (rng.normal(size=(count, 6)) * scale + shift).astype(np.float32)
    return Features(features, rng.dirichlet(np.ones(4), count).astype(np.float32))


def test_every_metric_has_a_value_and_an_interval_around_it():
    reference = describe(images(0, 120).features, SETTINGS)
    found = measure(images(1, 100, shift=0.5), reference, SETTINGS, keyed)
    assert set(found.values) == set(found.intervals) == {*QUALITY, *DIVERSITY}
    for name, span in found.intervals.items():
        assert span.low < found.values[name] < span.high, name
        assert 0 < span.standard_error < span.high - span.low, name
    assert found.values["fd"] == frechet_distance(moments(images(1, 100, shift=0.5).features), moments(images(0, 120).features))


def test_the_same_seed_gives_the_same_numbers_and_no_replicates_no_intervals():
    reference = describe(images(0, 120).features, SETTINGS)
    first, second = (measure(images(1, 100), reference, SETTINGS, keyed) for _ in range(2))
    assert (first.values, first.intervals) == (second.values, second.intervals)
    plain = measure(images(1, 100), reference, Settings(3, 10, 30, 2, 0), keyed)
    assert plain.intervals == {}
    assert plain.values == first.values  # intervals draw from streams of their own


def test_replicates_are_the_metrics_of_each_half():
    """An interval by the definition: every metric anew on every half, by the functions that measure whole sets."""
    reference, whole = describe(images(0, 120).features, SETTINGS), images(1, 100, shift=0.5)
    found = measure(whole, reference, SETTINGS, keyed)
    chosen, shuffle = halves(100, SETTINGS.replicates, keyed("halves")), keyed("inception score of halves")
    real = images(0, 120).features.astype(np.float64)
    anew = {name: [] for name in found.values}
    for half in chosen:
        some = whole.features[half].astype(np.float64)
        shares = neighbourhoods(manifold(some, 3), reference.manifold)
        anew["fd"].append(frechet_distance(moments(some), reference.moments))
        anew["kid"].append(kid.mmd(some, real))
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
    reference = describe(images(0, 300).features, SETTINGS)
    sets = images(1, 300), images(1, 300, scale=0.3), images(1, 300, shift=3.0)
    good, narrow, far = (measure(some, reference, SETTINGS, keyed).values for some in sets)
    assert narrow["recall"] < 0.5 * good["recall"]
    assert narrow["precision"] > good["precision"]
    assert far["precision"] < 0.5 * good["precision"]
    assert far["density"] < 0.5 * good["density"]
    for name in ("fd", "kid"):
        assert far[name] > 10 * abs(good[name])
        assert narrow[name] > 3 * abs(good[name])


def test_too_few_images_are_refused_with_what_is_needed():
    reference = describe(images(0, 120).features, SETTINGS)
    with pytest.raises(ValueError, match="there are 7 images; intervals from halves of them need 8 or more"):
        measure(images(1, 7), reference, SETTINGS, keyed)
    with pytest.raises(ValueError, match="neighbours is 3; allowed is at most 2"):
        describe(images(0, 3).features, SETTINGS)
