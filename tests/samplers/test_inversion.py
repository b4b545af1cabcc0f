"""DDIM inversion against the exact flow, there and back; great circles between latents."""

import math

import numpy as np
import pytest
import torch

from pipeline.core.contracts import Generative
from pipeline.diffusion.schedule import DiscreteSchedule, LinearLogSNRSchedule, linear_betas
from pipeline.samplers.ddim import DDIM
from pipeline.samplers.inversion import invert, reconstruct, slerp
from tests.support.blocks import default
from tests.support.denoisers import Drawing, gaussian, two

SCHEDULE = LinearLogSNRSchedule(-8.0, 6.0)
LONG = DiscreteSchedule(linear_betas(1000))
LATENT = np.linspace(-2.2, 2.2, 23)
STEPS = (40, 80, 160, 320)
data = pytest.mark.parametrize("data", [gaussian, two], ids=["gaussian", "mixture"])


def image(values):
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


def orders(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


@data
def test_inversion_converges_with_order_one(data):
    """To the latent that the flow carries to the image, and with DDIM back to the image itself."""
    model = data(SCHEDULE)
    x = image(model.flow(LATENT))
    latents = [invert(model, x, steps) for steps in STEPS]
    images = [reconstruct(model, z, steps) for z, steps in zip(latents, STEPS, strict=True)]
    to_latent = [float((z - image(LATENT)).abs().mean()) for z in latents]
    to_image = [float((back - x).abs().mean()) for back in images]
    np.testing.assert_allclose(orders(to_latent), 1, atol=0.1)
    np.testing.assert_allclose(orders(to_image), 1, atol=0.1)
    assert to_image[-1] < 5e-3


@data
@pytest.mark.parametrize("spacing", ["trailing", "uniform", "quadratic", "logsnr"])
def test_there_and_back_on_a_chain(data, spacing):
    """On every grid of the sampler; a start from another latent ends elsewhere."""
    model = data(LONG)
    x, sampler = image(model.flow(LATENT)), default(DDIM, spacing=spacing)
    errors = []
    for steps in (50, 200):
        z = invert(model, x, steps, sampler=sampler)
        errors.append(float((reconstruct(model, z, steps, sampler=sampler) - x).abs().mean()))
    assert errors[1] < 0.4 * errors[0]
    assert errors[1] < 0.02
    assert float((reconstruct(model, z.flip(0), steps, sampler=sampler) - x).abs().mean()) > 0.2


def test_one_evaluation_less_than_steps_at_the_source():
    """eps_hat is taken at z_s, the less noisy end of each step; at the data it is 0."""
    asked = []

    class Asked(type(two(LONG))):
        def reverse(self, z_t, s, t, *args, **kwargs):
            asked.append(round(float(t[0]) * 1000))
            return super().reverse(z_t, s, t, *args, **kwargs)

    invert(two(LONG, Asked), image([0.1]), 4)
    assert asked == [250, 500, 750]


def test_a_step_by_hand():
    """Two steps: alpha x at t = 1/2, and from there with eps_hat that is seen there."""
    model, x = gaussian(LONG), image([0.4])
    alpha_bar = (1 - linear_betas(1000)).cumprod(0).numpy()
    (half, last) = alpha_bar[[499, 999]]
    z = math.sqrt(half) * 0.4
    x_hat = 0.2 + math.sqrt(half) * 0.09 / (half * 0.09 + 1 - half) * (z - math.sqrt(half) * 0.2)
    eps_hat = (z - math.sqrt(half) * x_hat) / math.sqrt(1 - half)
    assert float(invert(model, x, 2)) == pytest.approx(math.sqrt(last) * x_hat + math.sqrt(1 - last) * eps_hat, rel=1e-9)


def test_labels_and_clip_reach_the_model():
    seen = []

    class Watched(Generative):
        schedule = SCHEDULE

        def reverse(self, z_t, s, t, y, rng, clip=None):
            seen.append((y.tolist(), clip))
            return two(SCHEDULE).reverse(z_t, s, t, y, rng, clip)

    for clip in (True, False):
        sampler = default(DDIM, clip=clip)
        z = invert(Watched(), image([0.1, 0.2]), 3, torch.tensor([4, 7]), sampler=sampler)
        reconstruct(Watched(), z, 3, torch.tensor([4, 7]), sampler=sampler)
    assert seen == [([4, 7], 1.0)] * 5 + [([4, 7], None)] * 5


def test_what_has_no_inverse():
    x = image([0.1])
    for call in (invert, reconstruct):
        with pytest.raises(AssertionError, match="no inverse"):
            call(gaussian(SCHEDULE, Drawing), x, 4)
        with pytest.raises(AssertionError, match="deterministic"):
            call(gaussian(SCHEDULE), x, 4, sampler=default(DDIM, eta=0.5))


def pair(angle, norm=3.0, shape=(2, 3, 4)):
    """Two latents of equal norm with this angle between them."""
    one, other = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = one / one.norm()
    other = other - (one * other).sum() * one
    other = other / other.norm()
    return norm * one, norm * (math.cos(angle) * one + math.sin(angle) * other)


@pytest.mark.parametrize("angle", [1e-9, 1e-4, 0.3, 1.5, 3.0])
def test_slerp_turns_by_a_share_of_the_angle(angle):
    a, b = pair(angle)
    for u in (0.0, 0.2, 0.5, 0.9, 1.0):
        found = slerp(a, b, u)
        assert float(found.norm()) == pytest.approx(3.0, rel=1e-12)
        _, expected = pair(u * angle)
        np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-12)
    np.testing.assert_allclose(slerp(a, b, 1.0), b, atol=1e-12)


def test_slerp_of_different_norms_by_hand():
    """At right angles: weights cos and sin of the share of pi / 2; nearer to a at a small u."""
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 5.0])
    np.testing.assert_allclose(slerp(a, b, 0.25), [2 * math.cos(math.pi / 8), 5 * math.sin(math.pi / 8)], rtol=1e-6)
    np.testing.assert_allclose(slerp(a, b, 0.25), slerp(b, a, 0.75), rtol=1e-6)
    assert slerp(a, b, 0.25).dtype == torch.float32


def test_slerp_of_a_latent_with_itself_or_its_multiple():
    a, _ = pair(0.5)
    np.testing.assert_allclose(slerp(a, a, 0.3), a, rtol=1e-12)
    np.testing.assert_allclose(slerp(a, 2 * a, 0.3), 1.3 * a, rtol=1e-9)
    with pytest.raises(ValueError, match="the latents are opposite"):
        slerp(a, -a, 0.3)


def test_slerp_keeps_noise_noise():
    """Halfway on a straight line, two latents of N(0, 1) have variance 1/2."""
    a, b = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    assert float(slerp(a, b, 0.5).std()) == pytest.approx(1, abs=0.03)
    assert float(torch.lerp(a, b, 0.5).std()) == pytest.approx(math.sqrt(0.5), abs=0.03)
