from typing import get_args

import numpy as np
import pytest
import torch

from pipeline.diffusion.gaussian import diffuse, eps_from_x
from pipeline.diffusion.prediction import Prediction, target, to_x

GAMMA = torch.linspace(-13, 13, 27, dtype=torch.float64)
X, NOISE = (torch.randn(2, 27, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).unbind()
Z = diffuse(X, GAMMA, NOISE)


@pytest.mark.parametrize("prediction", get_args(Prediction))
def test_there_and_back(prediction):
    x_hat = to_x(prediction, target(prediction, X, NOISE, GAMMA), Z, GAMMA)
    np.testing.assert_allclose(x_hat, X, atol=1e-9)
    np.testing.assert_allclose(eps_from_x(x_hat, Z, GAMMA), NOISE, atol=1e-9)


def test_targets_by_the_angle():
    """With z = cos(a) x + sin(a) eps, v = dz / da (Salimans and Ho 2022, appendix D): a finite difference."""
    angle = 0.4
    gamma = torch.full((27,), 2 * np.log(np.tan(angle)), dtype=torch.float64)
    h = 1e-6
    slope = (np.cos(angle + h) - np.cos(angle - h)) / (2 * h) * X + (np.sin(angle + h) - np.sin(angle - h)) / (2 * h) * NOISE
    np.testing.assert_allclose(target("v", X, NOISE, gamma), slope, atol=1e-8)
    assert target("eps", X, NOISE, gamma) is NOISE
    assert target("x", X, NOISE, gamma) is X


@pytest.mark.parametrize(("gamma", "says"), [(-30.0, "eps"), (30.0, "x")])
def test_v_is_eps_near_the_data_and_minus_x_in_noise(gamma, says):
    v = target("v", X, NOISE, torch.full((27,), gamma, dtype=torch.float64))
    np.testing.assert_allclose(v, NOISE if says == "eps" else -X, atol=1e-5)
