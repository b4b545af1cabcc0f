from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.core.contracts import DataSpec, FeatureExtractor
from pipeline.metrics.features import NetworkExtractor

SPEC = DataSpec((1, 4, 4), levels=16, classes=3)


class Corners(nn.Module, FeatureExtractor):
    """Features: the first two pixels. Logits: those and their sum. Batch statistics would show in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)

    def features(self, x: Tensor) -> Tensor:
        return self.norm(x).flatten(1)[:, :2]

    def maps(self, x: Tensor) -> list[Tensor]:
        return [x]

    def logits(self, features: Tensor) -> Tensor:
        return torch.cat([features, features.sum(1, keepdim=True)], 1)


def codes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 16, (count, 1, 4, 4), dtype=np.uint8)


def test_a_classifier_sees_bin_centres_in_evaluation_mode(tmp_path: Path):
    extractor = NetworkExtractor(Corners().train(), SPEC, name="corners", hash="0" * 64, batch=3)
    assert extractor.feature_dim == 2
    np.save(tmp_path / "images.npy", codes(10))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    found = extractor(images)
    expected = ((2.0 * images[:, 0, 0, :2] + 1) / 16 - 1) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(found.features, expected, rtol=1e-6)
    powers = np.exp(np.concatenate([expected, expected.sum(1, keepdims=True)], axis=1))
    np.testing.assert_allclose(found.probabilities, powers / powers.sum(1, keepdims=True), rtol=1e-5)
    assert found.features.dtype == found.probabilities.dtype == np.float32


def test_what_are_no_codes_is_refused():
    extractor = NetworkExtractor(Corners(), SPEC, name="corners", hash="0" * 64)
    with pytest.raises(ValueError, match="have a code 16; allowed are 0 to 15"):
        extractor(codes(3) + np.uint8(1))
    with pytest.raises(ValueError, match="type float32; allowed is"):
        extractor(codes(3).astype(np.float32))
    with pytest.raises(ValueError, match=r"shape \(3, 4, 4\)"):
        extractor(codes(3)[:, 0])
    with pytest.raises(ValueError, match=r"shape \(0, 1, 4, 4\)"):
        extractor(codes(0))
    latents = NetworkExtractor(Corners(), DataSpec((1, 4, 4), None, 3), name="corners", hash="0" * 64)
    with pytest.raises(ValueError, match="without levels"):
        latents(codes(3))
