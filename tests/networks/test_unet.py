import pytest
import torch
from torch import nn

from pipeline.core.contracts import DataSpec
from pipeline.networks.unet import ResidualBlock, UNetConfig

SPEC = DataSpec((1, 28, 28), 256, 10)
SMALL = DataSpec((3, 8, 12), 256, 10)


def stirred(network, size=0.1):
    """With random weights everywhere: layers that begin at zero hide what lies before them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


def small(labels=False, outputs=3, **values):
    torch.manual_seed(0)
    return UNetConfig(**{"widths": (16, 32), "embedding": 8, **values}).build(SMALL, outputs, labels)


def noisy(count=2, spec=SMALL):
    return torch.randn(count, *spec.shape, generator=torch.Generator().manual_seed(1))


def test_size_at_the_default_widths():
    """Counted by hand: convolutions, FiLM, norms, and the embedding of the noise level."""
    network = UNetConfig().build(SPEC, 1, False)

    def conv(before, after, kernel=3):
        return before * after * kernel**2 + after

    def block(before, after):
        film = 128 * 2 * after + 2 * after
        skip = conv(before, after, 1) if before != after else 0
        return 2 * before + conv(before, after) + 2 * after + film + conv(after, after) + skip

    time = 64 * 128 + 128 + 128 * 128 + 128
    down = conv(1, 32) + block(32, 32) + conv(32, 64) + block(64, 64) + conv(64, 96) + block(96, 96)
    up = block(96, 96) + block(192, 96) + block(96 + 64, 64) + block(64 + 32, 32)
    expected = time + down + up + 2 * 32 + conv(32, 1)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert expected == pytest.approx(1.1e6, rel=0.01)


@pytest.mark.parametrize("outputs", [3, 6])
def test_zero_at_initialisation(outputs):
    out = small(outputs=outputs)(noisy(), torch.tensor([0.1, 0.9]))
    assert out.shape == (2, outputs, 8, 12)
    assert out.dtype == torch.float32
    assert bool((out == 0).all())


def test_the_noise_level_matters():
    network, z = stirred(small()), noisy()
    low, high, near = (network(z, torch.full((2,), level)) for level in (0.2, 0.7, 0.201))
    assert float((low - high).abs().mean()) > 0.01
    assert float((low - near).abs().mean()) > 1e-4


@pytest.mark.parametrize(("scale", "shift"), [(-1.0, 0.0), (-1.0, 2.0), (1.0, 0.0)])
def test_film_scales_and_shifts(scale, shift):
    """With scale -1 nothing is left of the image but the shift; with scale 1 the normalised image counts twice."""
    block = stirred(ResidualBlock(16, 16, 4, 0.0))
    h, embedding = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(2)), torch.ones(2, 4)
    block.film.weight.zero_()
    block.film.bias.copy_(torch.cat([torch.full((16,), scale), torch.full((16,), shift)]))
    normalised = block.norm2(block.conv1(nn.functional.silu(block.norm1(h))))
    inner = torch.full_like(h, shift) if scale == -1 else 2 * normalised
    torch.testing.assert_close(block(h, embedding), h + block.conv2(nn.functional.silu(inner)))


def test_each_image_has_its_own_noise_level():
    network, z = stirred(small()), noisy()
    together = network(z, torch.tensor([0.2, 0.7]))
    alone = torch.cat([network(z[i : i + 1], level) for i, level in enumerate(torch.tensor([[0.2], [0.7]]))])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_a_change_of_one_pixel_shows_around_it():
    """The ways down and up are aligned: most of what changes in the output lies in the quarter around the pixel."""
    network, z = stirred(small(), 0.05), noisy(64)
    changed = z.clone()
    changed[:, :, 5, 2] += 1.0
    level = torch.full((64,), 0.5)
    difference = ((network(changed, level) - network(z, level)) ** 2).sum((0, 1))
    assert float(difference[3:8, 0:5].sum()) > 0.5 * float(difference.sum())


def test_labels():
    network, z, level = stirred(small(labels=True)), noisy(), torch.tensor([0.5, 0.5])
    first, second = (network(z, level, torch.tensor([label, label])) for label in (3, 4))
    assert float((first - second).abs().mean()) > 0.001
    with pytest.raises(AssertionError):
        network(z, level)


def test_a_network_without_labels_does_not_look_at_them():
    network, z, level = stirred(small()), noisy(), torch.tensor([0.5, 0.5])
    assert network(z, level, torch.tensor([3, 4])).equal(network(z, level))


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 30, 32), (1, 32, 30)])
def test_images_that_cannot_be_halved(shape):
    """28 halves twice, not three times."""
    with pytest.raises(ValueError, match=rf"network\.widths has 4 levels.*{shape[1]}x{shape[2]}: fewer levels"):
        UNetConfig(widths=(16, 16, 16, 16)).build(DataSpec(shape, 256, 10), 1, False)


def test_twice_the_same_octave_is_refused():
    with pytest.raises(ValueError, match="each octave once"):
        UNetConfig(fourier=(6, 6))


def test_fourier_features_are_seen():
    """One grey level of 256 turns sin(2^6 2 pi z) by a half turn: a first layer that reads it answers strongly."""
    network = stirred(small(fourier=(6,)))
    code = torch.full((1, *SMALL.shape), 1 / 256)
    one, next_ = (network(code + shift, torch.tensor([0.1])) for shift in (0.0, 2 / 256))
    plain = stirred(small())
    one_plain, next_plain = (plain(code + shift, torch.tensor([0.1])) for shift in (0.0, 2 / 256))
    assert float((one - next_).abs().mean()) > 3 * float((one_plain - next_plain).abs().mean())
