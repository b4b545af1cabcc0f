"""VDM's network: published sizes, what it says before training, and its attention against torch's own."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from pipeline.config.load import read_block
from pipeline.core.contracts import DataSpec
from pipeline.networks.choice import Network
from pipeline.networks.variational_unet import Attention, ResidualBlock, VariationalUNetConfig
from tests.support.blocks import default

GREY, COLOUR = DataSpec((1, 28, 28), 256, 10), DataSpec((3, 32, 32), 256, 10)
SMALL = DataSpec((3, 8, 12), 256, 10)


def small(spec=SMALL, outputs=3, labels=False, **values):
    torch.manual_seed(0)
    return default(VariationalUNetConfig, **{"width": 32, "blocks": 2, "dropout": 0.0, **values}).build(spec, outputs, labels)


def stirred(network):
    """With random weights everywhere: layers that begin at zero hide what lies before them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


def noisy(count=2, spec=SMALL):
    return torch.randn(count, *spec.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("spec", "values", "published"),
    [
        (GREY, {}, 8_891_393),
        (COLOUR, {}, 8_905_219),
        (COLOUR, {"blocks": 32}, 30_578_179),
        (COLOUR, {"blocks": 32, "width": 256}, 122_137_603),
    ],
    ids=["mnist-8", "cifar-8", "cifar-32", "imagenet-32"],
)
def test_published_sizes(spec, values, published):
    with torch.device("meta"):
        network = default(VariationalUNetConfig, **values).build(spec, spec.shape[0], False)
    assert sum(parameter.numel() for parameter in network.parameters()) == published


@pytest.mark.parametrize("labels", [True, False])
def test_it_says_z_before_training(labels):
    """In training too, where dropout falls on layers whose successor is zero."""
    network, z = small(labels=labels, dropout=0.5).train(), noisy()
    said = network(z, torch.tensor([0.1, 0.9]), torch.tensor([3, 4]) if labels else None)
    assert said.equal(z)
    assert said.dtype == torch.float32


def test_channels_for_a_variance_begin_at_zero():
    z = noisy()
    said = small(outputs=6)(z, torch.tensor([0.1, 0.9]))
    assert said.shape == (2, 6, 8, 12)
    assert said[:, :3].equal(z)
    assert bool((said[:, 3:] == 0).all())


@pytest.mark.parametrize("width", [32, 64])
def test_each_image_has_its_own_noise_level(width):
    """At the narrowest width too, where a norm of one channel per group would take the level out again."""
    network, z = stirred(small(width=width)), noisy()
    together = network(z, torch.tensor([0.2, 0.7]))
    alone = torch.cat([network(z[i : i + 1], level) for i, level in enumerate(torch.tensor([[0.2], [0.7]]))])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert float((network(z, torch.tensor([0.7, 0.7])) - together)[0].abs().mean()) > 0.01


def test_labels():
    network, z, level = stirred(small(labels=True)), noisy(), torch.tensor([0.5, 0.5])
    first, second = (network(z, level, torch.tensor([label, label])) for label in (3, 4))
    assert float((first - second).abs().mean()) > 0.001
    with pytest.raises(AssertionError):
        network(z, level)


def test_one_grey_level_is_seen_through_the_fourier_features():
    """It turns sin(2^6 2 pi z) by a half turn; without the features it is a change of 1/128 in an image of about 1."""
    z, level, change = noisy(1), torch.tensor([0.1]), {}
    for octaves in ((6,), ()):
        network = stirred(small(fourier=octaves))
        change[octaves] = float((network(z + 2 / 256, level) - network(z, level)).abs().mean())
    assert change[6,] > 10 * change[()]


def test_no_pixel_moves():
    """Nothing is halved or shifted: a change of one pixel reaches its own place most."""
    network, z = stirred(small()), noisy(1)
    changed = z.clone()
    changed[0, :, 5, 2] += 1.0
    difference = (network(changed, torch.tensor([0.5])) - network(z, torch.tensor([0.5]))).abs().sum(1)[0]
    assert divmod(int(difference.argmax()), 12) == (5, 2)


def test_attention_is_that_of_torch():
    layer, h = stirred(Attention(64)), torch.randn(2, 64, 4, 6, generator=torch.Generator().manual_seed(2))
    tokens = F.group_norm(h, 32, layer.norm.weight, layer.norm.bias, eps=1e-6).flatten(2).transpose(1, 2)
    query, key, value = (tokens @ projection.weight.T + projection.bias for projection in (layer.query, layer.key, layer.value))
    mixed = F.scaled_dot_product_attention(query, key, value) @ layer.out.weight.T + layer.out.bias
    torch.testing.assert_close(layer(h), h + mixed.transpose(1, 2).reshape(h.shape), atol=1e-4, rtol=1e-4)


def test_attention_has_a_forward_derivative_that_can_be_trained():
    """d/da of the sum of d/dh along a direction, against differences in float64."""
    layer = stirred(Attention(32)).double()
    h, direction = torch.randn(2, 1, 32, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def slope():
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(layer(forward_ad.make_dual(h, direction))).tangent

    numerical = (layer(h + 1e-5 * direction) - layer(h - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close(slope(), numerical, rtol=1e-6, atol=1e-8)
    weight = layer.query.weight.requires_grad_(True)
    slope().square().sum().backward()
    values = []
    for nudge in (1e-5, -2e-5):
        with torch.no_grad():
            weight[2, 5] += nudge
            values.append(float(slope().square().sum()))
    assert float(weight.grad[2, 5]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def test_initialisation_is_that_of_flax():
    """Weights of variance 1 / fan-in within two standard deviations of the untruncated normal; epsilon 1e-6; 32 groups."""
    network = small(width=64)
    assert {(layer.eps, layer.num_groups) for layer in network.modules() if isinstance(layer, nn.GroupNorm)} == {(1e-6, 32)}
    block = next(layer for layer in network.modules() if isinstance(layer, ResidualBlock))
    weight = block.conv1.weight.detach()
    expected = 1 / math.sqrt(64 * 9)
    assert float(weight.std()) == pytest.approx(expected, rel=0.02)
    assert float(weight.abs().max()) <= 2 * expected / 0.8796 * 1.001
    assert float(block.conv1.bias.detach().abs().max()) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 48}, "network.width is 48; allowed: a multiple of 32"),
        ({"blocks": 0}, "network.blocks is 0; allowed: greater than or equal to 1"),
        ({"dropout": 1.0}, "network.dropout is 1.0; allowed: less than 1"),
        ({"widths": [32]}, "network.widths is not a known key"),
    ],
)
def test_refusals(values, message):
    with pytest.raises(ValueError) as refusal:
        read_block(Network, {"kind": "variational-unet", **values}, "network")
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
