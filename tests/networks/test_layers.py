import numpy as np
import pytest
import torch
from torch import nn

from pipeline.networks.layers import Sinusoid, fourier_features, group_norm, zeroed


def test_sinusoid_as_printed():
    """Kingma et al.'s embedding of 1000 u: frequencies exp(-ln(10^4) i / (n/2 - 1)), sines first."""
    u = np.array([0.0, 0.3, 1.0])
    frequencies = np.exp(-np.log(1e4) * np.arange(8) / 7)
    angles = 1000 * u[:, None] * frequencies
    found = Sinusoid(16)(torch.tensor(u, dtype=torch.float32))
    np.testing.assert_allclose(found, np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=2e-4)
    assert found.shape == (3, 16)


def test_fourier_features():
    z = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = fourier_features(z, (0, 2))
    x = z.double().numpy() * 2 * np.pi
    np.testing.assert_allclose(found, np.concatenate([np.sin(x), np.cos(x), np.sin(4 * x), np.cos(4 * x)], 1), atol=1e-5)


def test_on_clean_pixels_octave_6_is_the_last_bit():
    """At the bin centres of 8 bits sin(2^7 pi z) is +-1 by the parity of the code, and the cosine is 0."""
    codes = torch.arange(256)
    z = ((2 * codes + 1) / 256 - 1).reshape(1, 1, 16, 16).double()
    sine, cosine = fourier_features(z, (6,))[0].flatten(1)
    np.testing.assert_allclose(sine, np.where(codes % 2, -1, 1), atol=1e-9)
    np.testing.assert_allclose(cosine, 0, atol=1e-9)


def test_zeroed():
    for layer in (nn.Conv2d(2, 3, 3), nn.Linear(4, 5), nn.Linear(4, 5, bias=False)):
        assert all(bool((parameter == 0).all()) for parameter in zeroed(layer).parameters())


def test_group_norm_normalises_sixteen_channels_together():
    x = 3 + 2 * torch.randn(2, 32, 5, 5, generator=torch.Generator().manual_seed(0))
    x[:, 16:] *= 10
    found = group_norm(32)(x).reshape(2, 2, -1)
    np.testing.assert_allclose(found.mean(2).detach(), 0, atol=1e-5)
    np.testing.assert_allclose(found.var(2, unbiased=False).detach(), 1, atol=1e-3)
    with pytest.raises(AssertionError):
        group_norm(24)
