"""The classifier's loss against scipy, and its augmentation against every shift and flip there is."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from pipeline.core.contracts import Batch, DataSpec
from pipeline.core.random import KeyedRandom
from pipeline.families.classifier import model as classifier
from pipeline.families.classifier.convnet import ConvNetConfig

SPEC = DataSpec((1, 8, 8), 256, 10)


def model(**values):
    torch.manual_seed(0)
    return classifier.build(classifier.Config(network=ConvNetConfig(widths=(16, 32), features=16), **values), SPEC)


def batch(count=40):
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.rand(count, 1, 8, 8, generator=generator) * 2 - 1, torch.randint(10, (count,), generator=generator))


def test_loss_is_the_cross_entropy_of_each_image():
    built, data = model().eval(), batch()
    loss = built.loss("classifier", data, 1, KeyedRandom(0, 1))
    logits = built.logits(built.features(data.x)).detach().numpy()
    by_hand = -log_softmax(logits, 1)[np.arange(40), data.y]
    np.testing.assert_allclose(loss.total.detach(), by_hand, rtol=1e-5)
    np.testing.assert_array_equal(loss.parts["error"], logits.argmax(1) != data.y.numpy())


def test_untrained_it_knows_nothing():
    loss = model().eval().loss("classifier", batch(200), 1, KeyedRandom(0, 1))
    assert float(loss.total.detach().mean()) == pytest.approx(np.log(10), abs=0.15)


class Seen:
    """What the network is shown in training."""

    def __init__(self, built):
        self.built = built

    def __call__(self, data, step):
        shown = []
        self.built.features = lambda x: (shown.append(x), torch.zeros(len(x), 16))[1]
        self.built.loss("classifier", data, step, KeyedRandom(0, step))
        return shown[0]


def moved(x, down, right):
    """By hand: what leaves is lost, what enters is black."""
    out = torch.full_like(x, -1.0)
    for i in range(8):
        for j in range(8):
            if 0 <= i - down < 8 and 0 <= j - right < 8:
                out[..., i, j] = x[..., i - down, j - right]
    return out


def test_training_images_are_shifted_and_flipped():
    """Always one of the 25 shifts of the batch and two flips of each image, and over 200 batches every one of them."""
    data, seen = batch(8), Seen(model(shift=2, flip=True).train())
    options = {(d, r): moved(data.x, d, r) for d in range(-2, 3) for r in range(-2, 3)}
    shifts, flips = set(), []
    for step in range(200):
        shown = seen(data, step)
        matching = [
            (key, [bool(a.equal(b)) for a, b in zip(shown, image, strict=True)])
            for key, image in options.items()
            if all(a.equal(b) or a.equal(b.flip(2)) for a, b in zip(shown, image, strict=True))
        ]
        assert len(matching) == 1
        shifts.add(matching[0][0])
        flips += matching[0][1]
    assert shifts == set(options)
    assert np.mean(flips) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("training", [True, False])
def test_no_augmentation_where_there_should_be_none(training):
    """Without shift and flip in training, and never in evaluation."""
    data = batch(8)
    seen = Seen(model(shift=0, flip=False).train() if training else model().eval())
    assert seen(data, 1).equal(data.x)
