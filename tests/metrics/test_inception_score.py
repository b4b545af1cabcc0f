import numpy as np
import pytest
from scipy.stats import entropy

from pipeline.metrics.inception_score import inception_score


def rng():
    return np.random.default_rng(0)


def test_by_hand():
    """Two images, p = (1, 0) and (1/2, 1/2), mean (3/4, 1/4): KLs log(4/3) and (log(2/3) + log 2) / 2 = log(4/3) / 2."""
    found = inception_score(np.array([[1, 0], [0.5, 0.5]]), 1, rng())
    assert found.mean == pytest.approx(np.exp((np.log(4 / 3) + np.log(4 / 3) / 2) / 2), rel=1e-12)
    assert found.mean == pytest.approx((4 / 3) ** 0.75, rel=1e-12)


def test_extremes():
    certain = np.eye(10)[np.arange(1000) % 10]
    assert inception_score(certain, 1, rng()).mean == pytest.approx(10, rel=1e-12)
    assert inception_score(certain[:1].repeat(50, axis=0), 5, rng()).mean == pytest.approx(1, rel=1e-12)
    assert inception_score(np.full((50, 10), 0.1), 5, rng()).mean == pytest.approx(1, rel=1e-12)


def test_equals_the_difference_of_entropies():
    """exp(H(mean) - mean H), by scipy's entropy."""
    p = np.random.default_rng(1).dirichlet(np.full(7, 0.3), size=500)
    assert inception_score(p, 1, rng()).mean == pytest.approx(np.exp(entropy(p.mean(0)) - entropy(p, axis=1).mean()), rel=1e-9)


def test_splits_are_shuffled_and_keyed():
    """Images ordered by class: unshuffled, every split has one class and the score 1."""
    ordered = np.eye(5)[np.repeat(np.arange(5), 40)]
    found = inception_score(ordered, 5, rng())
    assert found.splits.shape == (5,)
    assert found.splits.min() > 4
    np.testing.assert_array_equal(found.splits, inception_score(ordered, 5, rng()).splits)
    assert (found.mean, found.std) == (found.splits.mean(), found.splits.std())


def test_splits_are_equal_but_for_one_image_and_lose_none():
    """Certain classes with 11 images: a split of n images, all of different classes, scores n."""
    found = inception_score(np.eye(11), 3, rng())
    np.testing.assert_allclose(sorted(found.splits), [3, 4, 4], rtol=1e-12)


def test_broken_input_is_refused():
    p = np.full((4, 2), 0.5)
    for bad, splits, words in [
        (p * 1.1, 1, "sum to 1"), (p + np.array([0.6, -0.6]), 1, "0 or more"), (p * np.nan, 1, "4 of 4"), (p, 5, "at most 4"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            inception_score(bad, splits, rng())
