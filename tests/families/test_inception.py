"""Inception-v3 with the user's weights: through the train stage as its user runs it, and opened like any extractor."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import Inception3
from torchvision.transforms import functional as transforms

from pipeline import check, train
from pipeline.config.load import load_params
from pipeline.core import artifacts
from pipeline.core.contracts import DataSpec
from pipeline.core.pixels import dequantize
from pipeline.metrics.features import NetworkExtractor
from pipeline.store import models
from pipeline.store.data import DataDirectory, write_data
from pipeline.store.extractors import open_extractor
from tests.support.mistakes import tiny_values, write


@pytest.fixture(scope="module")
def inception() -> Inception3:
    torch.manual_seed(0)
    model = Inception3(aux_logits=True, transform_input=True, init_weights=False).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):  # variance kept from layer to layer, or nothing of the images reaches the end
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return model


def codes(count: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 16, (count, channels, 4, 4), dtype=np.uint8)


def torchvisions_own(model: Inception3, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[0, 1], resized, normalised as ImageNet, undone by transform_input: pool3 through a hook, and probabilities."""
    grey = torch.from_numpy(images).float() / 15
    resized = transforms.resize(grey.expand(-1, 3, -1, -1), [299, 299], antialias=False)
    pooled: list[torch.Tensor] = []
    hook = model.avgpool.register_forward_hook(lambda module, inputs, output: pooled.append(output.flatten(1)))
    with torch.no_grad():
        logits = model(transforms.normalize(resized, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    hook.remove()
    return pooled[0].numpy(), logits.softmax(1).numpy()


def project(folder: Path, weights: Path, sha256: str | None = None, channels: int = 1) -> DataDirectory:
    """data/prepared and a params.yaml that measures in Inception's features."""
    values: dict[str, Any] = tiny_values()
    values["extractors"]["inception"] = {
        "family": "inception", "data": "data/prepared", "seed": 0, "training": None,
        "model": {"weights": str(weights), "sha256": sha256 or hashlib.sha256(weights.read_bytes()).hexdigest()},
    }  # fmt: skip
    values["evaluate"]["extractor"] = "inception"
    write(folder, values)
    splits = {name: (codes(4, channels), np.arange(4) % 3) for name in ("train", "valid", "test")}
    return write_data(folder / "data/prepared", splits, levels=16, classes=3, extra={})


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the train stage says: one line and status 2, and nothing is written."""
    assert train.main(["--extractor", "inception"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert not (folder / "extractors").exists()
    return said


@pytest.mark.parametrize("name", ["inception.safetensors", "inception.pth"])
def test_from_the_users_file_to_features(
    name: str, inception: Inception3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / name
    (save_file if weights.suffix == ".safetensors" else torch.save)(inception.state_dict(), weights)
    data = project(tmp_path, weights)
    monkeypatch.chdir(tmp_path)
    assert check.main([]) == 0
    assert train.main(["--extractor", "inception"]) == 0
    assert {file.name for file in (tmp_path / "extractors/inception").iterdir()} == {
        "model.safetensors", "config.json", "timing.json"
    }  # fmt: skip
    with open(tmp_path / "reports/curves/inception.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["step", "split", "quantity", "value"]]
    config = artifacts.read_json(tmp_path / "extractors/inception/config.json")
    assert config["run"]["model"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert config["data"]["hash"] == data.hash

    weights.unlink()  # what was written is all that is needed
    extractor = open_extractor(load_params("params.yaml").evaluate, data, tmp_path)
    found, (features, probabilities) = extractor(codes(3)), torchvisions_own(inception, codes(3))
    assert found.features.shape == (3, extractor.feature_dim) == (3, 2048)
    np.testing.assert_allclose(found.features, features, atol=1e-3 * features.std(axis=0).max())  # images are told apart
    np.testing.assert_allclose(found.probabilities, probabilities, rtol=1e-3)
    assert (extractor.name, extractor.distance, extractor.knows_classes) == ("inception", "fid", False)
    assert extractor.hash == artifacts.hash_file(tmp_path / "extractors/inception/model.safetensors")


def test_colour_images_bin_centres_and_maps(inception: Inception3) -> None:
    """Model space is another scale than codes: both see the same image, and the last map is what pool3 averages."""
    from pipeline.families.inception import model as family

    spec = DataSpec((3, 4, 4), 16, 3)
    model = family.build(family.Config(weights="unused", sha256="0" * 64), spec).eval()
    model.adopt(inception.state_dict())
    images = codes(2, channels=3)
    expected, _ = torchvisions_own(inception, images)
    tolerance = 1e-3 * expected.std(axis=0).max()
    with torch.no_grad():
        x = dequantize(torch.from_numpy(images), 16)
        maps = model.maps(x)
        np.testing.assert_allclose(model.features(x).numpy(), expected, atol=tolerance)
        np.testing.assert_allclose(maps[-1].mean(dim=(2, 3)).numpy(), expected, atol=tolerance)
    np.testing.assert_allclose(
        NetworkExtractor(model, spec, name="i", hash="0" * 64)(images).features, expected, atol=tolerance
    )
    assert [found.shape[1:] for found in maps] == [(64, 147, 147), (192, 71, 71), (288, 35, 35), (768, 17, 17), (2048, 8, 8)]


def test_another_file_than_the_one_named_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "inception.safetensors"
    weights.write_bytes(b"something")
    project(tmp_path, weights, sha256="ab" * 32)
    monkeypatch.chdir(tmp_path)
    said = refused(tmp_path, capsys)
    assert f"extractors.inception.model.sha256 is {'ab' * 32}, but {weights} has " in said
    assert hashlib.sha256(b"something").hexdigest() in said
    weights.unlink()
    assert "extractors.inception.model.weights is" in (said := refused(tmp_path, capsys))
    assert "which is no file" in said


def test_files_that_hold_something_else_are_refused(
    inception: Inception3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(inception.fc, tmp_path / "module.pth")  # a pickled module: code, not weights
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    old = {**inception.state_dict(), "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    save_file(old, tmp_path / "1008.safetensors")
    for name, words in [
        ("module.pth", "neither a safetensors file nor a plain torch state dict"), ("numbers.pth", "something else"),
        ("text.pth", "neither"), ("text.safetensors", "neither"),
        ("1008.safetensors", "1008.safetensors does not hold the weights of torchvision's Inception-v3"),
    ]:  # fmt: skip
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        project(folder, tmp_path / name)
        monkeypatch.chdir(folder)
        assert words in refused(folder, capsys)


def test_images_that_inception_cannot_take_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "inception.safetensors"
    weights.write_bytes(b"never read")
    project(tmp_path, weights, channels=2)
    monkeypatch.chdir(tmp_path)
    assert "has images of 2 channels; allowed: 1 (grey) or 3" in refused(tmp_path, capsys)


def test_other_channels_are_refused_by_the_family_too(tmp_path: Path) -> None:
    """Where no data directory is opened before."""
    weights = tmp_path / "inception.safetensors"
    weights.write_bytes(b"never read")
    project(tmp_path, weights)
    cfg = load_params(tmp_path / "params.yaml").extractors["inception"]
    with pytest.raises(ValueError, match=r"^extractors\.inception\.model\.weights .* 1 or 3 channels, images have 2;"):
        models.build(cfg, DataSpec((2, 4, 4), 16, 3), "extractors.inception")
