import numpy as np
import pytest
import torch

from pipeline.config.load import read_block
from pipeline.diffusion.gaussian import alpha_sigma, diffuse, posterior, transition, transition_std
from pipeline.families.ddgan.schedule import VPBetaConfig, vp_betas

# Xiao et al. 2022: betas and their cumulative products, as printed by the reference code.
BETAS = {
    1: [0.999956810],
    2: [0.921324032, 0.999451033],
    4: [0.478255303, 0.849206004, 0.956417709, 0.987403901],
    8: [0.156445258, 0.381493, 0.546501, 0.667488, 0.756197, 0.821240, 0.868930, 0.903898],
}
ALPHA_BARS = {
    1: [4.319e-5],
    2: [0.0786760, 4.319e-5],
    4: [0.521744692, 0.0786759668, 0.00342887887, 4.31904972e-5],
    8: [0.843555, 0.521745, 0.236611, 0.0786760, 0.0191814, 0.00342888, 4.4942e-4, 4.319e-5],
}


def schedule(steps=4):
    return VPBetaConfig(kind="vp-beta", steps=steps).build()


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_printed_betas(steps):
    printed = steps in (1, 2, 4)
    assert vp_betas(steps).tolist() == pytest.approx(BETAS[steps], rel=2e-9 if printed else 2e-6)
    times = torch.arange(1, steps + 1) / steps
    gamma = schedule(steps).gamma(times)
    assert (alpha_sigma(gamma)[0] ** 2).tolist() == pytest.approx(ALPHA_BARS[steps], rel=2e-5)
    before = schedule(steps).gamma(times - 1 / steps)
    assert (transition_std(before, gamma) ** 2).tolist() == pytest.approx(BETAS[steps], rel=2e-6)


def test_betas_of_the_paper():
    """Its own form, 1 - exp(-beta_min/T - (beta_max - beta_min)(2t - 1)/(2 T^2)), has no u_0 = 1e-3: alike up to a little."""
    t = np.arange(1, 9)
    expected = 1 - np.exp(-0.1 / 8 - 0.5 * 19.9 * (2 * t - 1) / 8**2)
    np.testing.assert_allclose(vp_betas(8), expected, rtol=0.02)
    assert vp_betas(8, 0.2, 5.0).tolist() != pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_only_its_own_steps(steps):
    own = schedule(steps)
    assert own.times(steps, "uniform").tolist() == [1 - i / steps for i in range(steps + 1)]
    assert own.times(steps, "respaced").tolist() == [1 - i / steps for i in range(steps + 1)]
    for other in (1, 2, 4, 8, 3, 250):
        if other != steps:
            with pytest.raises(ValueError, match=rf"steps is {other}; allowed: {steps}, as the generator is trained for"):
                own.times(other, "uniform")


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_the_networks_view_of_the_levels(steps):
    own = schedule(steps)
    view = own.input(own.gamma(torch.arange(1, steps + 1) / steps))
    assert view.dtype == torch.float32
    assert bool(view.isfinite().all())
    assert view[0] == 0
    if steps > 1:
        assert view[-1] == 1
        assert float(view.diff().min()) > 0.5 / steps


@pytest.mark.parametrize(("s", "t"), [(0.0, 0.25), (0.25, 0.5), (0.75, 1.0)])
def test_the_training_pair(s, t):
    """Moments of (z_s, z_t) for a given x, against the chain written out in betas; z_t depends on x through z_s alone."""
    own, count, x = schedule(), 400_000, 0.7
    generator = torch.Generator().manual_seed(0)
    noise, step = torch.randn(2, count, 1, 1, 1, generator=generator)
    gamma_s, gamma_t = (own.gamma(torch.full((count,), time)) for time in (s, t))
    z_s = diffuse(torch.full((count, 1, 1, 1), x), gamma_s, noise)
    z_t = transition(z_s, gamma_s, gamma_t, step)
    beta = BETAS[4][round(4 * s)]
    alpha_bar = ALPHA_BARS[4][round(4 * s) - 1] if s else 1.0
    pairs = np.stack([z_s.flatten().numpy(), z_t.flatten().numpy()]).astype(np.float64)
    np.testing.assert_allclose(pairs.mean(1), x * np.sqrt([alpha_bar, alpha_bar * (1 - beta)]), atol=6e-3)
    covariance = (1 - alpha_bar) * np.sqrt(1 - beta)
    expected = [[1 - alpha_bar, covariance], [covariance, 1 - alpha_bar * (1 - beta)]]
    np.testing.assert_allclose(np.cov(pairs), expected, atol=8e-3)


@pytest.mark.parametrize(("index", "steps"), [(0, 4), (1, 4), (3, 4), (0, 1), (5, 8)])
def test_the_posterior_in_betas(index, steps):
    """Ho et al. 2020, eq. 7, with the printed betas; the last step is the drawn x_hat itself."""
    own = schedule(steps)
    s, t = (torch.tensor([k / steps]) for k in (index, index + 1))
    x_hat, z_t = torch.full((1, 1, 1, 1), 0.3), torch.full((1, 1, 1, 1), -1.2)
    found = posterior(x_hat, z_t, own.gamma(s), own.gamma(t))
    beta, now = BETAS[steps][index], ALPHA_BARS[steps][index]
    before = ALPHA_BARS[steps][index - 1] if index else 1.0
    mean = beta * np.sqrt(before) / (1 - now) * 0.3 + (1 - before) * np.sqrt(1 - beta) / (1 - now) * -1.2
    assert float(found.mean) == pytest.approx(mean, rel=1e-4)
    assert float(found.std) == pytest.approx(np.sqrt(beta * (1 - before) / (1 - now)), rel=1e-4)
    assert index or (float(found.mean) == pytest.approx(0.3, abs=1e-7) and float(found.std) == 0)


def test_refused_settings():
    def read(**values):
        return read_block(VPBetaConfig, {"kind": "vp-beta", **values}, "schedule")

    with pytest.raises(ValueError, match=r"schedule\.steps is 3; allowed: 1, 2, 4 or 8"):
        read(steps=3)
    with pytest.raises(ValueError, match=r"schedule: beta_min is 30\.0; allowed: up to beta_max, which is 20"):
        read(beta_min=30.0)
