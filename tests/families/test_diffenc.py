"""DiffEnc: the encoder's derivative, its losses written out anew, printed values, and what sampling costs."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special
from torch import nn

from pipeline.config.load import read_block
from pipeline.core.contracts import Batch, DataSpec
from pipeline.core.random import KeyedRandom, RowRandom
from pipeline.diffusion.learned_schedule import LearnedLinearConfig, MonotoneConfig
from pipeline.families.diffenc import model as diffenc
from pipeline.families.diffenc.encoder import EncoderConfig
from pipeline.samplers.ancestral import Ancestral
from pipeline.samplers.ddim import DDIM
from pipeline.samplers.trajectory import trajectory
from tests.support.blocks import default
from tests.support.encoding import HIGH, LOW, build, stirred
from tests.support.exact import Denoiser, GridRandom, code_grid, images, noise_grid

SPEC = DataSpec((1, 8, 8), 256, 10)
SIDE, TIMES, MEAN, STD = 32, 400, 0.1, 0.2
GREY = DataSpec((1, SIDE, SIDE), 256, 10)
UNIFORM = (torch.arange(TIMES, dtype=torch.float64) + 0.5) / TIMES
GAMMA = torch.tensor([-9.0, -2.0, 0.7, 4.0], dtype=torch.float64)


def pixels(dtype=torch.float64):
    x = 2 * torch.rand(4, *SPEC.shape, generator=torch.Generator().manual_seed(2), dtype=dtype) - 1
    return Batch(x, torch.zeros(4, dtype=torch.int64))


def bits(nats, spec=GREY):
    return float(nats.mean()) / (spec.dimensions * math.log(2))


def test_non_trainable_loss_as_printed():
    """Eq. 20: 1/2 gamma' alpha^2 (1 + sigma^2)^2 ||v - v_hat||^2."""
    model, data = build("non-trainable", SPEC), pixels(torch.float32)
    stirred(model.network)
    uniform = (GAMMA - LOW) / (HIGH - LOW)
    alpha2, sigma2 = (special.expit(sign * GAMMA.numpy())[:, None, None, None] for sign in (-1, 1))
    noise = KeyedRandom(0, 0).normal(tuple(data.x.shape), "diffusion")
    encoded = alpha2 * data.x.numpy()
    z = np.sqrt(alpha2) * encoded + np.sqrt(sigma2) * noise.numpy()
    with torch.no_grad():
        found = model.diffusion_term(data, uniform, KeyedRandom(0, 0)).nats
        v_hat = model.network(torch.tensor(z, dtype=torch.float32), model.schedule.input(GAMMA)).numpy()
    v = np.sqrt(alpha2) * noise.numpy() - np.sqrt(sigma2) * encoded
    expected = 0.5 * (HIGH - LOW) * (alpha2 * (1 + sigma2) ** 2 * (v - v_hat) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_before_training_both_encoders_are_one_model():
    """y = 0: every term of the loss, the ends, the posterior and the step; and none of it is VDM's."""
    data, uniform = pixels(torch.float32), torch.tensor([0.1, 0.4, 0.7, 0.95])
    said = {}
    for kind in ("trainable", "non-trainable", "vdm"):
        model = build(kind, SPEC)
        stirred(model.network, seed=1)
        s, t, rng = uniform - 0.05, uniform, KeyedRandom(0, 0)
        with torch.no_grad():
            ends, posterior = model.prior_and_reconstruction(data, rng), model.posterior(data, s, t, rng)
            step = model.reverse(data.x, s, t, None, rng)
            loss = model.loss("model", data, 1, rng).parts["diffusion"]
            terms = [
                model.diffusion_term(data, uniform, rng).nats,
                ends.prior,
                ends.reconstruction,
                loss,
                posterior.mean,
                step.mean,
            ]
        said[kind] = terms
    for one, other in zip(said["trainable"], said["non-trainable"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    for one, other in zip(said["trainable"], said["vdm"], strict=True):
        assert float((one - other).abs().max()) > 1e-6


class Counter(nn.Module):
    def __init__(self, inner, fails=False):
        super().__init__()
        self.inner, self.fails, self.calls = inner, fails, 0

    def forward(self, *inputs):
        assert not self.fails, "the encoder has no part in sampling"
        self.calls += 1
        return self.inner(*inputs)


@pytest.mark.parametrize("sampler", [default(Ancestral), default(DDIM)], ids=["ancestral", "ddim"])
def test_sampling_costs_what_vdm_costs(sampler):
    """One evaluation of the network for each step and image, none of the encoder."""
    calls = {}
    for kind in ("trainable", "non-trainable", "vdm"):
        model = build(kind, SPEC)
        model.network = Counter(model.network)
        if kind == "trainable":
            model.encoder = Counter(model.encoder, fails=True)
        with torch.no_grad():
            *_, (x, _) = trajectory(model, sampler, (3, *SPEC.shape), 7, lambda step: RowRandom(0, range(3), step))
        assert bool(x.isfinite().all())
        calls[kind] = model.network.calls
    assert calls == {"trainable": 7, "non-trainable": 7, "vdm": 7}


def test_one_step_of_training_calls_the_encoder_twice():
    """Once with its derivative, once for the prior term; the network once."""
    model = build("trainable", SPEC).train()
    model.encoder, model.network = Counter(model.encoder), Counter(model.network)
    model.loss("model", pixels(torch.float32), 1, KeyedRandom(0, 1))
    assert (model.encoder.calls, model.network.calls) == (2, 1)


@pytest.mark.parametrize(("mean_square", "vdm_bits"), [(0.254, 0.00124), (0.918, 0.00445)])
def test_prior_term_as_printed(mean_square, vdm_bits):
    """1.63e-5 bits/dim for an encoded image alpha^2 x, the floor for a zero mean; VDM's is 100 times larger."""
    x = np.where(np.arange(SIDE) % 2, 1, -1) * math.sqrt(mean_square)
    found = {
        kind: bits(build(kind, GREY).prior_and_reconstruction(images(x, 1, SIDE), GridRandom()).prior)
        for kind in ("non-trainable", "vdm")
    }
    assert found["vdm"] == pytest.approx(vdm_bits, abs=1e-5)
    assert found["non-trainable"] == pytest.approx(1.63e-5, abs=6e-7)
    alpha2 = special.expit(-HIGH)
    second = alpha2 * (alpha2**2 * mean_square) + (1 - alpha2) - 1 - math.log(1 - alpha2)
    assert found["non-trainable"] == pytest.approx(second / (2 * math.log(2)), rel=1e-6)


def test_the_loss_is_bits_per_dim_with_its_prior():
    model, data = build("trainable", SPEC), pixels(torch.float32)
    with torch.no_grad():
        loss, ends = model.loss("model", data, 1, KeyedRandom(0, 1)), model.prior_and_reconstruction(data, KeyedRandom(0, 1))
    assert set(loss.parts) == {"diffusion", "prior"}
    np.testing.assert_allclose(loss.parts["prior"], ends.prior / (64 * math.log(2)), rtol=1e-5)
    np.testing.assert_allclose(loss.total, loss.parts["diffusion"] + loss.parts["prior"], rtol=1e-6)


class Echo(nn.Module):
    """The network before training: it says z."""

    def forward(self, z, level, y=None):
        return z


@pytest.mark.parametrize(("mean_square", "printed"), [(0.254, 10.463), (0.918, 17.683)], ids=["cifar", "mnist"])
@pytest.mark.parametrize("kind", ["trainable", "non-trainable"])
def test_diffusion_term_at_initialisation_as_printed(kind, mean_square, printed):
    x = np.where(np.arange(SIDE) % 2, 1, -1) * math.sqrt(mean_square)
    model = build(kind, GREY, encoder=EncoderConfig(widths=(16,), dropout=0.0))
    model.network = Echo()
    with torch.no_grad():
        found = model.diffusion_term(images(x, 100, SIDE), (torch.arange(100) + 0.5) / 100, GridRandom())
    assert bits(found.nats) == pytest.approx(printed, abs=1e-3)


class EncodedGaussian(Denoiser):
    """E[alpha^2 x | z] for pixels from N(MEAN, STD^2) and z = alpha^3 x + sigma noise."""

    def x_hat(self, z, alpha, sigma):
        gain = alpha**3 * STD**2 / (alpha**6 * STD**2 + sigma**2)
        return alpha**2 * (MEAN + gain * (z - alpha**3 * MEAN))


def test_bound_of_gaussian_data_by_quadrature():
    """With the best network the diffusion term is 1/2 int alpha^2 (1 + sigma^2)^2 alpha^4 Var(x | z) / sigma^2 d gamma."""
    x = code_grid(SIDE, MEAN, STD, 256)
    spread = float(np.mean((x - MEAN) ** 2))
    model = build("non-trainable", GREY)
    model.network = EncodedGaussian("v", model.schedule)
    with torch.no_grad():
        found = bits(model.diffusion_term(images(x, TIMES, SIDE), UNIFORM, GridRandom()).nats)
        ends = model.prior_and_reconstruction(images(x, 2, SIDE), GridRandom())

    def integrand(gamma):
        a2, s2 = special.expit(-gamma), special.expit(gamma)
        gain = a2**1.5 * STD**2 / (a2**3 * STD**2 + s2)
        error = (1 - gain * a2**1.5) ** 2 * spread + gain**2 * s2
        return 0.5 * a2 * (1 + s2) ** 2 * a2**2 * error / s2

    expected = integrate.quad(integrand, LOW, HIGH, epsabs=1e-10)[0] / math.log(2)
    assert found == pytest.approx(expected, abs=1e-3)
    a2 = special.expit(-HIGH)
    prior = 0.5 * np.mean(a2**3 * x**2 - a2 - np.log(1 - a2)) / math.log(2)
    centres = (2 * np.arange(256) + 1) / 256 - 1
    z = special.expit(-LOW) * x[:, None] + math.exp(LOW / 2) * noise_grid(SIDE)
    logits = -0.5 * math.exp(-LOW) * (z[..., None] - centres) ** 2
    told = special.logsumexp(logits, -1) + 0.5 * math.exp(-LOW) * (z - x[:, None]) ** 2
    total = found + bits(ends.prior) + bits(ends.reconstruction)
    assert total == pytest.approx(expected + prior + told.mean() / math.log(2), abs=1e-3)
    # Every bound is above the entropy, which VDM's reaches: this encoder costs something, as the paper finds.
    assert total > 0.5 * math.log2(2 * math.pi * math.e * STD**2) + 7


@pytest.mark.parametrize("schedule", [LearnedLinearConfig, MonotoneConfig])
def test_learned_end_points_are_trained_on_all_three_terms(schedule):
    model = build("trainable", SPEC, default(schedule))
    stirred(model.encoder)
    loss, ends = (call(pixels(torch.float32)) for call in (
        lambda data: model.loss("model", data, 1, KeyedRandom(0, 1)),
        lambda data: model.prior_and_reconstruction(data, KeyedRandom(0, 1)),
    ))  # fmt: skip
    assert set(loss.parts) == {"diffusion", "prior", "reconstruction"}
    torch.testing.assert_close(loss.parts["prior"].double(), ends.prior / (64 * math.log(2)), rtol=1e-5, atol=1e-9)
    loss.total.mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.startswith(("schedule", "encoder.head")):
            assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "trainable"}, "model: encoder is missing; allowed with kind: trainable is a block"),
        ({"kind": "non-trainable", "encoder": {}}, "model: encoder is given; allowed with kind: non-trainable"),
        ({"kind": "trained", "encoder": {}}, "model.kind is 'trained' (did you mean 'trainable'?); allowed: "),
        ({"encoder": {}, "dropout_masks": "none"}, "model.dropout_masks is 'none'"),
        ({"encoder": {}, "prediction": "eps"}, "model.prediction is not a known key"),
        ({"encoder": {}, "schedule": {"kind": "cosine-beta"}}, "model.schedule.kind is 'cosine-beta'; allowed: "),
    ],
)
def test_refusals(values, message):
    with pytest.raises(ValueError) as refusal:
        read_block(diffenc.Config, {"schedule": {"kind": "linear-logsnr"}, **values}, "model")
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
