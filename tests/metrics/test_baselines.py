import numpy as np
import pytest
from scipy.stats import norm

from pipeline.metrics import baselines


def test_training_images_are_different_ones_of_the_set():
    train = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    drawn = baselines.training_images(train, 20, np.random.default_rng(0))
    assert drawn.shape == (20, 1, 1, 1)
    assert len(np.unique(drawn)) == 20
    np.testing.assert_array_equal(drawn, baselines.training_images(train, 20, np.random.default_rng(0)))
    assert not np.array_equal(drawn, baselines.training_images(train, 20, np.random.default_rng(1)))
    with pytest.raises(ValueError, match="baseline_images is 51; allowed is at most 50"):
        baselines.training_images(train, 51, np.random.default_rng(0))


def test_mean_image_has_the_moments_of_each_pixel_and_counts_what_it_clips(monkeypatch):
    monkeypatch.setattr(baselines, "BLOCK", 7)
    rng = np.random.default_rng(0)
    train = np.zeros((100, 1, 1, 4), dtype=np.uint8)
    train[:, 0, 0, 0] = rng.integers(110, 140, 100)  # far from both ends
    train[:, 0, 0, 1] = rng.integers(0, 60, 100)  # near the lower end
    train[:, 0, 0, 2] = rng.choice([0, 255], 100)  # at both
    train[:, 0, 0, 3] = 77  # constant
    made = baselines.mean_image(train, 20_000, 256, np.random.default_rng(1))
    pixels = made.images[:, 0, 0].astype(float)
    mean, std = train[:, 0, 0].mean(0, dtype=float), train[:, 0, 0].std(0, dtype=float)
    assert pixels[:, 0].mean() == pytest.approx(mean[0], abs=0.3)
    assert pixels[:, 0].std() == pytest.approx(std[0], rel=0.03)
    assert (pixels[:, 3] == 77).all()
    outside = [norm.cdf((-0.5 - mean[i]) / std[i]) + norm.sf((255.5 - mean[i]) / std[i]) for i in range(3)]
    assert made.clipped == pytest.approx(sum(outside) / 4, abs=0.005)
    assert made.images.dtype == np.uint8


def test_noise_is_uniform_over_all_levels_and_no_others():
    found = baselines.noise((2, 3, 3), 2000, 16, np.random.default_rng(2))
    assert found.shape == (2000, 2, 3, 3)
    counts = np.bincount(found.ravel(), minlength=16)
    assert len(counts) == 16
    np.testing.assert_allclose(counts / found.size, 1 / 16, rtol=0.1)
    assert baselines.noise((1, 8, 8), 100, 256, np.random.default_rng(3)).max() == 255
