"""The KL autoencoder's objectives against torch.distributions, numpy and closed forms."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from pipeline.config.load import read_block
from pipeline.core.contracts import Batch, DataSpec, FeatureExtractor, Loss
from pipeline.core.random import KeyedRandom
from pipeline.families.autoencoder import model as autoencoder
from pipeline.families.autoencoder.model import (
    KL,
    Config,
    Discriminator,
    Model,
    Perceptual,
    TwoTerm,
    adaptive_weight,
    hinge_loss,
    perceptual_distance,
)
from pipeline.families.autoencoder.network import AutoencoderConfig
from pipeline.families.autoencoder.patch_discriminator import PatchDiscriminatorConfig
from pipeline.store import models
from pipeline.training import loop
from tests.support.blocks import codec, training

SPEC = DataSpec((1, 8, 8), 17, 10)
NETWORK = AutoencoderConfig(widths=(16, 32), latent_channels=2)
PLAIN = KL()
ADVERSARY = Discriminator(start=3, weight=0.7, network=PatchDiscriminatorConfig(widths=(16, 32)))


class Stub(nn.Module, FeatureExtractor):
    """Two maps: the image with its negative and a constant beside it, and its 2x2 means with their squares."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def features(self, x: Tensor) -> Tensor:
        raise AssertionError("not asked for")

    logits = features

    def maps(self, x: Tensor) -> list[Tensor]:
        small = nn.functional.avg_pool2d(x, 2)
        return [self.weight * torch.cat([x, -x, torch.ones_like(x)], 1), torch.cat([small, small**2], 1)]


