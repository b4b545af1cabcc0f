import pytest

from pipeline.metrics.speed import Speed, speed

RECORD = {
    "images_per_second": 12.5, "network_evaluations": 100, "images": 1000, "device": "cpu", "threads": 2, "precision": "bf16",
}  # fmt: skip


def test_reads_a_record_and_needs_no_threads_of_a_gpu():
    assert speed(RECORD) == Speed(100, 12.5, "cpu")
    assert speed({name: value for name, value in RECORD.items() if name != "threads"}) == Speed(100, 12.5, "cpu")


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
