import numpy as np
import pytest
import torch

from pipeline.core.contracts import DataSpec
from pipeline.families.ddgan.generator import AdaptiveGroupNorm, GeneratorConfig, PixelNorm
from pipeline.networks.unet import UNetConfig

SPEC = DataSpec((1, 28, 28), 256, 10)
SMALL = DataSpec((2, 8, 12), 256, 3)


def stirred(network, size=0.2):
    """With random weights everywhere: layers that begin at zero hide what lies before them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


def small(spec=SMALL, labels=False):
    torch.manual_seed(0)
    return stirred(GeneratorConfig(widths=(16, 32), latent=5, style=8, embedding=8).build(spec, labels))


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_size_at_the_default_widths_is_that_of_the_unet():
    found, peer = (
        sum(parameter.numel() for parameter in network.parameters())
        for network in (GeneratorConfig().build(SPEC, False), UNetConfig().build(SPEC, 1, False))
    )
    assert found == pytest.approx(peer, rel=0.05)
    assert found == pytest.approx(1.1e6, rel=0.05)


def test_pixel_norm():
    z = drawn(3, 5)
    found = PixelNorm()(z)
    np.testing.assert_allclose(found, z.numpy() / np.sqrt((z.double().numpy() ** 2).mean(1, keepdims=True)), rtol=1e-5)
    torch.testing.assert_close(PixelNorm()(7 * z), found)


def test_adaptive_group_norm():
    """Written out with numpy: groups of 16 channels, then a scale and a shift for each channel of each image."""
    layer = stirred(AdaptiveGroupNorm(32, 4))
    h, w = 3 * drawn(2, 32, 5, 6) + 1, drawn(2, 4, seed=2)
    grouped = h.double().numpy().reshape(2, 2, 16 * 5 * 6)
    normed = (grouped - grouped.mean(2, keepdims=True)) / grouped.std(2, keepdims=True)
    style = w.double().numpy() @ layer.style.weight.double().numpy().T + layer.style.bias.double().numpy()
    expected = normed.reshape(2, 32, 5, 6) * style[:, :32, None, None] + style[:, 32:, None, None]
    np.testing.assert_allclose(layer(h, w), expected, atol=1e-4)


def test_adaptive_group_norm_begins_as_a_group_norm():
    layer = AdaptiveGroupNorm(32, 4).requires_grad_(False)
    found = layer(drawn(2, 32, 5, 6), torch.zeros(2, 4))
    torch.testing.assert_close(found, torch.nn.functional.group_norm(drawn(2, 32, 5, 6), 2), rtol=1e-4, atol=1e-5)


def test_shapes_and_the_range_of_pixels_and_latents():
    z, time, latent = 3 * drawn(4, 2, 8, 12), torch.rand(4), drawn(4, 5)
    pixels = small()(z, time, latent)
    assert pixels.shape == z.shape
    assert pixels.dtype == torch.float32
    unbounded = small(DataSpec((2, 8, 12), None, 3))(z, time, latent)
    torch.testing.assert_close(torch.tanh(unbounded), pixels)
    assert float(unbounded.abs().max()) > 1 > float(pixels.abs().max())


def test_begins_at_zero():
    network = GeneratorConfig(widths=(16, 32)).build(SMALL, False)
    assert bool((network(drawn(2, 2, 8, 12), torch.rand(2), drawn(2, 64)) == 0).all())


@pytest.mark.parametrize("change", ["z_t", "time", "latent", "y"])
def test_everything_it_is_given_matters_to_its_own_image_only(change):
    network = small(labels=True)
    given = {"z_t": drawn(2, 2, 8, 12), "time": torch.tensor([0.2, 0.9]), "latent": drawn(2, 5), "y": torch.tensor([0, 1])}
    before = network(**given)
    other = {"z_t": drawn(2, 2, 8, 12, seed=3), "time": torch.tensor([0.6, 0.6]), "latent": drawn(2, 5, seed=3),
             "y": torch.tensor([2, 2])}  # fmt: skip
    given[change][0] = other[change][0]
    after = network(**given)
    assert float((after[0] - before[0]).abs().max()) > 1e-3
    torch.testing.assert_close(after[1], before[1], rtol=1e-4, atol=1e-5)


def test_the_latent_enters_through_adaptive_norms_alone():
    """With the scales and shifts of every AdaGN cut from the latent nothing of it is left."""
    network = small()
    for layer in network.modules():
        if isinstance(layer, AdaptiveGroupNorm):
            layer.style.weight.zero_()
    z, time = drawn(2, 2, 8, 12), torch.rand(2)
    torch.testing.assert_close(network(z, time, drawn(2, 5)), network(z, time, drawn(2, 5, seed=9)), rtol=0, atol=0)


def test_too_many_levels_for_the_image():
    with pytest.raises(ValueError, match=r"generator\.widths has 4 levels, .* images of 28x28: fewer levels"):
        GeneratorConfig(widths=(16, 16, 16, 16)).build(SPEC, False)
