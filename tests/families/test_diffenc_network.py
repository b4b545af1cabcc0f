"""DiffEnc's encoder: published sizes, zero before training, bounded after."""

import math

import pytest
import torch

from pipeline.config.load import read_block
from pipeline.core.contracts import DataSpec
from pipeline.families.diffenc.encoder import EncoderConfig

GREY, COLOUR = DataSpec((1, 28, 28), 256, 10), DataSpec((3, 32, 32), 256, 10)
SMALL = DataSpec((2, 8, 16), 256, 10)


def small(**values):
    torch.manual_seed(0)
    return EncoderConfig(**{"widths": (16, 32), "dropout": 0.0, **values}).build(SMALL)


def stirred(encoder, size=0.1):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return encoder.eval().requires_grad_(False)


def pixels(count=2):
    return 2 * torch.rand(count, *SMALL.shape, generator=torch.Generator().manual_seed(1)) - 1


@pytest.mark.parametrize(
    ("spec", "blocks", "published"),
    [(GREY, 1, 1_903_937), (COLOUR, 1, 1_906_243), (COLOUR, 2, 2_744_131), (COLOUR, 4, 4_419_907)],
    ids=["mnist-2", "cifar-2", "cifar-4", "imagenet-8"],
)
def test_published_sizes(spec, blocks, published):
    with torch.device("meta"):
        encoder = EncoderConfig(blocks=blocks).build(spec)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == published


@pytest.mark.parametrize("patch", [1, 2])
def test_zero_before_training(patch):
    y = small(patch=patch, dropout=0.5).train()(pixels(), torch.tensor([0.1, 0.9]))
    assert y.shape == (2, *SMALL.shape)
    assert bool((y == 0).all())


@pytest.mark.parametrize(("patch", "blocks"), [(1, 1), (2, 1), (1, 2)])
def test_bounded_after_training(patch, blocks):
    y = stirred(small(patch=patch, blocks=blocks))(pixels(), torch.tensor([0.1, 0.9]))
    assert y.shape == (2, *SMALL.shape)
    assert 0.1 < float(y.abs().max()) < 1
    assert float(y.std()) > 0.05


def test_the_last_layer_is_squashed_by_tanh():
    encoder = small()
    with torch.no_grad():
        encoder.head.bias.copy_(torch.tensor([1.7, -0.4]))
        y = encoder(pixels(), torch.tensor([0.1, 0.9]))
    assert y[:, 0].unique().tolist() == pytest.approx([math.tanh(1.7)])
    assert y[:, 1].unique().tolist() == pytest.approx([math.tanh(-0.4)])


@pytest.mark.parametrize("widths", [(16,), (32,), (16, 32), (64, 32)])
def test_each_image_has_its_own_noise_level(widths):
    """At the narrowest widths too, where a norm of one channel per group would take the level out again."""
    encoder, x = stirred(small(widths=widths)), pixels()
    together = encoder(x, torch.tensor([0.2, 0.7]))
    alone = torch.cat([encoder(x[i : i + 1], level) for i, level in enumerate(torch.tensor([[0.2], [0.7]]))])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert float((encoder(x, torch.tensor([0.7, 0.7])) - together)[0].abs().mean()) > 0.01


def test_the_way_down_and_the_way_up_are_aligned():
    """A pixel that goes to the other end of the grey scale, in a place that is not symmetric, changes its own place most."""
    encoder, x, level = stirred(small(), 0.02), pixels(64), torch.full((64,), 0.5)
    changed = x.clone()
    changed[:, :, 2, 11] = -x[:, :, 2, 11].sign()
    difference = (encoder(changed, level) - encoder(x, level)).abs().sum((0, 1))
    assert divmod(int(difference.argmax()), SMALL.shape[2]) == (2, 11)


@pytest.mark.parametrize(
    ("values", "shape", "factor"),
    [({"widths": (16, 16, 16)}, (1, 28, 28), 8), ({"patch": 4}, (3, 32, 40), 16), ({"widths": (16,)}, (1, 8, 9), 2)],
)
def test_images_that_cannot_be_halved(values, shape, factor):
    with pytest.raises(ValueError, match=rf"encoder\.widths has .*{shape[1]}x{shape[2]}: sides divisible by .* here {factor}$"):
        EncoderConfig(**values).build(DataSpec(shape, 256, 10))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widths": [48]}, "encoder: widths holds 48; allowed: 16, or multiples of 32"),
        ({"widths": []}, "encoder.widths is "),
        ({"widths": [24]}, "encoder.widths.0 is 24; allowed: a multiple of 16"),
        ({"blocks": 0}, "encoder.blocks is 0; allowed: greater than or equal to 1"),
        ({"patch": 3}, "encoder.patch is 3; allowed: 1, 2 or 4"),
    ],
)
def test_refusals(values, message):
    with pytest.raises(ValueError) as refusal:
        read_block(EncoderConfig, values, "encoder")
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
