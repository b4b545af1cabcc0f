"""DiffEnc's encoded image: its derivative by lambda, its gradients, its dropout masks, and the losses made of them."""

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn
from torch.nn import functional as F

from pipeline.core.contracts import Batch, DataSpec
from pipeline.core.random import KeyedRandom
from pipeline.families.diffenc.encoder import EncoderConfig
from tests.support.encoding import HIGH, LOW, Standard, build, linear, precise, stirred
from tests.support.exact import code_grid

SPEC = DataSpec((1, 8, 8), 256, 10)
GAMMA = torch.tensor([-9.0, -2.0, 0.7, 4.0], dtype=torch.float64)


def trained(**values):
    """In float64, with an encoder that has left zero."""
    model = build("trainable", SPEC, **values)
    stirred(model.encoder), stirred(model.network, seed=1)
    return precise(model)


def pixels(dtype=torch.float64):
    x = 2 * torch.rand(4, *SPEC.shape, generator=torch.Generator().manual_seed(2), dtype=dtype) - 1
    return Batch(x, torch.zeros(4, dtype=torch.int64))


def per_image(values):
    return values[:, None, None, None]


def test_the_derivative_of_the_encoder_by_differences():
    """dy/dlambda, where lambda = -gamma, and dx_phi/dlambda = sigma^2 (x_phi - y + dy/dlambda)."""
    model, x, h = trained(), pixels().x, 1e-6
    with torch.no_grad():
        found = model.encode(x, GAMMA)
        plain = model.encoder(x, model.schedule.input(GAMMA))
        higher, lower = model.encode(x, GAMMA - h), model.encode(x, GAMMA + h)
    assert 0.01 < float(found.y.abs().max()) < 1
    assert float(found.y_slope.abs().flatten(1).amax(1).min()) > 0.01
    torch.testing.assert_close(found.y, plain)
    torch.testing.assert_close(found.y_slope, (higher.y - lower.y) / (2 * h), rtol=1e-5, atol=1e-6)
    x_slope = per_image(GAMMA.sigmoid()) * (found.x - found.y + found.y_slope)
    torch.testing.assert_close(x_slope, (higher.x - lower.x) / (2 * h), rtol=1e-5, atol=1e-6)


def test_the_encoded_image_goes_from_the_image_to_the_encoding():
    """Eq. 15: x where there is no noise, y where there is no signal, alpha^2 x + sigma^2 y in between."""
    model, x = trained(), pixels().x
    far = torch.tensor([-25.0, 0.0, 25.0, 1.0], dtype=torch.float64)
    with torch.no_grad():
        found = model.encode(x, far)
    torch.testing.assert_close(found.x[0], x[0])
    torch.testing.assert_close(found.x[1], (x[1] + found.y[1]) / 2)
    torch.testing.assert_close(found.x[2], found.y[2])
    torch.testing.assert_close(found.x[3], (x[3] + math.e * found.y[3]) / (1 + math.e))


def test_trainable_loss_with_a_numerical_derivative_of_x_phi():
    """Eq. 18: -1/2 SNR' ||x_phi + dx_phi/dlambda - x_hat - sigma^2 x_hat||^2, and eq. 19 with the same derivative."""
    model, data, h = trained(), pixels(), 1e-6
    uniform = (GAMMA - LOW) / (HIGH - LOW)

    def encoded(gamma):
        y = model.encoder(data.x, model.schedule.input(gamma))
        return per_image((-gamma).sigmoid()) * data.x + per_image(gamma.sigmoid()) * y, y

    with torch.no_grad():
        found = model.diffusion_term(data, uniform, Standard()).nats
        (x_phi, y), (higher, y_higher), (lower, y_lower) = (encoded(gamma) for gamma in (GAMMA, GAMMA - h, GAMMA + h))
        alpha, sigma = per_image((-GAMMA).sigmoid().sqrt()), per_image(GAMMA.sigmoid().sqrt())
        noise = Standard().normal(tuple(data.x.shape), "diffusion")
        z = alpha * x_phi + sigma * noise
        v_hat = model.network(z, model.schedule.input(GAMMA))
        x_hat = alpha * z - sigma * v_hat
        bracket = x_phi + (higher - lower) / (2 * h) - x_hat - sigma**2 * x_hat
        eq18 = 0.5 * (HIGH - LOW) * torch.exp(-GAMMA) * (bracket**2).sum((1, 2, 3))
        bracket = alpha * noise - sigma * x_phi - v_hat + sigma * (x_hat - x_phi + y - (y_higher - y_lower) / (2 * h))
        eq19 = 0.5 * (HIGH - LOW) * (-GAMMA).sigmoid() * (bracket**2).sum((1, 2, 3))
    # The network answers in float32, whose rounding the SNR of 8000 at the first time makes larger.
    np.testing.assert_allclose(found, eq19, rtol=1e-6)
    np.testing.assert_allclose(found[1:], eq18[1:], rtol=1e-5)
    np.testing.assert_allclose(found[:1], eq18[:1], rtol=1e-3)


