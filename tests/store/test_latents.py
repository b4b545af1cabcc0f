"""The codec beside a latent data directory: found, checked, and applied with its scale."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core import artifacts
from pipeline.core.contracts import Codec
from pipeline.store import latents, models
from pipeline.store.data import DataDirectory
from tests.support.latent_files import LEVELS, write_codec, write_images, write_latents


def test_decoding_takes_the_scale_off(tmp_path: Path) -> None:
    made = write_latents(tmp_path)
    found, model = latents.open_codec(made.path), models.load(tmp_path / "codecs/kl").model
    assert isinstance(model, Codec)
    z = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(found.decode(z), model.decode(z / made.spec["codec"]["scale"]))
        assert not torch.allclose(found.decode(z), model.decode(z), atol=1e-3)
    assert found.scale == made.spec["codec"]["scale"] != 1


def test_what_is_known_of_the_images(tmp_path: Path) -> None:
    made = write_latents(tmp_path)
    found, images = latents.open_codec(made.path), DataDirectory.open(tmp_path / "data/prepared")
    assert (found.data, found.source) == (made.hash, images.hash)
    assert (found.shape, found.levels, found.name) == ((1, 8, 8), LEVELS, "kl")
    assert found.weights == artifacts.hash_file(tmp_path / "codecs/kl/model.safetensors")


def test_a_moved_directory_takes_its_codec_along(tmp_path: Path) -> None:
    made = write_latents(tmp_path)
    z = torch.from_numpy(np.array(made.images("test")[:2]))
    with torch.no_grad():
        before = latents.open_codec(made.path).decode(z)
        shutil.move(made.path, tmp_path / "elsewhere")
        shutil.rmtree(tmp_path / "codecs")
        assert latents.open_codec(tmp_path / "elsewhere").decode(z).equal(before)


def test_a_missing_codec_is_refused(tmp_path: Path) -> None:
    made = write_latents(tmp_path)
    shutil.rmtree(made.path / "codec")
    with pytest.raises(ValueError, match=r"kl/codec holds no codec, .* run: python -m pipeline\.encode kl$"):
        latents.open_codec(made.path)


def test_another_codec_than_that_of_the_latents_is_refused(tmp_path: Path) -> None:
    made = write_latents(tmp_path)
    old = artifacts.hash_file(made.path / "codec/model.safetensors")
    write_codec(made.path / "codec", DataDirectory.open(tmp_path / "data/prepared"), seed=1)
    new = artifacts.hash_file(made.path / "codec/model.safetensors")
    with pytest.raises(
        ValueError, match=f"has the weights {new[:8]}, the latents beside it are of {old[:8]}; run: .*encode kl$"
    ):
        latents.open_codec(made.path)


def test_a_codec_trained_on_other_images_is_refused(tmp_path: Path) -> None:
    made = write_latents(tmp_path)
    other = write_images(tmp_path / "other", seed=1)
    config = artifacts.read_json(made.path / "codec/config.json")
    config["data"]["hash"] = other.hash
    artifacts.write_json(made.path / "codec/config.json", config)
    encoded = made.spec["encoded"]["hash"]
    expected = f"was trained on data {other.hash[:8]}, .* is {encoded[:8]}; run: dvc repro encode@kl$"
    with pytest.raises(ValueError, match=expected):
        latents.open_codec(made.path)


def test_images_are_no_latents(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    with pytest.raises(ValueError, match="images holds no latents"):
        latents.open_codec(tmp_path / "images")
    with pytest.raises(ValueError, match="nowhere holds no prepared data"):
        latents.open_codec(tmp_path / "nowhere")
