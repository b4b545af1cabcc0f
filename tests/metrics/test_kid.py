import itertools

import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel

from pipeline.metrics import kid


def brute_force(x, y):
    """The U-statistic as a double loop."""

    def kernel(a, b):
        return (sum(a * b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_equals_the_double_loop():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(13, 5)), rng.normal(size=(17, 5)) + 0.3
    assert kid.mmd(x, y) == pytest.approx(brute_force(x, y), rel=1e-12)


def test_blocks_do_not_change_the_sum(monkeypatch):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(23, 6)), rng.normal(size=(11, 6))
    monkeypatch.setattr(kid, "BLOCK", 7)
    assert kid.kernel_sum(x, y) == pytest.approx(polynomial_kernel(x, y, degree=3).sum(), rel=1e-12)


def test_subsets_at_once_equal_one_at_a_time(monkeypatch):
    monkeypatch.setattr(kid, "BLOCK", 7)
    rng = np.random.default_rng(12)
    x, y = rng.normal(size=(23, 4)), rng.normal(size=(17, 4)) + 0.4
    subsets = np.stack([rng.permutation(23)[:11] for _ in range(6)])
    found = kid.of_subsets(x, subsets, y, kid.within(y))
    np.testing.assert_allclose(found, [brute_force(x[subset], y) for subset in subsets], rtol=1e-11)


def test_subsets_of_everything_are_the_whole():
    """A subset as large as the set is the set, in another order: no spread, and the double loop's value."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(12, 4)), rng.normal(size=(12, 4)) + 1
    found = kid.kernel_distance(x, y, subsets=4, size=12, rng=rng)
    np.testing.assert_allclose(found.subsets, brute_force(x, y), rtol=1e-12)
    assert found.std < 1e-12


def test_mean_and_std_are_over_the_subsets_and_the_draw_is_keyed():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 4)), rng.normal(size=(50, 4))
    found = kid.kernel_distance(x, y, 30, 10, np.random.default_rng(8))
    assert found.subsets.shape == (30,)
    assert (found.mean, found.std) == (np.mean(found.subsets), np.std(found.subsets))
    np.testing.assert_array_equal(found.subsets, kid.kernel_distance(x, y, 30, 10, np.random.default_rng(8)).subsets)
    assert len(np.unique(found.subsets)) == 30


def test_unbiased_where_the_sets_are_alike_and_few():
    """200 draws of 10 + 10 points of one distribution: the mean lies within 3 standard errors of zero. The estimate that
    counts the pairs (i, i) lies far outside."""
    rng = np.random.default_rng(4)
    pairs = [(rng.normal(size=(10, 6)), rng.normal(size=(10, 6))) for _ in range(200)]
    unbiased = np.array([kid.mmd(x, y) for x, y in pairs])
    biased = [polynomial_kernel(x).mean() + polynomial_kernel(y).mean() - 2 * polynomial_kernel(x, y).mean() for x, y in pairs]
    error = unbiased.std() / np.sqrt(len(unbiased))
    assert abs(unbiased.mean()) < 3 * error < abs(np.mean(biased)) / 5
    assert (unbiased < 0).any()


def test_grows_with_distance_and_ignores_order():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 100, 8))
    found = [kid.mmd(x + shift, y) for shift in (0.2, 0.5, 1.0, 2.0)]
    assert all(later > 2 * earlier for earlier, later in itertools.pairwise(found))
    assert kid.mmd(x[::-1] + 1, y[rng.permutation(100)]) == pytest.approx(found[2], rel=1e-10)


def test_broken_input_is_refused():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(20, 4))
    bad = x.copy()
    bad[0, 0] = np.nan
    for generated, reference, words in [
        (bad, x, "1 of 20 images are not finite"), (x, bad, "not finite"), (x, x[:, :2], "widths 4 and 2"),
        (x[:5], x, "kid.subset_size is 10; allowed is at most 5"), (x, x[:1], "needs 2 or more"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            kid.kernel_distance(generated, reference, 3, 10, rng)
