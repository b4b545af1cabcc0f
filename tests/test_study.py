"""The study of depth from end to end: a tiny run and extractor, trained by the stages, then measured."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline import check, prepare, study, train
from pipeline.config.load import load_params
from pipeline.core import artifacts

PROFILE = Path(__file__).parent / "profiles" / "tiny.yaml"
LOGSNR = {"kind": "linear-logsnr", "gamma_min": -6.0, "gamma_max": 4.0}
NETWORK = {"kind": "unet", "widths": [16], "embedding": 8}
TRAINING = {"steps": 12, "batch": 16, "learning_rate": 0.002, "warmup": 2, "valid_images": 16, "precision": "float32"}
DEPTHS = [2, 5, 12]


def block(**model: Any) -> dict[str, Any]:
    model = {"schedule": LOGSNR, "network": NETWORK, **model}
    return {"family": "diffenc", "data": "data/prepared", "depths": DEPTHS, "model": model, "training": TRAINING}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """params.yaml with a VDM and both encoders of DiffEnc, the data, the extractor and the runs."""
    folder = tmp_path_factory.mktemp("analyse") / "project"
    folder.mkdir()
    params = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    params["extractors"]["convnet"]["training"] = TRAINING
    params["runs"] = {
        "vdm": {**block(), "family": "vdm"},
        "diffenc": block(encoder={"widths": [16], "patch": 2}),
        "diffenc-nt": block(kind="non-trainable"),
    }
    params["bounds"], params["samples"], params["composed"] = {}, {}, {}
    params["depths"] = {run: {"images": 30, "times": 4, "samples": 40} for run in params["runs"]}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert prepare.main([]) == 0
        assert train.main(["--extractor", "convnet"]) == 0
        for run in params["runs"]:
            assert train.main([run]) == 0
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


@pytest.mark.parametrize("run", ["vdm", "diffenc", "diffenc-nt"])
def test_every_depth_is_measured_and_the_last_has_no_distance(run: str, here: Path) -> None:
    assert study.main(["depth", run]) == 0
    written = json.loads((here / f"reports/depth/{run}.json").read_text(encoding="utf-8"))
    table = written["depths"]
    assert list(table) == ["2", "5", "12", "inf"]
    for depth, choices in table.items():
        assert list(choices) == ["posterior", "optimal"]
        for row in choices.values():
            assert set(row) == {"bits_per_dim", "standard_error", *(() if depth == "inf" else ("fd",))}
            assert np.isfinite(list(row.values())).all()
            assert row["standard_error"] > 0
    assert table["inf"]["posterior"] == table["inf"]["optimal"]
    # The variance makes up for what the mean of few steps misses; more steps need it less.
    gains = [table[str(depth)]["posterior"]["bits_per_dim"] - table[str(depth)]["optimal"]["bits_per_dim"] for depth in DEPTHS]
    assert gains[0] > gains[1] > gains[2] > 0
    assert table["2"]["posterior"]["fd"] != table["2"]["optimal"]["fd"]
    assert written["measured"]["images"] == 30
    assert written["measured"]["samples"] == 40
    assert written["measured"]["extractor"].startswith("convnet@")
    rows = list(csv.DictReader((here / f"reports/depth/{run}.csv").open(encoding="utf-8")))
    assert [(row["steps"], row["choice"]) for row in rows] == [(depth, choice) for depth in table for choice in table[depth]]
    for row in rows:
        held = table[row["steps"]][row["choice"]]
        assert float(row["bits_per_dim"]) == held["bits_per_dim"]
        assert row["fd"] == str(held.get("fd", ""))


def test_the_study_is_reproducible(here: Path) -> None:
    found = []
    for _ in range(2):
        assert study.main(["depth", "vdm"]) == 0
        found.append((here / "reports/depth/vdm.json").read_bytes())
    assert found[0] == found[1]


def test_variances_are_stored_with_the_model(here: Path) -> None:
    """One for each step, above the posterior's, which the schedule gives."""
    table = artifacts.read_json(here / "runs/vdm/train/variance.json")
    assert list(table) == [str(depth) for depth in DEPTHS]
    for depth, values in table.items():
        gamma = LOGSNR["gamma_max"] - 10.0 * np.arange(int(depth) + 1) / int(depth)
        posterior = (1 - np.exp(gamma[1:] - gamma[:-1])) / (1 + np.exp(-gamma[1:]))
        assert len(values) == int(depth)
        assert (np.array(values) > posterior).all()


def edited(folder: Path, change: Any) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    changed = copy.deepcopy(params)
    change(changed)
    (folder / "params.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: params["depths"].pop("vdm"), "depths has no 'vdm'; allowed: diffenc"),
        (lambda params: params["runs"]["vdm"].pop("depths"), "depths.vdm studies a run without depths; add runs.vdm.depths"),
        (lambda params: params["runs"]["vdm"].update(depths=[0]), "runs.vdm.depths.0 is 0; allowed: greater than 0"),
        (lambda params: params["depths"]["vdm"].update(times=1), "depths.vdm.times is 1; allowed: greater than or equal to 2"),
    ],
)
def test_refusals(change: Any, message: str, project: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    shutil.copy(project / "params.yaml", tmp_path / "params.yaml")
    edited(tmp_path, change)
    monkeypatch.chdir(tmp_path)
    assert study.main(["depth", "vdm"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_other_data_than_the_run_was_trained_on_are_refused(
    project: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("depth"))
    monkeypatch.chdir(folder)
    edited(folder, lambda params: params["data"].update(seed=1))
    assert prepare.main([]) == 0
    assert study.main(["depth", "vdm"]) == 2
    assert "runs/vdm/train was trained on other data than data/prepared holds; train it again" in capsys.readouterr().err
    assert not (folder / "reports/depth").exists()


def test_depths_of_a_chain_of_fixed_length_are_refused(project: Path, tmp_path: Path) -> None:
    """DDPM's T is part of what it learned."""
    file = tmp_path / "params.yaml"
    shutil.copy(project / "params.yaml", file)
    model = {"schedule": {"kind": "cosine-beta", "steps": 5}, "network": NETWORK}
    edited(tmp_path, lambda params: params["runs"].update(vdm={**block(), "family": "ddpm", "model": model}))
    with pytest.raises(ValueError, match=r"runs\.vdm\.depths is given, but the family ddpm has a fixed number of steps"):
        check.check(load_params(file))


def test_samples_with_variances_that_nobody_estimated_are_refused(project: Path, tmp_path: Path) -> None:
    """`variance: optimal` goes with a number of steps among the run's depths."""
    shutil.copy(project / "params.yaml", tmp_path / "params.yaml")
    for steps, allowed in ((5, True), (7, False)):
        sample = {"run": "vdm", "sampler": {"kind": "ancestral", "variance": "optimal"}, "steps": steps, "images": 60}
        edited(tmp_path, lambda params, sample=sample: params["samples"].update(one=sample))
        params = load_params(tmp_path / "params.yaml")
        if allowed:
            check.check(params)
        else:
            with pytest.raises(
                ValueError, match=r"samples\.one\.steps is 7; allowed with .*variance: optimal .* runs\.vdm\.depths: "
            ):
                check.check(params)