def model(objective: KL | TwoTerm = PLAIN, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return autoencoder.build(Config(network=NETWORK, objective=objective), SPEC)


def batch(count: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(count, *SPEC.shape, generator=generator) * 2 - 1, torch.arange(count) % 10)


def loss(made: Model, data: Batch, group: str = "autoencoder", step: int = 1) -> Loss:
    return made.loss(group, data, step, KeyedRandom(0, step))


def drawn(made: Model, data: Batch, step: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, standard deviation, draw and reconstruction, by hand."""
    mean, log_variance = made.network.encode(data.x)
    std = (log_variance / 2).exp()
    z = mean + std * KeyedRandom(0, step).normal(tuple(mean.shape), "posterior")
    return mean, std, z, made.network.decode(z)


def test_kl_is_that_of_torch_distributions() -> None:
    made, data = model(), batch()
    mean, std, _, x_hat = drawn(made, data)
    expected = kl_divergence(Normal(mean.double(), std.double()), Normal(0.0, 1.0)).flatten(1).sum(1)
    found = loss(made, data)
    torch.testing.assert_close(found.parts["kl"], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.parts["absolute"], (x_hat - data.x).abs().mean((1, 2, 3)))
    torch.testing.assert_close(found.parts["squared"], ((x_hat - data.x) ** 2).mean((1, 2, 3)))


def test_total_is_the_weighted_sum_per_pixel() -> None:
    weights = KL(absolute=0.3, squared=2.0, kl_weight=0.05, perceptual=Perceptual(weight=0.7))
    made, data = model(weights), batch()
    made.perceive(Stub())
    found = loss(made, data)
    parts = {name: value.double() for name, value in found.parts.items()}
    expected = 0.3 * parts["absolute"] + 2.0 * parts["squared"] + 0.7 * parts["perceptual"] + 0.05 * parts["kl"] / 64
    torch.testing.assert_close(found.total.double(), expected, rtol=1e-5, atol=1e-6)
    assert all(bool((value > 0).all()) for value in parts.values())


def test_two_term_objective() -> None:
    """||z - e(x)||^2 + a ||g(z) - x||^2; the first term is the draw's squared noise and pulls on the spread alone."""
    made, data = model(TwoTerm(reconstruction=3.0)), batch()
    mean, std, z, x_hat = drawn(made, data)
    found = loss(made, data)
    expected = (((z - mean) ** 2).sum((1, 2, 3)) + 3.0 * ((x_hat - data.x) ** 2).sum((1, 2, 3))) / 64
    torch.testing.assert_close(found.total.float(), expected, rtol=1e-5, atol=1e-6)
    noise = KeyedRandom(0, 1).normal(tuple(mean.shape), "posterior")
    torch.testing.assert_close(found.parts["noise"].float(), (std**2 * noise**2).sum((1, 2, 3)), rtol=1e-4, atol=1e-5)
    moved = made.network.encoder.head
    found.parts["noise"].sum().backward()
    assert moved.bias.grad is not None
    assert float(moved.bias.grad[:2].abs().max()) < 1e-5 < float(moved.bias.grad[2:].min()), "mean, then log variance"


def test_encode_is_the_mean_or_a_keyed_draw() -> None:
    made, data = model(), batch()
    mean, _, z, _ = drawn(made, data)
    assert made.encode(data.x).equal(mean)
    torch.testing.assert_close(made.encode(data.x, KeyedRandom(0, 1)), z)
    assert not made.encode(data.x, KeyedRandom(0, 2)).equal(made.encode(data.x, KeyedRandom(0, 1)))
    assert made.encode(data.x).shape[1:] == made.latent_shape == (2, 4, 4)


def reference_distance(first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
    """LPIPS without learned weights, position by position in numpy."""
    layers = []
    for a, b in zip(first, second, strict=True):
        images = np.zeros(len(a))
        for i, row, column in np.ndindex(len(a), *a.shape[2:]):
            u, v = a[i, :, row, column], b[i, :, row, column]
            images[i] += ((u / np.linalg.norm(u) - v / np.linalg.norm(v)) ** 2).sum() / (a.shape[2] * a.shape[3])
        layers.append(images)
    return np.mean(layers, 0)


def test_perceptual_distance_is_the_formula() -> None:
    stub = Stub()
    first, second = ([value.detach() for value in stub.maps(batch(3, seed).x)] for seed in (0, 1))
    found = perceptual_distance(first, second)
    expected = reference_distance([value.numpy() for value in first], [value.numpy() for value in second])
    assert found.numpy() == pytest.approx(expected, rel=1e-4)
    assert perceptual_distance(second, first).numpy() == pytest.approx(found.numpy(), rel=1e-6)
    assert perceptual_distance(first, first).tolist() == [0.0] * 3
    longer = [3 * value for value in first]
    assert perceptual_distance(longer, second).numpy() == pytest.approx(found.numpy(), rel=1e-5)
    opposite = [-value for value in first]
    assert perceptual_distance(first, opposite).numpy() == pytest.approx(4.0, rel=1e-5)


def test_perceptual_distance_of_empty_maps_has_a_finite_gradient() -> None:
    maps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    perceptual_distance([maps], [torch.ones(2, 3, 4, 4)]).sum().backward()
    assert maps.grad is not None and bool(maps.grad.isfinite().all())


def test_the_extractor_is_neither_owned_nor_trained_nor_stored() -> None:
    made = model(KL(perceptual=Perceptual()))
    before = list(made.state_dict())
    assert made.perceives
    stub = Stub()
    made.perceive(stub)
    loss(made, batch()).total.mean().backward()
    assert stub.weight.grad is None
    assert list(made.state_dict()) == before
    assert all(parameter is not stub.weight for parameter in made.parameters())
    assert not model().perceives


def test_hinge_loss() -> None:
    """Real above 1 and fake below -1 cost nothing; patches are averaged, images are not."""
    real = torch.tensor([[[2.0, 0.5]], [[1.0, 1.0]]])
    fake = torch.tensor([[[-3.0, 1.0]], [[-1.0, -2.0]]])
    # 0.5 * ((0 + 0.5) / 2 + (0 + 2) / 2) and nothing
    assert hinge_loss(real, fake).tolist() == [0.625, 0.0]
    assert hinge_loss(fake, real).tolist() == [0.5 * ((4 + 0) / 2 + (3 + 1.5) / 2), 0.5 * ((2 + 3) / 2 + (2 + 2) / 2)]


def test_adaptive_weight_is_the_ratio_of_gradients() -> None:
    """nll = |3 w|^2 / 2 and adversarial = 2 w_0: gradients 9 w and (2, 0)."""
    last = torch.tensor([4.0, 3.0], requires_grad=True)
    nll, adversarial = (3 * last).square().sum() / 2, 2 * last[0]
    found = adaptive_weight(nll, adversarial, last)
    assert float(found) == pytest.approx(45 / (2 + 1e-4), rel=1e-6)
    assert not found.requires_grad
    (nll + adversarial).backward()  # the graph is still there
    assert float(adaptive_weight((last**2).sum(), 0 * last.sum(), last)) == pytest.approx(1e4), "clamped: 10 / 1e-4 is more"


def test_adversarial_term_waits_for_its_start() -> None:
    made, data = model(KL(discriminator=ADVERSARY)), batch()
    plain = model(KL())
    plain.network.load_state_dict(made.network.state_dict())
    for step in (1, 2):
        early = loss(made, data, step=step)
        torch.testing.assert_close(early.total, loss(plain, data, step=step).total)
        assert early.parts["adversarial_weight"].tolist() == [0.0] * 4
        assert loss(made, data, "discriminator", step).total.tolist() == [0.0] * 4
        assert float(loss(made, data, "discriminator", step).parts["hinge"].min().detach()) > 0.5, (
            "what it would be is reported"
        )
    late, without = loss(made, data, step=3), loss(plain, data, step=3)
    weight, adversarial = late.parts["adversarial_weight"], late.parts["adversarial"]
    torch.testing.assert_close(late.total, without.total + weight * adversarial)

    head = made.network.decoder.head.weight
    _, _, _, x_hat = drawn(made, data, 3)
    assert made.discriminator is not None
    torch.testing.assert_close(adversarial, -made.discriminator(x_hat).mean((1, 2)))
    (nll,) = torch.autograd.grad((x_hat - data.x).abs().mean(), head, retain_graph=True)
    (fooling,) = torch.autograd.grad(-made.discriminator(x_hat).mean(), head)
    assert weight.tolist() == pytest.approx([0.7 * float(nll.norm() / (fooling.norm() + 1e-4))] * 4, rel=1e-4)

    judged = loss(made, data, "discriminator", 3)
    torch.testing.assert_close(
        judged.total, hinge_loss(made.discriminator(data.x), made.discriminator(x_hat)), atol=1e-5, rtol=1e-4
    )
    judged.total.mean().backward()
    assert all(parameter.grad is None for parameter in made.network.parameters()), "the discriminator's step is its own"


def test_validation_needs_no_gradients_and_leaves_the_adversarial_term_out() -> None:
    made, data = model(KL(discriminator=ADVERSARY)).eval(), batch()
    with torch.no_grad():
        found = loss(made, data, step=100)
    plain = 1.0 * found.parts["absolute"] + 0.01 * found.parts["kl"] / 64
    torch.testing.assert_close(found.total.double(), plain.double(), rtol=1e-5, atol=1e-6)
    assert float(found.parts["adversarial"].abs().max()) > 0
    assert set(found.parts) == set(loss(made.train(), data, step=100).parts), "every line of the curve has the same columns"


def test_groups() -> None:
    assert list(model().optimizer_groups()) == ["autoencoder"]
    assert list(model(KL(discriminator=ADVERSARY)).optimizer_groups()) == ["autoencoder", "discriminator"]


def test_symptoms_of_failure() -> None:
    made = model(KL(discriminator=ADVERSARY))
    well = {"autoencoder/kl": 30.0, "discriminator/hinge": 0.8}
    assert made.failure_symptom(well) is None
    assert model().failure_symptom({"autoencoder/kl": 30.0}) is None
    collapsed = made.failure_symptom({**well, "autoencoder/kl": 1e-4})
    beaten = made.failure_symptom({**well, "discriminator/hinge": 0.0})
    assert collapsed is not None and "latents say nothing" in collapsed
    assert beaten is not None and "discriminator" in beaten


def test_bad_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="absolute and squared are 0"):
        read_block(Config, {"objective": {"kind": "kl", "absolute": 0.0}}, "codecs.kl.model")
    with pytest.raises(ValueError, match=r"objective\.discriminator\.start is 50; allowed: up to training\.steps, which is 49"):
        Config(objective=KL(discriminator=Discriminator(start=50))).check_training(SimpleNamespace(steps=49))
    Config(objective=KL(discriminator=Discriminator(start=50))).check_training(SimpleNamespace(steps=50))
    Config().check_training(SimpleNamespace(steps=1))
    with pytest.raises(ValueError, match="they are latents"):
        autoencoder.build(Config(network=NETWORK), DataSpec((4, 8, 8), None, 10))


class Linear(nn.Module):
    """In the place of the network: an encoder and a decoder that are matrices, with next to no noise."""

    def __init__(self, dimensions: int, latent: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(dimensions, latent), nn.Linear(latent, dimensions)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.down(x.flatten(1))[:, :, None, None]
        return mean, torch.full_like(mean, -30.0)

    def decode(self, z: Tensor) -> Tensor:
        return self.up(z.flatten(1)).reshape(-1, *SPEC.shape)


def digits() -> Tensor:
    return torch.tensor(load_digits().images[:, None] / 8 - 1, dtype=torch.float32)


class Rows:
    """Images in memory, as the loop reads a split."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, index: np.ndarray, device: torch.device) -> Batch:
        del device
        return Batch(self.x[torch.from_numpy(index)], torch.zeros(len(index), dtype=torch.int64))


def fit(made: Model, x: Tensor, steps: int, batch_size: int, rate: float) -> None:
    settings = training(steps=steps, batch=batch_size, learning_rate=rate, precision="float32", clip_norm=None)
    for _ in loop.fit(Rows(x), loop.State(made, settings), settings, 0, torch.device("cpu")):  # type: ignore[arg-type]
        pass


def test_a_linear_autoencoder_reaches_the_error_of_pca() -> None:
    """Baldi and Hornik 1989: squared error has no other minimum than the subspace of the first components."""
    x, latent = digits(), 6
    made = model(KL(absolute=0.0, squared=1.0, kl_weight=0.0))
    made.network = Linear(64, latent)  # type: ignore[assignment]
    fit(made, x, 600, 256, 0.02)
    pca = PCA(latent).fit(x.flatten(1).numpy())
    best = float(pca.noise_variance_) * (64 - latent) / 64 * (len(x) - 1) / len(x)
    with torch.no_grad():
        reached = float(((made.decode(made.encode(x)) - x) ** 2).mean())
    assert best * (1 - 1e-4) < reached < 1.02 * best


def test_training_improves_reconstruction_and_the_kl_weight_holds_the_latents() -> None:
    x = digits()
    errors, nats = {}, {}
    for weight in (1e-4, 1.0):
        made = model(KL(kl_weight=weight))
        before = float((made.decode(made.encode(x)) - x).abs().mean().detach())
        fit(made, x, 60, 64, 0.003)
        found = loss(made.eval(), Batch(x[:200], torch.zeros(200, dtype=torch.int64)))
        errors[weight] = float(found.parts["absolute"].mean().detach()) / before
        nats[weight] = float(found.parts["kl"].mean().detach())
    assert errors[1e-4] < 0.35
    assert errors[1e-4] < errors[1.0]
    assert nats[1.0] < nats[1e-4] / 4


def test_a_saved_codec_loads_without_its_extractor(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from pipeline.core import artifacts

    run = codec(
        "autoencoder",
        model={
            "network": {"kind": "autoencoder", "widths": [16, 16]},
            "objective": {"kind": "kl", "perceptual": {}, "discriminator": {"start": 0}},
        },
        training={"steps": 1, "learning_rate": 0.1},
    )
    made = models.build(run, SPEC, "codecs.kl")
    artifacts.write_tensors(tmp_path / "model.safetensors", made.state_dict())
    described = {"shape": SPEC.shape, "levels": SPEC.levels, "classes": 10, "hash": "d" * 64}
    artifacts.write_json(tmp_path / "config.json", {"run": run.model_dump(mode="json"), "data": described})
    found = models.load(tmp_path).model
    assert isinstance(found, Model)
    with torch.no_grad():
        assert found.decode(found.encode(batch().x)).shape == (4, *SPEC.shape)
    assert math.isfinite(float(found.encode(batch().x).detach().sum()))
