import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import Inception3
from torchvision.transforms import functional as transforms

from pipeline.core.contracts import DataSpec, FeatureExtractor
from pipeline.metrics.features import ClassifierExtractor, InceptionExtractor

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
    extractor = ClassifierExtractor(Corners().train(), SPEC, name="corners", hash="0" * 64, batch=3)
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
    extractor = ClassifierExtractor(Corners(), SPEC, name="corners", hash="0" * 64)
    with pytest.raises(ValueError, match="have a code 16; allowed are 0 to 15"):
        extractor(codes(3) + np.uint8(1))
    with pytest.raises(ValueError, match="type float32; allowed is"):
        extractor(codes(3).astype(np.float32))
    with pytest.raises(ValueError, match=r"shape \(3, 4, 4\)"):
        extractor(codes(3)[:, 0])
    with pytest.raises(ValueError, match=r"shape \(0, 1, 4, 4\)"):
        extractor(codes(0))
    latents = ClassifierExtractor(Corners(), DataSpec((1, 4, 4), None, 3), name="corners", hash="0" * 64)
    with pytest.raises(ValueError, match="without levels"):
        latents(codes(3))


@pytest.fixture(scope="module")
def inception() -> Inception3:
    torch.manual_seed(0)
    model = Inception3(aux_logits=True, transform_input=True, init_weights=False).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):  # variance kept from layer to layer, or nothing of the images reaches the end
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return model


def test_inception_equals_torchvisions_own_path(inception: Inception3, tmp_path: Path):
    """torchvision's way: [0, 1], resized, normalised as ImageNet, undone by transform_input; pool3 through a hook."""
    weights = tmp_path / "inception.safetensors"
    save_file(inception.state_dict(), weights)
    images = codes(3)
    extractor = InceptionExtractor(weights, SPEC, batch=2)
    found = extractor(images)

    grey = torch.from_numpy(images).float() / 15
    resized = transforms.resize(grey.repeat(1, 3, 1, 1), [299, 299], antialias=False)
    pooled = []
    hook = inception.avgpool.register_forward_hook(lambda module, inputs, output: pooled.append(output.flatten(1)))
    with torch.no_grad():
        logits = inception(transforms.normalize(resized, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    hook.remove()
    assert found.features.shape == (3, extractor.feature_dim) == (3, 2048)
    expected = pooled[0].numpy()
    np.testing.assert_allclose(found.features, expected, atol=1e-3 * expected.std(axis=0).max())  # images are told apart
    np.testing.assert_allclose(found.probabilities, logits.softmax(1).numpy(), rtol=1e-3)
    assert (extractor.name, extractor.hash) == ("inception", hashlib.sha256(weights.read_bytes()).hexdigest())


def test_inception_from_a_torch_state_dict(inception: Inception3, tmp_path: Path):
    weights = tmp_path / "inception.pth"
    torch.save(inception.state_dict(), weights)
    extractor = InceptionExtractor(weights, DataSpec((3, 4, 4), 16, 3))
    assert torch.equal(extractor.model.Conv2d_1a_3x3.conv.weight, inception.Conv2d_1a_3x3.conv.weight)
    assert torch.equal(extractor.head.weight, inception.fc.weight)


def test_other_weight_files_are_refused(inception: Inception3, tmp_path: Path):
    torch.save(inception.fc, tmp_path / "module.pth")  # a pickled module: code, not weights
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    old = {**inception.state_dict(), "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    save_file(old, tmp_path / "1008.safetensors")
    for name, words in [
        ("module.pth", "neither a safetensors file nor a plain torch state dict"), ("numbers.pth", "something else"),
        ("text.pth", "neither"), ("text.safetensors", "neither"), ("missing.pth", "is no file"),
        ("1008.safetensors", "does not hold the weights of torchvision's Inception-v3"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            InceptionExtractor(tmp_path / name, SPEC)
    with pytest.raises(ValueError, match="2 channels"):
        InceptionExtractor(tmp_path / "missing.pth", DataSpec((2, 4, 4), 16, 3))
