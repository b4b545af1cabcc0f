"""replicate: the statistics against formulas, and no seed trained twice."""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pipeline import bound, prepare, replicate, train
from pipeline.config.load import load_params
from pipeline.core import artifacts, code
from pipeline.core.likelihood_terms import TOTAL_AND_TERMS
from pipeline.reporting.welch import welch
from tests.support.blocks import filled

REPOSITORY = Path(__file__).parents[1]
TRAINING = {
    "steps": 10, "batch": 8, "learning_rate": 0.002, "warmup": 2, "valid_images": 8, "checkpoint_every": 3,
    "precision": "float32",
}  # fmt: skip
NETWORK = {"kind": "unet", "widths": [16], "embedding": 8}
VDM = {"schedule": {"kind": "linear-logsnr", "gamma_min": -8.0, "gamma_max": 5.0}, "network": NETWORK}
DDPM = {"schedule": {"kind": "cosine-beta", "steps": 20}, "prediction": "v", "network": NETWORK}
BOUND = {"split": "test", "images": 6, "times": 4}
PARAMS = filled({
    "data": {"kind": "gaussian", "source": {"shape": [1, 4, 4], "train": 80, "test": 20}},
    "extractors": {
        "inception": {
            "family": "inception", "data": "data/prepared", "seed": 0, "training": None,
            "model": {"weights": "unused", "sha256": "0" * 64},
        },
    },
    "runs": {
        "vdm": {"family": "vdm", "data": "data/prepared", "seed": 77, "model": VDM, "training": TRAINING},
        "ddpm": {"family": "ddpm", "data": "data/prepared", "seed": 77, "model": DDPM, "training": TRAINING},
        "unbounded": {"family": "vdm", "data": "data/prepared", "model": VDM, "training": TRAINING},
        "elsewhere": {"family": "vdm", "data": "data/other", "model": VDM, "training": TRAINING},
        "otherwise": {"family": "vdm", "data": "data/prepared", "model": VDM, "training": TRAINING},
    },
    "samples": {},
    "bounds": {"vdm": BOUND, "ddpm": {**BOUND, "times": 6}, "elsewhere": BOUND, "otherwise": {**BOUND, "seed": 1}},
    "evaluate": {"extractor": "inception"},
})  # fmt: skip


