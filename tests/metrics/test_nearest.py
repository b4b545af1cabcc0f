import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from pipeline.metrics import nearest as module
from pipeline.metrics.nearest import memorisation, nearest


def codes(seed: int, count: int, side: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, side, side), dtype=np.uint8)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_equals_scikit_learn_and_scipy(k: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BLOCK", 16)  # several blocks of both, the last ones not full
    monkeypatch.setattr(module, "POINTS", 21)
    queries, points = codes(0, 40), codes(1, 67)
    found = nearest(queries, points, k)
    rows, columns = (images.reshape(len(images), -1).astype(float) for images in (queries, points))
    distances, indices = NearestNeighbors(n_neighbors=k).fit(columns).kneighbors(rows)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, np.sort(cdist(rows, columns), axis=1)[:, :k], rtol=1e-12)


def test_zero_is_for_equal_images_only():
    """One code of difference in one pixel of a bright image is a distance of 1, not of 0."""
    points = np.full((3, 1, 28, 28), 250, np.uint8)
    points[1, 0, 3, 4] = 249
    points[2] = 7
    found = nearest(points[[1, 0, 2]], points)
    assert found.indices.tolist() == [[1, 0], [0, 1], [2, 1]]
    assert found.distances[:2].tolist() == [[0, 1], [0, 1]]
    assert found.distances[2, 0] == 0


def test_order_moves_with_the_images():
    queries, points = codes(0, 20), codes(1, 30)
    first, second = np.random.default_rng(2).permutation(20), np.random.default_rng(3).permutation(30)
    plain, shuffled = nearest(queries, points), nearest(queries[first], points[second])
    np.testing.assert_array_equal(plain.distances[first], shuffled.distances)
    np.testing.assert_array_equal(plain.indices[first], second[shuffled.indices])


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(ValueError, match="there are 1 images to search; 2 nearest"):
        nearest(codes(0, 3), codes(1, 1))
    with pytest.raises(ValueError, match=r"shapes \(1, 4, 4\) and \(1, 8, 8\)"):
        nearest(codes(0, 3), codes(1, 5, side=8))


@pytest.fixture
def smooth() -> np.ndarray:
    """(900, 1, 6, 6): images of one distribution, with a structure that noise does not have."""
    rng = np.random.default_rng(5)
    scenes = 128 + 30 * rng.normal(size=(900, 3)) @ rng.normal(size=(3, 36)) + 6 * rng.normal(size=(900, 36))
    return np.clip(np.rint(scenes), 0, 255).astype(np.uint8).reshape(-1, 1, 6, 6)


def test_copies_fresh_images_and_noise_lie_apart(smooth: np.ndarray):
    training, test, fresh = smooth[:500], smooth[500:700], smooth[700:]
    unseen = nearest(test, training)
    copied, new, noise = (memorisation(images, training, unseen) for images in (training[:200], fresh, codes(6, 200, side=6)))
    assert copied.values == {"memorised": 1.0, "closer_than_test": 1.0, "distance_ratio": 0.0, "training_copies": 200}
    np.testing.assert_array_equal(copied.generated.indices[:, 0], np.arange(200))
    assert new.values["training_copies"] == new.values["memorised"] == 0
    assert new.values["closer_than_test"] <= 0.05
    assert 0.9 < new.values["distance_ratio"] < 1.1
    assert noise.values["memorised"] == noise.values["closer_than_test"] == noise.values["training_copies"] == 0
    assert noise.values["distance_ratio"] > 1.5


def test_nearly_copied_images_are_found_among_others(smooth: np.ndarray):
    """A quarter of the images are training images with a code more in every second pixel: none equal, all memorised."""
    training, unseen = smooth[:500], nearest(smooth[500:700], smooth[:500])
    images = smooth[700:].copy()
    images[:50] = training[100:150]
    images[:50, :, ::2] = np.minimum(images[:50, :, ::2], 254) + 1
    found = memorisation(images, training, unseen)
    assert found.values["training_copies"] == 0
    assert found.memorised[:50].mean() > 0.95
    assert found.memorised[50:].sum() == 0
    np.testing.assert_array_equal(found.generated.indices[:50, 0], np.arange(100, 150))
    assert found.values["memorised"] == found.memorised.mean()


def test_easy_images_are_close_to_training_images_without_being_copies(smooth: np.ndarray):
    """Images near the middle of the data are close to many training images, and to none in particular."""
    training, unseen = smooth[:500], nearest(smooth[500:700], smooth[:500])
    dull = np.rint(128 + 0.05 * (smooth[700:].astype(float) - 128)).astype(np.uint8)
    found = memorisation(dull, training, unseen)
    assert found.values["distance_ratio"] < 0.9
    assert found.values["memorised"] == 0


def test_test_images_that_are_training_images_are_refused(smooth: np.ndarray):
    found = memorisation(smooth[700:], smooth[:500], nearest(smooth[:100], smooth[:500]))
    with pytest.raises(ValueError, match="half of the test images are training images"):
        _ = found.values
