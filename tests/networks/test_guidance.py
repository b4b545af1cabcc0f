"""Classifier-free guidance against its formula, and that a class can be left out."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import plugins
from pipeline.config.family import Guidable
from pipeline.core.contracts import Batch, DataSpec, Loss, Random
from pipeline.core.random import KeyedRandom
from pipeline.diffusion.gaussian import Reverse
from pipeline.networks.guidance import Guided, GuidedModel, drop_labels, guided
from pipeline.networks.unet import UNetConfig
from pipeline.networks.variational_unet import VariationalUNetConfig

SPEC = DataSpec((1, 4, 4), 256, 3)


class Says(nn.Module):
    """Two channels: z plus the class, and the class squared plus the noise level."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, z: Tensor, level: Tensor, y: Tensor | None = None) -> Tensor:
        assert y is not None
        self.sizes.append(len(z))
        column = y.float()[:, None, None, None]
        return torch.cat([z + column, column.expand_as(z) ** 2 + level[:, None, None, None]], 1)


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_formula(strength: float) -> None:
    """Class 1 against none, which is class 3: the prediction moves from z + 3 towards z + 1 and beyond; the rest stays."""
    says = Says()
    z, level = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 1, 5)
    found = Guided(says, strength, 1, SPEC)(z, level, torch.ones(5, dtype=torch.int64))
    torch.testing.assert_close(found[:, :1], z + 3 + strength * (1 - 3))
    torch.testing.assert_close(found[:, 1:], 1 + level[:, None, None, None].expand(5, 1, 4, 4))
    assert says.sizes == [10], "both in one batch"


@pytest.mark.parametrize(
    "config", [UNetConfig(widths=(16,), embedding=8), VariationalUNetConfig(kind="variational-unet", width=32, blocks=1)]
)
def test_networks_know_a_class_for_none(config: UNetConfig | VariationalUNetConfig) -> None:
    torch.manual_seed(0)
    network = config.build(SPEC, 1, True).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    z, level = torch.randn(1, 1, 4, 4), torch.tensor([0.5])
    said = [network(z, level, torch.tensor([label])) for label in range(4)]
    assert all(not said[i].equal(said[j]) for i in range(4) for j in range(i))
    with pytest.raises(IndexError):
        network(z, level, torch.tensor([4]))


def test_share_of_dropped_labels() -> None:
    """About a fifth becomes none, keyed by the step; images are left alone."""
    y = torch.arange(3).repeat(2000)
    batch = Batch(torch.zeros(6000, 1), y)
    found, again, other = (drop_labels(batch, 0.2, SPEC, KeyedRandom(0, step)) for step in (1, 1, 2))
    dropped = found.y == 3
    assert 0.18 < float(dropped.float().mean()) < 0.22
    assert found.y[~dropped].equal(y[~dropped])
    assert found.y.equal(again.y)
    assert not found.y.equal(other.y)
    assert found.x is batch.x
    assert drop_labels(batch, 0.0, SPEC, KeyedRandom(0, 1)).y.equal(y)


def test_network_that_always_saw_the_class_cannot_be_guided() -> None:
    with pytest.raises(ValueError, match=r"^guidance is 2\.0; allowed for a run with label_dropout: 0.*: 1 or null$"):
        guided(Says(), 2.0, 0.0, SPEC)
    assert guided(Says(), 1.0, 0.0, SPEC).guided == 1


class Halves(GuidedModel):
    """Two networks that say what is in z, and one that does not; the loss is the classes that it learns from."""

    guided_networks: ClassVar[tuple[str, ...]] = ("first", "second")

    def __init__(self, config: Guidable) -> None:
        super().__init__()
        self.config, self.spec = config, SPEC
        self.first, self.other, self.second = Says(), Says(), Says()

    def optimizer_groups(self) -> dict[str, nn.Module]:
        return {"model": self}

    def loss(self, group: str, batch: Batch, step: int, rng: Random) -> Loss:
        return Loss(self.with_dropped_labels(batch, rng).y.float(), {})

    def reverse(self, z_t: Tensor, s: Tensor, t: Tensor, y: Tensor | None, rng: Random, clip: float | None = None) -> Reverse:
        raise NotImplementedError


class Half(Guidable):
    def check_sampling(self) -> None:
        raise ValueError("trains a half alone")


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_classes_are_hidden_in_training_with_labels_alone(labels: bool, training: bool) -> None:
    model = Halves(Guidable(labels=labels, label_dropout=0.3)).train(training)
    batch = Batch(torch.zeros(2000, 1), torch.arange(2000) % 3)
    seen = model.loss("model", batch, 1, KeyedRandom(4, 7)).total
    hidden = seen == 3
    assert seen[~hidden].equal(batch.y[~hidden].float())
    if labels and training:
        assert 0.25 < float(hidden.float().mean()) < 0.35
        assert hidden.equal(KeyedRandom(4, 7).uniform((2000,), "label") < 0.3), "which ones is keyed by this purpose"
    else:
        assert not bool(hidden.any())


def test_every_named_network_is_guided_and_no_other() -> None:
    model = Halves(Guidable(labels=True, label_dropout=0.3))
    others = (model.first, model.second)
    names = [name for name, _ in model.named_children()]
    model.guide(2.5)
    z, level = torch.zeros(1, 1, 4, 4), torch.zeros(1)
    for network, plain in zip((model.first, model.second), others, strict=True):
        assert isinstance(network, Guided)
        assert network.network is plain
        torch.testing.assert_close(network(z, level, torch.tensor([1]))[:, :1], z + 3 + 2.5 * (1 - 3))
    assert isinstance(model.other, Says)
    assert [name for name, _ in model.named_children()] == names


def test_what_cannot_sample_or_never_missed_a_class_is_not_guided() -> None:
    half, always = Halves(Half(labels=True, label_dropout=0.3)), Halves(Guidable(labels=True, label_dropout=0.0))
    with pytest.raises(ValueError, match=r"^trains a half alone$"):
        half.guide(2.0)
    with pytest.raises(ValueError, match=r"^guidance is 2\.0; allowed for a run with label_dropout: 0"):
        always.guide(2.0)
    assert isinstance(half.first, Says)
    assert isinstance(always.first, Says)


@pytest.mark.parametrize("family", plugins.names("families"))
def test_a_family_with_label_dropout_is_a_guided_model(family: str) -> None:
    module = plugins.family(family)
    assert issubclass(module.Config, Guidable) == issubclass(module.Model, GuidedModel)
