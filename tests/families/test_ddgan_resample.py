import numpy as np
import pytest
import torch
from scipy import signal
from torch.nn import functional as F

from pipeline.families.ddgan.resample import FIRDown, FIRUp

LINE = np.array([1.0, 3.0, 3.0, 1.0]) / 8


def maps(height=12, width=8, channels=3):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))


def by_scipy(values, up, down, gain, trim):
    """Zeros in between, the filter, every so manieth value, along both axes; `trim` values fall off at the front."""
    for axis in (-2, -1):
        size = values.shape[axis] * up // down
        filtered = signal.upfirdn(gain * LINE, values, up=up, axis=axis)
        values = np.take(filtered, trim + down * np.arange(size), axis=axis)
    return values


@pytest.mark.parametrize("size", [(12, 8), (7, 7)])
def test_down_is_the_filter_and_every_second_value(size):
    h = maps(*size)
    # conv2d's padding of 1 lets output 0 see values -1 to 2: in a full convolution that is output 2.
    expected = by_scipy(h.double().numpy(), up=1, down=2, gain=1, trim=2)
    np.testing.assert_allclose(FIRDown(3)(h), expected, atol=1e-6)
    assert expected.shape[-2:] == (size[0] // 2, size[1] // 2)


def test_up_is_zeros_in_between_and_the_filter():
    h = maps()
    # Gain 2 along each axis, for the zeros; the transposed convolution drops one value at the front.
    expected = by_scipy(h.double().numpy(), up=2, down=1, gain=2, trim=1)
    np.testing.assert_allclose(FIRUp(3)(h), expected, atol=1e-6)


def test_up_is_bilinear_interpolation_within_the_border():
    h = maps()
    expected = F.interpolate(h, scale_factor=2.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(FIRUp(3)(h)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_up_then_down_keeps_constants_and_slow_waves_and_channels_apart():
    rows = torch.arange(64.0)
    waves = torch.stack([torch.ones(64), torch.cos(2 * np.pi * rows / 64), torch.cos(2 * np.pi * rows / 32)])
    h = waves[None, :, :, None].expand(1, 3, 64, 64)
    there_and_back = FIRDown(3)(FIRUp(3)(h))[..., 2:-2, 2:-2]
    torch.testing.assert_close(there_and_back, h[..., 2:-2, 2:-2], rtol=0, atol=0.02)


def test_down_removes_what_would_fold_onto_slow_waves():
    fastest = torch.tensor([1.0, -1.0]).repeat(16)[None, None, :, None].expand(1, 1, 32, 32)
    assert float(FIRDown(1)(fastest)[..., 1:-1, 1:-1].abs().max()) < 1e-6
    assert float(fastest[..., ::2, ::2].abs().max()) == 1, "without the filter it becomes a constant"


def test_the_filter_is_a_constant():
    for layer in (FIRDown(4), FIRUp(4)):
        assert not list(layer.parameters())
        assert not layer.state_dict()


def test_autocast_changes_the_type_alone():
    h = maps().bfloat16()
    for layer in (FIRDown(3), FIRUp(3)):
        with torch.autocast("cpu", torch.bfloat16):
            made = layer(h)
        assert made.dtype == torch.bfloat16
        torch.testing.assert_close(made, layer(h.float()).bfloat16(), rtol=0, atol=0)
