"""The pipeline from end to end, by `dvc repro` on the tiny profile, in a copy of the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
PROFILE = REPOSITORY / "tests" / "profiles" / "tiny.yaml"
# Results of the repository's own parameters, which a copy makes anew.
RESULTS = (
    "dvc.lock", "reports/", "runs/", "extractors/", "codecs/", "samples/", "evaluations/",
    "bounds/", "studies/", "validation_docs/", "data/prepared/",
    "data/latents/",
)  # fmt: skip


class Project:
    """A copy of the repository in which DVC works, apart from the user's settings and caches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "TRILEMMA_"))}
        self.environment = {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "DVC_NO_ANALYTICS": "1",
            "DVC_GLOBAL_CONFIG_DIR": str(folder.parent / "dvc-settings"),
            "DVC_SYSTEM_CONFIG_DIR": str(folder.parent / "dvc-settings"),
            "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc-site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            **{f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }

    def call(self, *command: str, status: int | None = 0) -> str:
        """What the command printed, with what it said on stderr behind it; fails unless it ended with `status`."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, text=True, capture_output=True, check=False, timeout=900
        )
        said = done.stdout + done.stderr
        assert status is None or done.returncode == status, said
        return said

    def dvc(self, *arguments: str, status: int | None = 0) -> str:
        return self.call(sys.executable, "-m", "dvc", *arguments, status=status)

    def dvc_json(self, *arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder,
            env=self.environment,
            text=True,
            capture_output=True,
            check=True,
        )
        return json.loads(done.stdout)

    def commit(self) -> None:
        self.call("git", "add", "--all")
        self.call("git", "commit", "--quiet", "--message", "state")

    def copy(self, folder: Path) -> Project:
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    @property
    def params(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "params.yaml").read_text(encoding="utf-8"))

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def ran(output: str) -> list[str]:
    """The stages that DVC ran, in order."""
    return re.findall(r"^Running stage '([^']+)'", output, flags=re.MULTILINE)


def stages(params: dict[str, Any]) -> set[str]:
    """The stages that a parameter file asks for: one of each name of the block that a stage repeats over."""
    found = set()
    for stage, body in yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        if "foreach" in body:
            found |= {f"{stage}@{name}" for name in params[body["foreach"].strip("${}")]}
        else:
            found.add(stage)
    return found


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The repository with the tiny profile for parameters, as the first commit of a new git repository; nothing has run."""
    folder = tmp_path_factory.mktemp("pipeline") / "project"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in listed.split("\0"):
        if name and not name.startswith(RESULTS) and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    shutil.copy(PROFILE, folder / "params.yaml")
    project = Project(folder)
    project.call("git", "init", "--quiet")
    project.commit()
    return project


@pytest.fixture(scope="module")
def done(empty: Project) -> Project:
    """After the first `dvc repro`, committed."""
    project = empty.copy(empty.folder.with_name("done"))
    output = project.dvc("repro")
    assert sorted(ran(output)) == sorted(stages(project.params))
    project.commit()
    return project


@pytest.fixture(scope="module")
def changed(done: Project) -> tuple[Project, str]:
    """After another learning rate for one run, `dvc repro` and a commit; and what that `dvc repro` printed."""
    project = done.copy(done.folder.with_name("changed"))
    before, vdm, after = PROFILE.read_text(encoding="utf-8").partition("  vdm:\n")
    other = before + vdm + after.replace("learning_rate: 0.002", "learning_rate: 0.005", 1)
    (project.folder / "params.yaml").write_text(other, encoding="utf-8")
    rates = {name: run["training"]["learning_rate"] for name, run in project.params["runs"].items()}
    assert rates == {**dict.fromkeys(rates, 0.002), "vdm": 0.005}
    output = project.dvc("repro")
    project.commit()
    return project, output


@pytest.mark.parametrize("file", [REPOSITORY / "params.yaml", PROFILE])
def test_every_name_in_the_parameters_has_its_stages(file: Path, empty: Project, tmp_path: Path) -> None:
    project = empty.copy(tmp_path / "project")
    shutil.copy(file, project.folder / "params.yaml")
    listed = set(project.dvc("stage", "list", "--all", "--name-only").split())
    promised = {
        "extractor": "extractors", "codec": "codecs", "encode": "codecs", "train": "runs", "compose": "composed",
        "sample": "samples", "evaluate": "samples", "bound": "bounds", "study": "studies",
    }  # fmt: skip
    assert {f"{stage}@{name}" for stage, block in promised.items() for name in project.params[block]} <= listed
    assert {"check", "prepare", "validate", "baselines", "compare", "report"} <= listed
    assert listed == stages(project.params)


@pytest.mark.slow
def test_everything_declared_is_there(done: Project) -> None:
    lock = yaml.safe_load((done.folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert lock.keys() == stages(done.params)
    outputs = [out["path"] for stage in lock.values() for out in stage["outs"]]
    assert len(outputs) == len(set(outputs))
    for path in outputs:
        assert (done.folder / path).exists(), path
    for run in [*done.params["runs"], *done.params["composed"]]:
        assert (done.folder / "runs" / run / "model.safetensors").is_file()
    assert not list(done.folder.glob(".checkpoints/*/*.safetensors")), "finished runs leave no checkpoints"


@pytest.mark.slow
def test_metrics_have_the_promised_keys(done: Project) -> None:
    params = done.params
    for name, sample in params["samples"].items():
        metrics = done.json(f"reports/metrics/{name}.json")
        assert metrics["quality"].keys() == {"fd", "kid", "precision", "density", "inception_score"}
        assert metrics["diversity"].keys() == {"recall", "coverage"}
        assert metrics["speed"].keys() == {"network_evaluations", "images_per_second"}
        steps, guided = sample["steps"], sample.get("guidance") is not None
        evaluations = 2 * steps - 1 if sample["sampler"]["kind"] == "heun" else steps
        assert metrics["speed"]["network_evaluations"] == evaluations * (2 if guided else 1)
        assert metrics["measured"]["images"] == sample["images"]
    for run in params["bounds"]:
        bits = done.json(f"reports/bounds/{run}.json")["bits_per_dim"]
        assert bits.keys() == {"total", "prior", "reconstruction", "diffusion", "standard_error"}
        assert bits["total"] == pytest.approx(bits["prior"] + bits["reconstruction"] + bits["diffusion"], rel=1e-3)
    baselines = done.json("reports/metrics/baselines.json")
    assert baselines["training-images"]["quality"]["fd"] < baselines["noise"]["quality"]["fd"]
    comparison = done.json("reports/compare.json")
    assert [row["sample"] for row in comparison["samples"]] == list(params["samples"])
    assert [row["run"] for row in comparison["bounds"]] == list(params["bounds"])
    assert list(comparison["studies"]) == list(params["studies"])


@pytest.mark.slow
def test_small_results_are_in_git_and_large_ones_are_not(done: Project) -> None:
    tracked = set(done.call("git", "ls-files").split("\n"))
    small = {f"reports/metrics/{name}.json" for name in [*done.params["samples"], "baselines"]}
    small |= {f"reports/bounds/{run}.json" for run in done.params["bounds"]} | {"reports/compare.json", "reports/compare.md"}
    small |= {f"reports/studies/{name}.json" for name in done.params["studies"]}
    assert small | {"dvc.lock"} <= tracked
    large = {name for name in tracked if name.endswith((".npy", ".safetensors"))}
    assert large == set()
    assert done.call("git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_second_repro_does_nothing(done: Project) -> None:
    output = done.dvc("repro")
    assert ran(output) == []
    assert "Data and pipelines are up to date." in output
    assert done.call("git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_a_fresh_clone_says_whether_the_lock_fits(done: Project, tmp_path: Path) -> None:
    """Without results, cache or remote: every stage fits, until the code of one of them has changed."""
    assert "dvc.lock fits" in done.call(".ci/locked")
    project = done.copy(tmp_path / "project")
    with (project.folder / "pipeline" / "bound.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    project.commit()
    said = project.call(".ci/locked", status=1)
    named = {line.strip() for line in said.splitlines() if line.startswith("  ")}
    assert named
    assert {name.partition("@")[0] for name in named} == {"bound"}


@pytest.mark.slow
def test_one_run_changes_nothing_else(changed: tuple[Project, str]) -> None:
    project, output = changed
    asked = {**project.params["samples"], **project.params["studies"]}
    names = {"vdm", *(name for name, block in asked.items() if block["run"] == "vdm")}
    expected = {stage for stage in stages(project.params) if stage.partition("@")[2] in names}
    assert {"train@vdm", "sample@vdm-ddim-5", "evaluate@vdm-ddim-5", "bound@vdm", "study@vdm-finite-steps"} <= expected
    assert sorted(ran(output)) == sorted(expected | {"check", "compare", "report"})


@pytest.mark.slow
def test_metrics_diff_shows_the_change(changed: tuple[Project, str]) -> None:
    project, _ = changed
    files = project.dvc_json("metrics", "diff", "HEAD~1", "HEAD", "--json")
    bits = files["reports/bounds/vdm.json"]["bits_per_dim.total"]
    assert bits["new"] == project.json("reports/bounds/vdm.json")["bits_per_dim"]["total"]
    assert bits["diff"] == pytest.approx(bits["new"] - bits["old"])
    assert bits["diff"] != 0
    assert "quality.fd" in files["reports/metrics/vdm-ddim-5.json"]
    assert not any("ddpm" in name for name in files), "the other run did not move"
    table = project.dvc("metrics", "diff", "HEAD~1", "HEAD")
    assert re.search(r"reports/bounds/vdm\.json +bits_per_dim\.total", table)


@pytest.mark.slow
def test_plots_diff_shows_both_curves(changed: tuple[Project, str]) -> None:
    project, _ = changed
    project.dvc("plots", "diff", "HEAD~1", "HEAD", "--out", "plots")
    page = (project.folder / "plots" / "index.html").read_text(encoding="utf-8")
    for title in ("run vdm: training curve", "run vdm: where the bits go"):
        assert title in page
    assert "<script src" not in page, "the page needs no network"
    points = set(re.findall(r'"rev": "([^"]+)"', page))
    assert {"HEAD~1", "HEAD"} <= points


def test_misspelt_family_ends_before_any_work(empty: Project, tmp_path: Path) -> None:
    project = empty.copy(tmp_path / "project")
    text = PROFILE.read_text(encoding="utf-8")
    assert text.count("family: vdm") == 1
    (project.folder / "params.yaml").write_text(text.replace("family: vdm", "family: vmd"), encoding="utf-8")
    output = project.dvc("repro", status=None)
    assert ran(output) == ["check"]
    assert "error: params.yaml: runs.vdm.family is 'vmd' (did you mean 'vdm'?); allowed: autoencoder, classifier" in output
    assert "failed to reproduce 'check'" in output
    assert "Traceback" not in output
    assert not (project.folder / "data" / "prepared").exists()


# What the clock says, and what follows from it: who is dominated is a matter of speed too.
SPEED = {"images_per_second", "images_per_second_low", "images_per_second_high", "front", "dominated_by", "conclusion"}


def without_speed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_speed(inner) for key, inner in value.items() if key not in SPEED}
    return [without_speed(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_fresh_clone_gives_the_same_numbers(done: Project, tmp_path: Path) -> None:
    """A clone has no cache and no remote; without the results that are in git it has to make every single one."""
    done.call("git", "clone", "--quiet", ".", str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    shutil.rmtree(clone.folder / "reports")
    assert sorted(ran(clone.dvc("repro"))) == sorted(stages(done.params))
    compared = sorted(file.relative_to(done.folder) for file in (done.folder / "reports").rglob("*.json"))
    assert compared == sorted(file.relative_to(clone.folder) for file in (clone.folder / "reports").rglob("*.json"))
    assert {Path(f"reports/metrics/{name}.json") for name in done.params["samples"]} <= set(compared)
    assert {Path(f"reports/bounds/{name}.json") for name in done.params["bounds"]} <= set(compared)
    for file in compared:
        assert without_speed(clone.json(str(file))) == without_speed(done.json(str(file))), file
    same = [*done.folder.glob("runs/*/model.safetensors"), *done.folder.glob("samples/*/images.npy")]
    same += [*done.folder.glob("codecs/*/model.safetensors"), *done.folder.glob("data/latents/*/train.images.npy")]
    params = done.params
    assert len(same) == sum(len(params[block]) for block in ("runs", "composed", "samples")) + 2 * len(params["codecs"])
    for path in same:
        assert (clone.folder / path.relative_to(done.folder)).read_bytes() == path.read_bytes(), path
