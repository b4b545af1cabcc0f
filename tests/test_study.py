"""Studies from end to end: a tiny run and extractor, trained by the stages, then measured."""

from __future__ import annotations

import copy
import csv
import json
import re
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
NETWORK = {"kind": "unet", "widths": [16], "blocks": 1, "embedding": 8, "dropout": 0.0, "fourier": []}
TRAINING = {"steps": 12, "batch": 16, "learning_rate": 0.002, "warmup": 2, "valid_images": 16, "precision": "float32"}
STEPS = [2, 5, 12]


def block(**model: Any) -> dict[str, Any]:
    model = {"schedule": LOGSNR, "network": NETWORK, "labels": False, "label_dropout": 0.1, **model}
    shared = {"data": "data/prepared", "seed": 0, "optimal_variance_steps": STEPS, "training": TRAINING}
    return {"family": "diffenc", "model": model, **shared}


def write_params(folder: Path, params: dict[str, Any]) -> None:
    """Every value written out: params.yaml may have no aliases."""
    dumper = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda self, data: True})
    (folder / "params.yaml").write_text(yaml.dump(params, Dumper=dumper), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """params.yaml with a VDM and both encoders of DiffEnc, the data, the extractor and the runs."""
    folder = tmp_path_factory.mktemp("study") / "project"
    folder.mkdir()
    params = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    params["extractors"]["convnet"]["training"] = TRAINING
    params["runs"] = {
        "vdm": {**block(prediction="v"), "family": "vdm"},
        "diffenc": block(
            kind="trainable", dropout_masks="shared", encoder={"widths": [16], "blocks": 1, "patch": 2, "dropout": 0.0}
        ),
        "diffenc-nt": block(kind="non-trainable", dropout_masks="shared"),
    }
    params["bounds"], params["samples"], params["composed"] = {}, {}, {}
    measured = {"images": 30, "times": 4, "samples": 40, "seed": 0}
    params["studies"] = {f"{run}-steps": {"kind": "finite_steps", "run": run, **measured} for run in params["runs"]}
    write_params(folder, params)
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
def test_every_chain_is_measured_and_the_limit_has_no_distance(run: str, here: Path) -> None:
    assert study.main([f"{run}-steps"]) == 0
    written = json.loads((here / f"reports/studies/{run}-steps.json").read_text(encoding="utf-8"))
    table = written["rows"]
    assert list(table) == ["2", "5", "12", "inf"]
    for steps, choices in table.items():
        assert list(choices) == ["posterior", "optimal"]
        for row in choices.values():
            assert set(row) == {"bits_per_dim", "standard_error", *(() if steps == "inf" else ("fd",))}
            assert np.isfinite(list(row.values())).all()
            assert row["standard_error"] > 0
    assert table["inf"]["posterior"] == table["inf"]["optimal"]
    # The variance makes up for what the mean of few steps misses; more steps need it less.
    gains = [table[str(steps)]["posterior"]["bits_per_dim"] - table[str(steps)]["optimal"]["bits_per_dim"] for steps in STEPS]
    assert gains[0] > gains[1] > gains[2] > 0
    assert table["2"]["posterior"]["fd"] != table["2"]["optimal"]["fd"]
    assert written["measured"]["images"] == 30
    assert written["measured"]["samples"] == 40
    assert written["measured"]["extractor"].startswith("convnet@")
    assert written["measured"].keys() == {"images", "times", "samples", "data", "extractor", "device"}


@pytest.mark.parametrize("run", ["vdm", "diffenc", "diffenc-nt"])
def test_the_plot_has_every_number_once(run: str, here: Path) -> None:
    """A panel for bits/dim and one for FD, which the limit of infinitely many steps does not have."""
    assert study.main([f"{run}-steps"]) == 0
    table = json.loads((here / f"reports/studies/{run}-steps.json").read_text(encoding="utf-8"))["rows"]
    with (here / f"reports/studies/{run}-steps.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 + 2 * 3
    for row in rows:
        held = table["inf" if row["row"] == "∞" else row["row"]][row["series"].split()[0]]
        quantity = {"bits/dim by steps T": "bits_per_dim", "FD by steps T": "fd"}[row["panel"]]
        assert float(row["value"]) == held[quantity]
        assert row["standard_error"] == (str(held["standard_error"]) if quantity == "bits_per_dim" else "")
    assert len({(row["panel"], row["series"], row["row"]) for row in rows}) == len(rows)


def test_details_are_unrounded_and_say_what_made_them(here: Path) -> None:
    assert study.main(["vdm-steps"]) == 0
    details = artifacts.read_json(here / "studies/vdm-steps/details.json")
    rounded = artifacts.read_json(here / "reports/studies/vdm-steps.json")["rows"]
    for steps, choices in rounded.items():
        for choice, row in choices.items():
            for name, value in row.items():
                exact = details["rows"][steps][choice][name]
                assert value == pytest.approx(exact, rel={"bits_per_dim": 5e-5, "standard_error": 5e-2, "fd": 5e-4}[name])
                assert len(str(exact)) > 10
    measured = details["measured"]
    assert measured["study"] == yaml.safe_load((here / "params.yaml").read_text(encoding="utf-8"))["studies"]["vdm-steps"]
    assert measured["weights"] == artifacts.hash_file(here / "runs/vdm/model.safetensors")
    assert measured["data"] == artifacts.read_json(here / "data/prepared/spec.json")["hash"]
    assert measured["extractor"] == {
        "name": "convnet", "hash": artifacts.hash_file(here / "extractors/convnet/model.safetensors")
    }  # fmt: skip
    assert len(measured["code"]) == 64


def test_the_study_is_reproducible(here: Path) -> None:
    found = []
    for _ in range(2):
        assert study.main(["vdm-steps"]) == 0
        files = [here / "reports/studies/vdm-steps.json", *sorted((here / "studies/vdm-steps").iterdir())]
        assert [file.name for file in files[1:]] == ["details.json", "figure.svg", "presentation.json"]
        found.append([file.read_bytes() for file in files])
    assert found[0] == found[1]


def test_variances_are_stored_with_the_model(here: Path) -> None:
    """One for each step, above the posterior's, which the schedule gives."""
    table = artifacts.read_json(here / "runs/vdm/variance.json")
    assert list(table) == [str(steps) for steps in STEPS]
    for steps, values in table.items():
        gamma = LOGSNR["gamma_max"] - 10.0 * np.arange(int(steps) + 1) / int(steps)
        posterior = (1 - np.exp(gamma[1:] - gamma[:-1])) / (1 + np.exp(-gamma[1:]))
        assert len(values) == int(steps)
        assert (np.array(values) > posterior).all()


def edited(folder: Path, change: Any) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    changed = copy.deepcopy(params)
    change(changed)
    write_params(folder, changed)


FIXED = {"schedule": {"kind": "cosine-beta", "steps": 5, "offset": 0.008}, "network": NETWORK}
# What is done to the parameters, and what is said of it, whether by the stage `check` or by the study itself.
MISTAKES: list[tuple[Any, str]] = [
    (
        lambda params: params["studies"]["vdm-steps"].update(kind="finite_step"),
        "studies.vdm-steps.kind is 'finite_step' (did you mean 'finite_steps'?); allowed: finite_steps",
    ),
    (lambda params: params["studies"]["vdm-steps"].pop("kind"), "studies.vdm-steps.kind is missing; it is required"),
    (
        lambda params: params["studies"]["vdm-steps"].update(run="vdn"),
        "studies.vdm-steps.run is 'vdn' (did you mean 'vdm'?); allowed: diffenc, diffenc-nt, vdm",
    ),
    (
        lambda params: params["runs"]["vdm"].pop("optimal_variance_steps"),
        "studies.vdm-steps studies a run without optimal_variance_steps; add runs.vdm.optimal_variance_steps, such as [4",
    ),
    (
        lambda params: params["runs"]["vdm"].update(optimal_variance_steps=[0]),
        "runs.vdm.optimal_variance_steps.0 is 0; allowed: greater than 0",
    ),
    (
        lambda params: params["studies"]["vdm-steps"].update(times=1),
        "studies.vdm-steps.times is 1; allowed: greater than or equal to 2",
    ),
    (lambda params: params["studies"]["vdm-steps"].pop("seed"), "studies.vdm-steps.seed is missing; it is required"),
    (
        lambda params: params["studies"]["vdm-steps"].update(sample=2),
        "studies.vdm-steps.sample is not a known key (did you mean 'samples'?)",
    ),
    (
        lambda params: params["runs"].update(vdm=fixed(params)),
        "studies.vdm-steps.run is 'vdm', whose family ddpm is no chain of any number of steps with a bound for each; allowed: "
        "runs of families that are, such as vdm",
    ),
    (
        lambda params: params["runs"]["vdm"].update(data="data/latents/kl"),
        "studies.vdm-steps.run is 'vdm', whose data data/latents/kl are latents: bits/dim needs discrete data",
    ),
]


def fixed(params: dict[str, Any]) -> dict[str, Any]:
    """A DDPM, whose T is part of what it learned, without variances for others."""
    run = {name: value for name, value in params["runs"]["vdm"].items() if name != "optimal_variance_steps"}
    rest = {
        "prediction": "v", "variance": "small", "objective": "simple", "vlb_weight": 0.001, "time_sampling": "uniform",
        "labels": False, "label_dropout": 0.1,
    }  # fmt: skip
    return {**run, "family": "ddpm", "model": {**FIXED, **rest}}


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_refusals(change: Any, message: str, project: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    shutil.copy(project / "params.yaml", tmp_path / "params.yaml")
    edited(tmp_path, change)
    monkeypatch.chdir(tmp_path)
    for command, arguments in ((study, ["vdm-steps"]), (check, ["--out", str(tmp_path / "mark")])):
        assert command.main(arguments) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_a_study_that_nobody_described_is_refused(here: Path, capsys: Any) -> None:
    assert study.main(["vdm"]) == 2
    assert capsys.readouterr().err == "error: studies has no 'vdm'; allowed: diffenc-nt-steps, diffenc-steps, vdm-steps\n"


def test_other_data_than_the_run_was_trained_on_are_refused(
    project: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("studies"))
    monkeypatch.chdir(folder)
    edited(folder, lambda params: params["data"].update(seed=1))
    assert prepare.main([]) == 0
    assert study.main(["vdm-steps"]) == 2
    assert re.search("runs/vdm was trained on data .*, data/prepared is .*; run: dvc repro train@vdm", capsys.readouterr().err)
    assert not (folder / "reports/studies").exists()


def test_variances_for_a_chain_of_fixed_length_are_refused(project: Path, tmp_path: Path) -> None:
    """DDPM's T is part of what it learned."""
    file = tmp_path / "params.yaml"
    shutil.copy(project / "params.yaml", file)
    edited(tmp_path, lambda params: params["runs"].update(vdm={**fixed(params), "optimal_variance_steps": STEPS}))
    with pytest.raises(
        ValueError, match=r"runs\.vdm\.optimal_variance_steps is given, but the family ddpm has a fixed number of steps"
    ):
        check.check(load_params(file))


def test_samples_with_variances_that_nobody_estimated_are_refused(project: Path, tmp_path: Path) -> None:
    """`variance: optimal` goes with a number of steps among the run's optimal_variance_steps."""
    shutil.copy(project / "params.yaml", tmp_path / "params.yaml")
    for steps, allowed in ((5, True), (7, False)):
        sampler = {"kind": "ancestral", "variance": "optimal"}
        sample = {"run": "vdm", "sampler": sampler, "steps": steps, "images": 60, "seed": 0}
        edited(tmp_path, lambda params, sample=sample: params["samples"].update(one=sample))
        params = load_params(tmp_path / "params.yaml")
        if allowed:
            check.check(params)
        else:
            with pytest.raises(
                ValueError,
                match=r"one\.steps is 7; allowed with .*variance: optimal .* runs\.vdm\.optimal_variance_steps: 2, 5, 12",
            ):
                check.check(params)
