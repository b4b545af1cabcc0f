import numpy as np
import pytest
from scipy.stats import binom

from pipeline.metrics.speed import Speed, speed

RECORD = {
    "images_per_second": 12.5, "network_evaluations": 100, "images": 1000, "device": "cpu", "threads": 2, "precision": "bf16",
}  # fmt: skip


def test_reads_a_record_and_needs_no_threads_of_a_gpu():
    assert speed(RECORD) == Speed(100, 12.5, "cpu")
    assert speed({name: value for name, value in RECORD.items() if name != "threads"}) == Speed(100, 12.5, "cpu")


def test_the_interval_is_that_of_the_median():
    """Few repeats: all of them. Ten: the second to the ninth, which cover the median in 97.9 % of cases."""
    few = speed({**RECORD, "batch": 50, "seconds_per_repeat": [4.0, 2.5, 5.0], "repeats": 3, "decoding": True})
    assert (few.low, few.images_per_second, few.high) == (10, 12.5, 20)
    seconds = [50 / rate for rate in (20, 3, 11, 12, 13, 14, 15, 16, 10, 99)]
    ten = speed({**RECORD, "batch": 50, "seconds_per_repeat": seconds})
    assert (ten.low, ten.high) == (pytest.approx(10), pytest.approx(20))


@pytest.mark.parametrize("count", [6, 10, 17, 40])
def test_the_interval_covers_the_median_as_often_as_it_says(count):
    """The widest that the order of the repeats gives within 5 %, by scipy's binomial distribution."""
    draws = np.random.default_rng(count).lognormal(size=(4000, count))  # median of the seconds 1, so of the rates 50
    spans = [speed({**RECORD, "batch": 50, "seconds_per_repeat": row.tolist()}) for row in draws]
    outside = np.mean([not span.low <= 50 <= span.high for span in spans])
    tail = max(float(binom.cdf(k, count, 0.5)) for k in range(count) if binom.cdf(k, count, 0.5) <= 0.025)
    assert outside == pytest.approx(2 * tail, abs=0.012)


@pytest.mark.parametrize(
    "broken", [{"batch": 0}, {"batch": None}, {"seconds_per_repeat": []}, {"seconds_per_repeat": [1.0, 0.0]}]
)
def test_broken_repeats_are_refused(broken):
    with pytest.raises(ValueError, match="allowed are positive numbers of both"):
        speed({**RECORD, "batch": 50, "seconds_per_repeat": [4.0], **broken})


@pytest.mark.parametrize(
    ("key", "value"),
    [("images_per_second", 0), ("images_per_second", float("inf")), ("images_per_second", "12"), ("network_evaluations", -1),
     ("network_evaluations", 99.5)],
)  # fmt: skip
def test_a_broken_number_is_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} is"):
        speed({**RECORD, key: value})


@pytest.mark.parametrize("key", ["images_per_second", "network_evaluations", "device"])
def test_a_missing_key_is_named(key):
    with pytest.raises(ValueError, match=f"no {key}"):
        speed({name: value for name, value in RECORD.items() if name != key})
