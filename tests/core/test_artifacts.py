from __future__ import annotations

import json
import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core import artifacts
from pipeline.store.data import DataDirectory, write_data


def test_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file"
    with artifacts.atomic(target) as file:
        file.write(b"half")
        file.flush()
        assert not target.exists()
        file.write(b" and half")
    assert target.read_bytes() == b"half and half"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_write_leaves_the_old_content_and_no_rest(error: type[BaseException], tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def write() -> None:
        with artifacts.atomic(target) as file:
            file.write(b"new, but not all of it")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        artifacts.write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_overwriting_replaces_the_file_under_a_reader(tmp_path: Path) -> None:
    """A memory map of the old array keeps its numbers: the new file is another one."""
    artifacts.write_array(tmp_path / "a.npy", np.arange(5))
    held = artifacts.read_array(tmp_path / "a.npy")
    artifacts.write_array(tmp_path / "a.npy", np.zeros(5))
    assert held.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="read-only"):
        held[0] = 9


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_no_json(value: float, tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    artifacts.write_json(target, {"a": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.write_json(target, {"a": [1.0, value]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.hash_json({"a": value})
    assert artifacts.read_json(target) == {"a": 1.0}


def test_json_keeps_order_digits_and_letters(tmp_path: Path) -> None:
    value = {"z": 0.1 + 0.2, "a": [1, None, True], "é": "γ"}
    artifacts.write_json(tmp_path / "file.json", value)
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "γ" in text
    assert list(json.loads(text).items()) == list(value.items())


def test_data_directory_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.integers(0, 17, (count, 3, 2, 4), dtype=np.uint8), rng.integers(0, 3, count))
        for split, count in (("train", 7), ("valid", 2), ("test", 4))
    }
    written = write_data(tmp_path / "data", splits, levels=17, classes=5, extra={"source": "dice"})
    opened = DataDirectory.open(tmp_path / "data")
    assert opened.hash == written.hash
    assert opened.data_spec.shape == (3, 2, 4)
    assert opened.data_spec.dimensions == 24
    assert (opened.data_spec.levels, opened.data_spec.classes) == (17, 5)
    assert opened.spec["counts"] == {"train": 7, "valid": 2, "test": 4}
    assert opened.spec["source"] == "dice"
    for split, (images, labels) in splits.items():
        assert np.array_equal(opened.images(split), images)
        assert opened.images(split).dtype == np.uint8
        assert np.array_equal(opened.labels(split), labels)
        assert opened.labels(split).dtype == np.int64
        # Five classes are promised, of which the labels here have three.
        assert opened.spec["class_counts"][split] == [int((labels == label).sum()) for label in range(5)]


def test_directory_without_a_spec_is_refused(tmp_path: Path) -> None:
    artifacts.write_array(tmp_path / "train.images.npy", np.zeros((1, 1, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"holds no prepared data \(no spec.json\); run: dvc repro prepare"):
        DataDirectory.open(tmp_path)


BASE = {"a": np.array([[1, 2], [3, 4]], dtype=np.int32), "b": np.array([5], dtype=np.uint8)}
OTHERS = {
    "content": {**BASE, "b": np.array([6], dtype=np.uint8)},
    "type": {**BASE, "b": np.array([5], dtype=np.int8)},
    "shape": {**BASE, "a": BASE["a"].reshape(4, 1)},
    "order": {**BASE, "a": np.ascontiguousarray(BASE["a"].T)},
    "name": {"a": BASE["a"], "c": BASE["b"]},
    "names swapped": {"b": BASE["a"], "a": BASE["b"]},
    "one less": {"a": BASE["a"]},
}


@pytest.mark.parametrize("what", OTHERS)
def test_hash_changes_with(what: str) -> None:
    assert artifacts.hash_arrays(OTHERS[what]) != artifacts.hash_arrays(BASE)


def test_hash_is_of_values_not_of_how_they_lie_in_memory() -> None:
    same = {"b": BASE["b"].copy(), "a": np.asfortranarray(BASE["a"])}
    assert artifacts.hash_arrays(same) == artifacts.hash_arrays(BASE)
    assert artifacts.hash_json({"x": 1, "y": 2}) == artifacts.hash_json({"y": 2, "x": 1})


def test_hash_knows_where_a_part_ends() -> None:
    assert artifacts.hash_bytes(b"ab", b"c") != artifacts.hash_bytes(b"a", b"bc")


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert artifacts.hash_file(tmp_path / "abc") == expected


def test_tensors_round_trip_with_metadata(tmp_path: Path) -> None:
    tensors = {
        "kernel": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "table": torch.tensor([-float("inf"), 1.0], dtype=torch.float64),
        "step": torch.tensor(7.0),
    }
    artifacts.write_tensors(tmp_path / "t.safetensors", tensors, {"run": "vdm"})
    found = artifacts.read_tensors(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())
    assert artifacts.read_metadata(tmp_path / "t.safetensors") == {"run": "vdm"}


def test_pickle_is_neither_written_nor_read(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        artifacts.write_array(tmp_path / "objects.npy", objects)
    assert list(tmp_path.iterdir()) == []
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    (tmp_path / "plain.npy").write_bytes(pickle.dumps([1, 2]))
    for name in ("objects.npy", "plain.npy"):
        with pytest.raises(ValueError, match=r"pickle|Python objects"):
            artifacts.read_array(tmp_path / name)
