import itertools

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from pipeline.metrics import distances, prdc


def found(generated, reference, k):
    return prdc.neighbourhoods(prdc.manifold(generated, k), prdc.manifold(reference, k))


def brute_force(generated, reference, k):
    """Loops over points; radii by sorting all distances to the others of the own set."""

    def radii(points):
        return [sorted(np.linalg.norm(a - b) for j, b in enumerate(points) if j != i)[k - 1] for i, a in enumerate(points)]

    real_radii, fake_radii = radii(reference), radii(generated)
    real, fake = list(zip(reference, real_radii, strict=True)), list(zip(generated, fake_radii, strict=True))
    inside_real = [[np.linalg.norm(point - centre) <= radius for centre, radius in real] for point in generated]
    inside_fake = [[np.linalg.norm(point - centre) <= radius for centre, radius in fake] for point in reference]
    return (
        [sum(row) for row in inside_real],
        [any(row) for row in inside_fake],
        [any(row[j] for row in inside_real) for j in range(len(reference))],
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_brute_force(k, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", 16)  # several blocks, the last one not full
    rng = np.random.default_rng(k)
    generated, reference = rng.normal(size=(40, 3)) * 0.9 + 11, rng.normal(size=(55, 3)) + 10
    balls, recalled, covered = brute_force(generated, reference, k)
    measured = found(generated, reference, k)
    np.testing.assert_array_equal(measured.balls, balls)
    np.testing.assert_array_equal(measured.precise, np.array(balls) > 0)
    np.testing.assert_allclose(measured.densities, np.array(balls) / k)
    np.testing.assert_array_equal(measured.recalled, recalled)
    np.testing.assert_array_equal(measured.covered, covered)
    for share in (measured.precise, measured.recalled, measured.covered):
        assert 0 < share.mean() < 1


def test_subsets_at_once_equal_one_at_a_time(monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", 16)
    rng = np.random.default_rng(9)
    generated, reference = rng.normal(size=(41, 3)) * 0.8 + 5, prdc.manifold(rng.normal(size=(55, 3)) + 5, 3)
    subsets = np.stack([rng.permutation(41)[:20] for _ in range(12)])
    at_once = prdc.of_subsets(generated, subsets, 3, reference)
    assert len(at_once) == 12
    for subset, one in zip(subsets, at_once, strict=True):
        alone = prdc.neighbourhoods(prdc.manifold(generated[subset], 3), reference)
        for name in ("balls", "recalled", "covered"):
            np.testing.assert_array_equal(getattr(one, name), getattr(alone, name))
        assert one.k == 3
    assert len({one.recalled.mean() for one in at_once}) > 3


def test_radii_are_those_of_scikit_learn():
    points = np.random.default_rng(0).normal(size=(2500, 16))
    # The first neighbour that it finds is the point itself.
    distances = NearestNeighbors(n_neighbors=6).fit(points).kneighbors(points)[0][:, 5]
    np.testing.assert_allclose(prdc.manifold(points, 5).radii.sqrt().numpy(), distances, rtol=1e-9)


def modes(rng, *centres, count=150):
    return np.concatenate([rng.normal(size=(count, 2)) * 0.1 + centre for centre in centres])


def test_one_mode_of_four_is_precise_and_recalls_little():
    rng = np.random.default_rng(1)
    all_four, one = modes(rng, (0, 0), (9, 0), (0, 9), (9, 9)), modes(rng, (0, 0), count=600)
    collapsed, spread = found(one, all_four, 5), found(all_four, one, 5)
    assert collapsed.precise.mean() > 0.9
    assert collapsed.densities.mean() > 0.8
    assert collapsed.recalled.mean() < 0.3
    assert collapsed.covered.mean() < 0.3
    # And the reverse: samples on three modes that the reference does not have.
    assert spread.precise.mean() < 0.3
    assert spread.densities.mean() < 0.3
    assert spread.recalled.mean() > 0.9
    assert spread.covered.mean() > 0.6


def test_an_outlier_among_the_reference_inflates_precision_but_hardly_density():
    """The point of density (Naeem et al. 2020, figure 2): bad samples inside one outlier's huge ball."""
    rng = np.random.default_rng(2)
    reference = np.concatenate([rng.normal(size=(300, 2)) * 0.1, [[8.0, 0.0]]])
    bad = rng.normal(size=(200, 2)) * 0.1 + (5, 0)
    measured = found(bad, reference, 5)
    assert measured.precise.mean() == 1
    assert measured.densities.mean() == pytest.approx(1 / 5)


def test_copies_are_covered_and_equal_distributions_have_density_one():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(300, 4))
    copies = found(points, points, 5)
    assert copies.precise.all()
    assert copies.recalled.all()
    assert copies.covered.all()
    alike = found(rng.normal(size=(2000, 4)), rng.normal(size=(2000, 4)), 5)
    assert alike.densities.mean() == pytest.approx(1, abs=0.05)
    # Naeem et al. 2020, lemma 2: 1 - (M - 1) ... (M - k) / ((2M - 1) ... (2M - k)) for M = N, nearly 1 - 2^-k.
    expected = 1 - np.prod([(2000 - i) / (4000 - i) for i in range(1, 6)])
    assert alike.covered.mean() == pytest.approx(expected, abs=0.02)


def test_order_moves_with_the_images():
    rng = np.random.default_rng(4)
    generated, reference = rng.normal(size=(50, 3)), rng.normal(size=(60, 3)) + 1
    first, second = rng.permutation(50), rng.permutation(60)
    plain, shuffled = found(generated, reference, 3), found(generated[first], reference[second], 3)
    np.testing.assert_array_equal(plain.balls[first], shuffled.balls)
    np.testing.assert_array_equal(plain.recalled[second], shuffled.recalled)
    np.testing.assert_array_equal(plain.covered[second], shuffled.covered)


def test_noise_lowers_precision_and_density():
    rng = np.random.default_rng(5)
    reference, images = rng.normal(size=(2, 400, 8))
    noise = rng.normal(size=images.shape)
    measured = [found(images + scale * noise, reference, 5) for scale in (0, 1, 2, 4)]
    for share in ("precise", "densities", "covered"):
        values = [getattr(one, share).mean() for one in measured]
        assert all(later < 0.9 * earlier for earlier, later in itertools.pairwise(values)), (share, values)


def test_broken_input_is_refused():
    points = np.random.default_rng(6).normal(size=(6, 3))
    with pytest.raises(ValueError, match="nearest_k is 6; allowed is at most 5"):
        prdc.manifold(points, 6)
    bad = points.copy()
    bad[2, 1] = np.inf
    with pytest.raises(ValueError, match="1 of 6 images are not finite"):
        prdc.manifold(bad, 2)
    with pytest.raises(ValueError, match="widths 2 and 3"):
        found(points[:, :2], points, 2)
