"""The autoencoder's two networks and the patch discriminator: shapes, what each position sees, sizes that do not fit."""

from __future__ import annotations

import pytest
import torch

from pipeline.core.contracts import DataSpec
from pipeline.families.autoencoder.network import AutoencoderConfig
from pipeline.families.autoencoder.patch_discriminator import PatchDiscriminatorConfig


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def spec(*shape: int) -> DataSpec:
    return DataSpec((shape[0], shape[1], shape[2]), 256, 10)


def stir(network: torch.nn.Module) -> None:
    """Random weights where a layer begins at zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))


@pytest.mark.parametrize(
    ("shape", "widths", "latent"),
    [
        ((1, 28, 28), (16, 32), (3, 14, 14)),
        ((1, 28, 28), (16, 32, 48), (3, 7, 7)),
        ((3, 32, 16), (16, 16, 32, 32), (3, 4, 2)),
    ],
)
def test_shapes(shape: tuple[int, int, int], widths: tuple[int, ...], latent: tuple[int, int, int]) -> None:
    config = AutoencoderConfig(widths=widths, latent_channels=3, blocks=2)
    network = config.build(spec(*shape))
    assert network.latent_shape == latent
    assert config.factor == shape[1] // latent[1]
    mean, log_variance = network.encode(torch.randn(5, *shape))
    assert mean.shape == log_variance.shape == (5, *latent)
    x_hat = network.decode(mean)
    assert x_hat.shape == (5, *shape)
    assert mean.dtype == log_variance.dtype == x_hat.dtype == torch.float32


def test_edges_are_float32_under_autocast() -> None:
    network = AutoencoderConfig(widths=(16, 16)).build(spec(1, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_variance = network.encode(torch.randn(2, 1, 8, 8))
        assert mean.dtype == log_variance.dtype == network.decode(mean).dtype == torch.float32


def test_log_variance_is_clamped() -> None:
    network = AutoencoderConfig(widths=(16, 16), latent_channels=2).build(spec(1, 8, 8))
    with torch.no_grad():
        network.encoder.head.weight.zero_()
        network.encoder.head.bias.copy_(torch.tensor([-100.0, 100.0, -100.0, 100.0]))
    mean, log_variance = network.encode(torch.randn(2, 1, 8, 8))
    assert mean[:, 0].unique().tolist() == [-100]
    assert mean[:, 1].unique().tolist() == [100]
    assert log_variance[:, 0].unique().tolist() == [-30]
    assert log_variance[:, 1].unique().tolist() == [20]


def test_images_do_not_touch_each_other_and_reach_their_latents() -> None:
    network = AutoencoderConfig(widths=(16, 32), latent_channels=2).build(spec(1, 8, 8))
    stir(network)
    x = torch.randn(3, 1, 8, 8)
    mean, _ = network.encode(x)
    torch.testing.assert_close(network.encode(x[1:2])[0], mean[1:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.decode(mean[1:2]), network.decode(mean)[1:2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mean[0], mean[1], atol=1e-3)


def test_decoder_is_not_bounded() -> None:
    network = AutoencoderConfig(widths=(16, 16)).build(spec(1, 8, 8))
    with torch.no_grad():
        network.decoder.head.bias.fill_(3.0)
    assert float(network.decode(torch.randn(2, *network.latent_shape)).detach().max()) > 2


def test_sizes_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^network\.widths has 4 levels, .* 28x28: fewer levels$"):
        AutoencoderConfig(widths=(16, 16, 16, 16)).build(spec(1, 28, 28))


@pytest.mark.parametrize(("side", "widths", "patches"), [(28, (16, 32), 12), (28, (16, 32, 48), 5), (8, (16, 32), 2)])
def test_discriminator_judges_patches(side: int, widths: tuple[int, ...], patches: int) -> None:
    """28 -> 14 (stride 2) -> 13 -> 12; one more level halves once more."""
    network = PatchDiscriminatorConfig(widths=widths).build(spec(1, side, side))
    verdicts = network(torch.randn(3, 1, side, side))
    assert verdicts.shape == (3, patches, patches)
    assert verdicts.dtype == torch.float32


def test_discriminator_sees_patches_only_and_no_other_image() -> None:
    """Without the norm, which is over the image, a verdict depends on the 4 + 3 * 2 + 3 * 2 = 16 pixels about it."""
    network = PatchDiscriminatorConfig(widths=(16, 32)).build(spec(1, 28, 28))
    for index, layer in enumerate(network.body):
        if isinstance(layer, torch.nn.GroupNorm):
            network.body[index] = torch.nn.Identity()
    x = torch.randn(2, 1, 28, 28, requires_grad=True)
    network(x)[0, 6, 6].backward()
    assert x.grad is not None
    assert bool((x.grad[1] == 0).all())
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == 16


def test_discriminator_is_without_batch_statistics() -> None:
    network = PatchDiscriminatorConfig(widths=(16, 32)).build(spec(1, 28, 28)).train()
    x = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)


def test_images_too_small_for_the_discriminator_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^discriminator\.widths has 4 levels, .* 8x8: fewer levels"):
        PatchDiscriminatorConfig(widths=(16, 16, 16, 16)).build(spec(1, 8, 8))
