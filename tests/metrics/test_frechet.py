import itertools

import numpy as np
import pytest
from scipy.linalg import sqrtm

from pipeline.metrics.frechet import Moments, frechet_distance, moments


def distance(first, second):
    return frechet_distance(moments(first), moments(second))


def by_matrix_square_root(first, second):
    """The formula as printed, with numpy's covariance and scipy's matrix square root in float64."""
    shift = first.mean(0) - second.mean(0)
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1])
    assert np.abs(np.imag(root)).max() < 1e-6
    return shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(np.real(root))


@pytest.mark.parametrize(("counts", "width"), [((300, 200), 8), ((500, 900), 40)])
def test_equals_the_formula_with_a_matrix_square_root(counts, width):
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(width, width))
    first = rng.normal(size=(counts[0], width)) @ mix
    second = rng.normal(size=(counts[1], width)) * np.linspace(0.1, 3, width) + 1
    assert distance(first, second) == pytest.approx(by_matrix_square_root(first, second), rel=1e-9)


def test_fewer_points_than_dimensions():
    """Rank 9 in 30 dimensions: against the symmetric square root, whose eigenvalues are real by construction."""
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(10, 30)), rng.normal(size=(25, 30)) + 0.5

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    middle = np.trace(root(root(s1) @ s2 @ root(s1)))
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(s1 + s2) - 2 * middle
    assert distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_closed_form_of_commuting_gaussians():
    """|m1 - m2|^2 + sum (s1 - s2)^2 for diagonal covariances, whatever the rotation."""
    rng = np.random.default_rng(2)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    m1, m2 = rng.normal(size=6), rng.normal(size=6)
    s1, s2 = rng.uniform(0, 2, 6), rng.uniform(0, 2, 6)
    s1[0] = s2[1] = 0.0
    found = frechet_distance(Moments(m1, np.diag(s1) @ rotation), Moments(m2, np.diag(s2) @ rotation))
    assert found == pytest.approx(((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum(), rel=1e-12)


def test_the_covariance_has_the_divisor_n_minus_1():
    points = np.random.default_rng(3).normal(size=(5, 3))
    factor = moments(points).factor
    np.testing.assert_allclose(factor.T @ factor, np.cov(points, rowvar=False), rtol=1e-12)


def test_zero_to_itself_and_to_its_permutation_and_symmetric():
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(50, 100)), rng.normal(size=(70, 100))
    assert abs(distance(first, first)) < 1e-10
    assert abs(distance(first, first[rng.permutation(50)])) < 1e-10
    assert distance(first, second) == pytest.approx(distance(second[rng.permutation(70)], first), rel=1e-12)


def test_grows_with_added_noise():
    rng = np.random.default_rng(5)
    reference, images = rng.normal(size=(2, 400, 20))
    noise = rng.normal(size=images.shape)
    found = [distance(images + scale * noise, reference) for scale in (0, 0.5, 1, 2, 4)]
    assert all(later > 1.5 * earlier for earlier, later in itertools.pairwise(found))


def test_biased_upwards_for_few_images():
    rng = np.random.default_rng(6)
    reference = rng.normal(size=(4000, 20))
    assert distance(rng.normal(size=(50, 20)), reference) > 5 * distance(rng.normal(size=(2000, 20)), reference) > 0


def test_broken_features_are_refused():
    good = np.random.default_rng(7).normal(size=(10, 4))
    bad = good.copy()
    bad[3, 2], bad[3, 3], bad[5, 0] = np.nan, np.inf, np.nan
    with pytest.raises(ValueError, match="2 of 10 images are not finite"):
        moments(bad)
    with pytest.raises(ValueError, match="needs 2 or more"):
        moments(good[:1])
    with pytest.raises(ValueError, match="shape"):
        moments(good[0])
    with pytest.raises(ValueError, match="widths 4 and 3"):
        distance(good, good[:, :3])