def test_one_dropout_mask_or_two():
    """Shared: y and its slope are of one function. Separate: the slope is that of the first mask, y that of a second."""
    wet = EncoderConfig(widths=(16, 32), dropout=0.4)
    x, h = pixels().x, 1e-6
    for masks in ("shared", "separate"):
        model = trained(encoder=wet, dropout_masks=masks).train()

        def at(gamma, before=0, model=model):
            torch.manual_seed(7)
            for _ in range(before):
                model.encoder(x, model.schedule.input(gamma))
            return model.encoder(x, model.schedule.input(gamma))

        with torch.no_grad():
            torch.manual_seed(7)
            found = model.encode(x, GAMMA)
            first, second = at(GAMMA), at(GAMMA, before=1)
            slope = (at(GAMMA - h) - at(GAMMA + h)) / (2 * h)
        assert float((first - second).abs().max()) > 0.01
        torch.testing.assert_close(found.y_slope, slope, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.y, first if masks == "shared" else second)
        torch.testing.assert_close(found.x, per_image((-GAMMA).sigmoid()) * x + per_image(GAMMA.sigmoid()) * found.y)
        with torch.no_grad():
            evaluated = model.eval().encode(x, GAMMA)
        torch.testing.assert_close(evaluated.y, model.encoder(x, model.schedule.input(GAMMA)))


def test_gradients_of_the_whole_loss_by_differences():
    """Through the derivative by lambda too; of weights in every part of the encoder, and of the network."""
    model, data = trained(), pixels()
    model.network = nn.Module()
    model.network.gain = nn.Parameter(torch.tensor(0.4).double())
    model.network.forward = lambda z, level, y=None: model.network.gain * torch.sin(z)

    def loss():
        return model.diffusion_term(data, torch.tensor([0.2, 0.5, 0.8, 0.95]).double(), Standard()).nats.sum()

    loss().backward()
    encoder = model.encoder
    weights = [
        encoder.conditioning.dense1.weight, encoder.stem.weight, encoder.down[0][0].condition.weight,
        encoder.attention.key.weight, encoder.up[1][0].conv2.weight, encoder.head.weight, model.network.gain,
    ]  # fmt: skip
    for weight in weights:
        index, values = int(weight.grad.abs().argmax()), []
        for nudge in (1e-6, -2e-6):
            with torch.no_grad():
                weight.view(-1)[index] += nudge
                values.append(float(loss()))
        with torch.no_grad():
            weight.view(-1)[index] += 1e-6
        gradient = float(weight.grad.view(-1)[index])
        assert abs(gradient) > 1e-4
        assert gradient == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


def test_where_gradients_are_off_and_arithmetic_is_short():
    """The bound is measured in inference mode, training may run in autocast: y and its slope are the same."""
    model, x = build("trainable", SPEC), pixels(torch.float32).x
    stirred(model.encoder)
    with torch.no_grad():
        plain = model.encode(x, GAMMA)
    with torch.inference_mode():
        inferred = model.encode(x + 0, model.schedule.gamma((GAMMA - LOW) / (HIGH - LOW)))
        assert not torch.is_grad_enabled()
        assert bool(model.diffusion_term(Batch(x, GAMMA.long()), GAMMA.sigmoid(), KeyedRandom(0, 0)).nats.isfinite().all())
    torch.testing.assert_close(inferred.y_slope, plain.y_slope, rtol=1e-4, atol=1e-4)
    assert not plain.y_slope.requires_grad
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        short = model.encode(x, GAMMA)
    assert short.y_slope.equal(plain.y_slope)
    assert short.y.equal(plain.y)


def test_ends_of_a_trained_encoder():
    """The prior term is that of alpha_1^2 x + sigma_1^2 y; the decoder sees x_phi at gamma_0 and names the codes of x."""
    schedule = linear(-6.0, 1.0)
    model = build("trainable", SPEC, schedule)
    stirred(model.encoder)
    precise(model)
    x = torch.tensor(code_grid(8, 0.1, 0.3, 256))[:, None].expand(4, 1, 8, 8).contiguous()
    with torch.no_grad():
        found = model.prior_and_reconstruction(Batch(x, torch.zeros(4, dtype=torch.int64)), Standard())
        y_0, y_1 = (model.encoder(x, torch.full((4,), level).double()) for level in (0.0, 1.0))
    alpha2, sigma2 = special.expit(-1.0), special.expit(1.0)
    ends = torch.distributions.Normal(math.sqrt(alpha2) * (alpha2 * x + sigma2 * y_1), math.sqrt(sigma2))
    prior = torch.distributions.kl_divergence(ends, torch.distributions.Normal(0.0, 1.0)).sum((1, 2, 3))
    np.testing.assert_allclose(found.prior, prior, rtol=1e-6)
    signal = special.expit(6.0) * x + special.expit(-6.0) * y_0
    z = signal + math.exp(-3.0) * Standard().normal((4, *SPEC.shape), "reconstruction")
    centres = (2 * torch.arange(256).double() + 1) / 256 - 1
    logits = -0.5 * math.exp(6.0) * (z[..., None] - centres) ** 2
    code = ((x + 1) * 128 - 0.5).round().long()
    expected = F.cross_entropy(logits.flatten(0, 3), code.flatten(), reduction="none").view(4, -1).sum(1)
    np.testing.assert_allclose(found.reconstruction, expected, rtol=1e-6)
