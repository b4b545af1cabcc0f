"""Are the standard errors of bits/dim what the means really scatter by? Many repetitions with known noise."""

import csv
import io

import numpy as np
import pytest

from pipeline import bound


@pytest.mark.parametrize(("data", "noise"), [(2.0, 0.5), (0.5, 2.0), (1.0, 0.0)])
def test_standard_errors_are_calibrated(data, noise):
    """Over 3000 repetitions with 40 images, against how far the means really scatter."""
    rng = np.random.default_rng(0)
    images, repetitions = 40, 3000
    means, variances = [], []
    for _ in range(repetitions):
        values = 7 + data * rng.normal(size=(images, 1)) + noise * rng.normal(size=(images, 2))
        errors = bound.standard_errors(values)
        means.append(values.mean())
        variances.append([errors[part] ** 2 for part in ("total", "data", "monte_carlo")])
    total, of_data, of_noise = np.mean(variances, 0)
    assert total == pytest.approx(np.var(means), rel=0.1)
    assert of_noise == pytest.approx(noise**2 / 2 / images, rel=0.02, abs=1e-12)
    # What is left for the data is cut off at zero, which shows where it is small beside the noise.
    assert of_data == pytest.approx(data**2 / images, rel=0.05) if data > noise else of_data >= data**2 / images


def test_bits_are_nats_over_the_logarithm_of_two_and_the_number_of_pixels():
    """Four pixels of a fair coin each: 4 ln 2 nats are one bit per pixel; a hundredth of that in the other terms."""
    nats = {"prior": [[0.01, 0.03]], "reconstruction": [[0.02, 0.0]], "diffusion": [[1.0, 2.0]]}
    found = bound.Estimates({term: 4 * np.log(2) * np.array(values) for term, values in nats.items()}, np.zeros(0), np.zeros(0))
    bits = bound.bits_per_dim(found, 4)
    assert {term: values.tolist() for term, values in bits.items() if term != "total"} == {
        term: [pytest.approx(row) for row in values] for term, values in nats.items()
    }
    assert bits["total"].tolist() == [pytest.approx([1.03, 2.03])]


def test_the_standard_error_of_the_curve_is_how_far_it_scatters():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        time = rng.random((20, 40))
        estimates = bound.Estimates({}, time, 1 + rng.normal(size=time.shape))
        rows = csv.DictReader(io.StringIO(bound.curve(estimates, lambda t: 0.0, 4)))
        found.append([(float(row["bits_per_dim"]), float(row["standard_error"])) for row in rows])
    values, errors = np.array(found).transpose(2, 0, 1)
    assert (errors**2).mean() == pytest.approx(values.var(0).mean(), rel=0.1)
