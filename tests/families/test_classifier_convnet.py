import pytest
import torch

from pipeline.core.contracts import DataSpec
from pipeline.families.classifier.convnet import ConvNetConfig


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(("shape", "classes"), [((1, 28, 28), 10), ((3, 32, 20), 7), ((1, 8, 8), 2)])
def test_shapes(shape, classes):
    network = ConvNetConfig(widths=(16, 32, 48), features=24).build(DataSpec(shape, 256, classes)).eval()
    features = network.features(torch.randn(5, *shape))
    assert features.shape == (5, 24)
    assert features.dtype == torch.float32
    assert bool((features >= 0).all())
    assert network.logits(features).shape == (5, classes)


def test_features_are_those_of_the_image_alone():
    """No batch statistics, and no dropout in evaluation."""
    network = ConvNetConfig(widths=(16, 32), features=24, dropout=0.5).build(DataSpec((1, 8, 8), 256, 10)).eval()
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.cat([network.features(row[None]) for row in x]), network.features(x), atol=1e-6, rtol=1e-5)
    network.train()
    assert not network.features(x).equal(network.features(x))


def test_logits_are_affine_in_the_features():
    network = ConvNetConfig(widths=(16,), features=6).build(DataSpec((1, 8, 8), 256, 3)).eval()
    a, b = torch.rand(2, 1, 6)
    middle = network.logits((a + b) / 2)
    torch.testing.assert_close(middle, (network.logits(a) + network.logits(b)) / 2)
