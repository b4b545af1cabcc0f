"""Latent diffusion's schedule against the signal that its published settings leave at the end."""

import pytest
import torch

from pipeline.diffusion.schedule import ScaledLinearBetaConfig


@pytest.mark.parametrize(
    ("first", "last", "left"), [(0.0015, 0.0195, 1.423e-4), (0.0015, 0.0155, 6.687e-4), (0.00085, 0.012, 4.660e-3)]
)
def test_signal_at_the_end(first, last, left):
    table = ScaledLinearBetaConfig(kind="scaled-linear-beta", first=first, last=last).build().table
    assert float(torch.sigmoid(-table[-1])) == pytest.approx(left, rel=5e-4)
    assert float(torch.sigmoid(table[1])) == pytest.approx(first, rel=1e-9)