def area(density: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    return float(((density[1:] + density[:-1]) / 2 * np.diff(x)).sum())


def student(x: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """The density of Student's t."""
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    return constant * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)


# Means 2.62 and 2.64; variances 7e-5 and 1e-3 / 2, so that equal variances would give another answer.
LOWER, HIGHER = [2.612, 2.618, 2.63], [2.61, 2.62, 2.64, 2.65, 2.68]


def test_welch_against_its_formulas() -> None:
    found = welch(LOWER, HIGHER)
    a, b = np.var(LOWER, ddof=1) / 3, np.var(HIGHER, ddof=1) / 5
    t = (np.mean(LOWER) - np.mean(HIGHER)) / math.sqrt(a + b)
    degrees = (a + b) ** 2 / (a**2 / 2 + b**2 / 4)  # Welch and Satterthwaite
    assert found.difference == pytest.approx(2.62 - 2.64)
    assert (found.t, found.degrees_of_freedom) == (pytest.approx(t), pytest.approx(degrees))
    x = np.linspace(t, 0, 200_001)
    assert found.p_lower == pytest.approx(0.5 - area(student(x, degrees), x), rel=1e-5)
    reach = (found.high - found.difference) / math.sqrt(a + b)
    x = np.linspace(-reach, reach, 200_001)
    assert area(student(x, degrees), x) == pytest.approx(0.95, abs=1e-6)
    assert found.difference - found.low == pytest.approx(found.high - found.difference)


def test_hedges_g_by_hand() -> None:
    """Variances 1 and 4 pool to 2.5; for 4 degrees of freedom J = gamma(2) / (sqrt(2) gamma(3/2)) = sqrt(2 / pi)."""
    found = welch([1.0, 2.0, 3.0], [3.0, 5.0, 7.0])
    assert found.hedges_g == pytest.approx(-3 / math.sqrt(2.5) * math.sqrt(2 / math.pi))


def test_direction() -> None:
    lower, higher = welch(LOWER, HIGHER), welch(HIGHER, LOWER)
    assert lower.p_lower < 0.2 < 0.8 < higher.p_lower
    assert lower.p_lower + higher.p_lower == pytest.approx(1)
    assert lower.hedges_g == pytest.approx(-higher.hedges_g)
    assert lower.hedges_g < 0
    assert (lower.low, lower.high) == (pytest.approx(-higher.high), pytest.approx(-higher.low))


@pytest.mark.parametrize(
    ("a", "b", "said"), [([1.0], [1.0, 2.0], "1 value"), ([1.0, 1.0], [2.0, 2.0], "differ within a sample")]
)
def test_samples_without_spread_are_refused(a: list[float], b: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        welch(a, b)


def rows(*totals: float) -> list[dict[str, float]]:
    return [
        {"seed": 3 + index, "total": total, "prior": 0.25, "reconstruction": 0.5, "diffusion": total - 0.75}
        for index, total in enumerate(totals)
    ]


def test_comparison_and_its_text() -> None:
    values = {"new": rows(2.5, 2.75), "old": rows(3.0, 3.5)}
    measured = {"split": "test", "images": 11, "seed": 0, "data": "abcd"}
    found = replicate.comparison(("new", "old"), values, measured)
    assert [side["mean"]["total"] for side in found["runs"]] == [2.625, 3.25]
    assert [side["mean"]["diffusion"] for side in found["runs"]] == [1.875, 2.5]
    assert found["runs"][1]["standard_deviation"]["total"] == pytest.approx(0.5 / math.sqrt(2))
    assert found["mean_difference"] == {"total": -0.625, "prior": 0.0, "reconstruction": 0.0, "diffusion": -0.625}
    assert (found["welch"]["difference"], found["welch"]["seeds"]) == (-0.625, 2)
    text = replicate.markdown(found)
    for line in (
        "| new | 3 | 2.5 | 0.25 | 0.5 | 1.75 |",
        "| old | 4 | 3.5 | 0.25 | 0.5 | 2.75 |",
        "| new - old | mean | -0.625 | 0 | 0 | -0.625 |",
    ):
        assert line in text
    assert "the mean total of new is lower than that of old: p = " in text
    assert "11 images of the test split" in text


class Folder:
    """A project of two tiny runs; stages run inside this process, and are counted."""

    def __init__(self, path: Path) -> None:
        self.path, self.called = path, list[tuple[str, ...]]()
        self.write(PARAMS)
        prepare.run(load_params(path / "params.yaml").data, path / "data" / "prepared")

    def write(self, values: dict[str, Any]) -> None:
        (self.path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")

    def call(self, module: str, *arguments: str) -> None:
        self.called.append((module.removeprefix("pipeline."), arguments[arguments.index("--params") - 1]))
        assert importlib.import_module(module).main(list(arguments)) == 0

    def replicate(self, *arguments: str) -> list[tuple[str, ...]]:
        """The stages that were called: (train, folder) and (bound, file)."""
        self.called.clear()
        assert replicate.main([*(arguments or ("vdm", "ddpm", "--seeds", "2", "--first-seed", "3"))]) == 0
        return list(self.called)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRILEMMA_CHECKPOINTS", str(tmp_path / "checkpoints"))
    # Somebody may be editing while tests run.
    monkeypatch.setattr(code, "trained_by", functools.cache(code.trained_by))
    made = Folder(tmp_path)
    monkeypatch.setattr(replicate, "_call", made.call)
    return made


def calls(*names: str) -> list[tuple[str, str]]:
    return [
        call for name in names for call in (("train", f"replicates/{name}"), ("bound", f"replicates/{name}/bound.json"))
    ]  # fmt: skip


ALL = ("vdm-seed-3", "ddpm-seed-3", "vdm-seed-4", "ddpm-seed-4")


def test_no_seed_is_trained_twice(folder: Folder) -> None:
    assert folder.replicate() == calls(*ALL)
    seeds = {name: artifacts.read_json(folder.path / "replicates" / name / "config.json")["run"] for name in ALL}
    for name, run in seeds.items():
        asked = load_params("params.yaml").runs[name.split("-")[0]].model_dump(mode="json")
        assert run == {**asked, "seed": int(name[-1])}, "the seed is overridden, nothing else"
    found = artifacts.read_json("replicates/vdm-against-ddpm.json")
    for side in found["runs"]:
        for row in side["seeds"]:
            bits = artifacts.read_json(f"replicates/{side['run']}-seed-{row['seed']}/bound.json")["bits_per_dim"]
            assert row == {"seed": row["seed"], **{term: bits[term] for term in TOTAL_AND_TERMS}}
    assert found["measured"]["seed"] == 0
    totals = [[row["total"] for row in side["seeds"]] for side in found["runs"]]
    assert len({*totals[0], *totals[1]}) == 4, "each seed is another model"
    assert found["welch"]["difference"] == pytest.approx(np.mean(totals[0]) - np.mean(totals[1]))

    written = {file: file.stat().st_mtime_ns for file in (folder.path / "replicates").glob("*/*")}
    text = (folder.path / "replicates" / "vdm-against-ddpm.md").read_text(encoding="utf-8")
    assert folder.replicate() == []
    assert {file: file.stat().st_mtime_ns for file in (folder.path / "replicates").glob("*/*")} == written
    assert (folder.path / "replicates" / "vdm-against-ddpm.md").read_text(encoding="utf-8") == text
    # Another seed trains itself alone; the other way round trains nothing.
    assert folder.replicate("vdm", "ddpm", "--seeds", "3", "--first-seed", "3") == calls("vdm-seed-5", "ddpm-seed-5")
    assert folder.replicate("ddpm", "vdm", "--seeds", "3", "--first-seed", "3") == []
    other = artifacts.read_json("replicates/ddpm-against-vdm.json")["welch"]
    same = artifacts.read_json("replicates/vdm-against-ddpm.json")["welch"]
    assert other["difference"] == pytest.approx(-same["difference"])
    assert other["p_lower"] == pytest.approx(1 - same["p_lower"])


def test_what_changed_is_made_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.replicate()
    values = json.loads(json.dumps(PARAMS))
    values["runs"]["ddpm"]["training"]["learning_rate"] = 0.004
    folder.write(values)
    before = Path("replicates/ddpm-seed-3/model.safetensors").read_bytes()
    assert folder.replicate() == calls("ddpm-seed-3", "ddpm-seed-4")
    assert Path("replicates/ddpm-seed-3/model.safetensors").read_bytes() != before
    # Another measurement of the same models.
    values["bounds"]["vdm"]["times"] = 8
    folder.write(values)
    assert folder.replicate() == [("bound", f"replicates/vdm-seed-{seed}/bound.json") for seed in (3, 4)]
    # A training that did not write everything.
    Path("replicates/vdm-seed-4/timing.json").unlink()
    assert folder.replicate() == calls("vdm-seed-4")
    # Other code.
    monkeypatch.setattr(code, "trained_by", lambda family: f"another {family}")
    monkeypatch.setattr(replicate, "_call", lambda *arguments: folder.called.append(arguments[:2]))
    with pytest.raises(ValueError, match="changed meanwhile"):
        replicate.run(Path("params.yaml"), ("vdm", "ddpm"), range(3, 5), Path("replicates"))
    assert folder.called[-1] == ("pipeline.train", "vdm")
    # Other data.
    monkeypatch.undo()
    monkeypatch.chdir(folder.path)
    values["data"]["source"]["seed"] = 1
    folder.write(values)
    cfg = load_params("params.yaml").runs["ddpm"].model_copy(update={"seed": 3})
    assert replicate.trained(cfg, Path("replicates/ddpm-seed-3"))
    prepare.run(load_params("params.yaml").data, folder.path / "data" / "prepared")
    assert not replicate.trained(cfg, Path("replicates/ddpm-seed-3"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("vdm", "ddpm", "--seeds", "1"), "--seeds is 1; allowed: 2 or more"),
        (("vdm", "ddpm", "--seeds", "-3"), "--seeds is -3; allowed: 2 or more"),
        (("vdm", "ddpm", "--first-seed", "-1"), "--first-seed is -1; allowed: 0 or more"),
        (("vdm", "vdm"), "both runs are 'vdm'; name two different runs"),
        (("vdm", "ddmp"), "runs has no 'ddmp'; allowed: ddpm, "),
        (("unbounded", "vdm"), "bounds has no 'unbounded'"),
        (("vdm", "elsewhere"), "runs.vdm.data is data/prepared, runs.elsewhere.data is data/other"),
        (("vdm", "otherwise"), "bounds.vdm.seed is 0, bounds.otherwise.seed is 1"),
    ],
)
def test_refusals(folder: Folder, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert replicate.main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1
    assert folder.called == []
    assert not (folder.path / "replicates").exists()


@pytest.mark.parametrize(
    ("main", "arguments", "said"),
    [
        (train.main, ["vdm", "--seed", "1"], "error: --seed is 1 without --out"),
        (train.main, ["vdm", "--seed", "-1", "--out", "x"], "error: runs.vdm.seed is -1; allowed: greater than or equal to 0"),
        (bound.main, ["vdm", "--model", "x"], "error: --model is x without --out"),
    ],
)
def test_options_that_would_mix_results_are_refused(
    folder: Folder, main: Any, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(said)
    assert not (folder.path / "runs").exists()


def start(code: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pipeline.replicate", "vdm", "ddpm", "--seeds", "2"]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def until(process: subprocess.Popen[str], pattern: str) -> None:
    end = time.monotonic() + 120
    while not list(Path(".").glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {pattern}"
        time.sleep(0.005)


@pytest.mark.slow
def test_killed_and_terminated_it_goes_on(folder: Folder) -> None:
    """In processes of its own: killed with its training after the first seed, then told to end in the second."""
    code = folder.path / "code"
    shutil.copytree(REPOSITORY / "pipeline", code / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    killed = start(code)
    until(killed, "replicates/vdm-seed-0/bound.json")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    first = Path("replicates/vdm-seed-0/model.safetensors").stat().st_mtime_ns
    assert not Path("replicates/vdm-against-ddpm.json").exists()

    # Long enough to be caught: the second run now has as many steps as it takes.
    values = json.loads(json.dumps(PARAMS))
    values["runs"]["ddpm"]["training"]["steps"] = 100_000
    folder.write(values)
    ended = start(code)
    until(ended, "checkpoints/*/newest.safetensors")
    ended.terminate()
    out, _ = ended.communicate(timeout=120)
    assert ended.returncode == 143
    assert "runs.ddpm: told to end; checkpoint at step" in out
    assert "vdm-seed-0: kept" in out

    folder.write(PARAMS)
    assert folder.replicate("vdm", "ddpm", "--seeds", "2") == calls("ddpm-seed-0", "vdm-seed-1", "ddpm-seed-1")
    assert Path("replicates/vdm-seed-0/model.safetensors").stat().st_mtime_ns == first
    assert [len(side["seeds"]) for side in artifacts.read_json("replicates/vdm-against-ddpm.json")["runs"]] == [2, 2]
