"""A study is one new module and one block: a made-up one reaches the comparison and the page, and no other file changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.core import artifacts
from tests.support.mistakes import PROFILE

REPOSITORY = Path(__file__).parents[1]
# Asks for what can be worked out of the data without the model, and measures in no features.
BRIGHTNESS = '''
"""How bright the test images of a class are."""

from typing import Literal

from pipeline.studies.base import Context, Presentation, Quantity, Result, StudyConfig


class Brightness(StudyConfig):
    kind: Literal["brightness"]
    classes: int

    def check(self, params, key):
        if self.classes > 10:
            raise ValueError(f"{key}.classes is {self.classes}; allowed: up to 10")

    def measure(self, context: Context) -> Result:
        images, labels = context.data.images("test"), context.data.labels("test")
        rows = {}
        for label in range(self.classes):
            means = images[labels == label].mean(axis=(1, 2, 3))
            rows[f"class {label}"] = {"of": {"mean": float(means.mean()), "error": float(means.std() / len(means) ** 0.5)}}
        rows["<none>"] = {"count": 7}
        return Result(rows, {"classes": self.classes})

    def present(self, result: Result) -> Presentation:
        quantities = [Quantity("grey level", "of.mean", error="of.error", better="↑", digits=3), Quantity("counted", "count")]
        words = f"{result.measured['classes']} classes."
        return Presentation("Brightness", "class", quantities, words, labels={"class 1": "one"})


Config = Brightness
'''


class Project:
    """A folder with params.yaml, and a copy of the code that has one module more."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.code = folder, folder.with_name("code")
        shutil.copytree(REPOSITORY / "pipeline", self.code / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
        (self.code / "pipeline" / "studies" / "brightness.py").write_text(BRIGHTNESS, encoding="utf-8")
        params = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
        params["runs"] = {"vdm": params["runs"]["vdm"]}
        params["samples"] = {"vdm-ddim-5": params["samples"]["vdm-ddim-5"]}
        params["codecs"], params["composed"], params["bounds"] = {}, {}, {}
        params["studies"]["bright"] = {"kind": "brightness", "run": "vdm", "classes": 3}
        folder.mkdir()
        self.write(params)

    @property
    def params(self) -> dict[str, Any]:
        values: dict[str, Any] = yaml.safe_load((self.folder / "params.yaml").read_text(encoding="utf-8"))
        return values

    def write(self, params: dict[str, Any]) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    def call(self, *command: str, status: int = 0) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.code), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=self.folder, env=environment, text=True, capture_output=True, check=False
        )
        assert done.returncode == status, done.stderr
        return done.stderr

    def text(self, path: str) -> str:
        return (self.folder / path).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """After every stage."""
    made = Project(tmp_path_factory.mktemp("plug-in") / "project")
    for command in (
        ("check",), ("prepare",), ("train", "--extractor", "convnet"), ("train", "vdm"), ("sample", "vdm-ddim-5"),
        ("evaluate", "vdm-ddim-5"), ("baselines",), ("study", "bright"), ("study", "vdm-finite-steps"),
        ("compare",), ("report",),
    ):  # fmt: skip
        made.call(f"pipeline.{command[0]}", *command[1:])
    return made


def test_it_stands_in_the_comparison_and_on_the_page(project: Project) -> None:
    images, labels = (np.load(project.folder / f"data/prepared/test.{name}.npy") for name in ("images", "labels"))
    text, page = project.text("reports/compare.md"), project.text("reports/index.html")
    assert text.index("\n## Brightness\n") < text.index("\n## vdm as a chain of T steps\n"), "in the order of params.yaml"
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    table = lines[lines.index(["class", "grey level ↑", "counted"]) :]
    for line, (label, shown) in zip(table[2:5], enumerate(["class 0", "one", "class 2"]), strict=True):
        means = images[labels == label].mean(axis=(1, 2, 3))
        value = float(f"{means.mean():.3g}")
        assert line[0] == shown
        assert line[1].startswith(f"{value:.3f} ± 0.")
        assert line[1] in page
        assert line[2] == "–"
    assert table[5] == ["<none>", "–", "7"]
    assert "\n3 classes.\n" in text
    assert ">Brightness</h2>" in page
    assert "3 classes." in page
    assert "&lt;none&gt;" in page
    assert "<none>" not in page
    assert page.count('id="study-vdm-finite-steps-figure_1"') == 1
    assert "study-bright-" not in page, "it draws no figure"


def test_what_measures_in_no_features_names_no_extractor(project: Project) -> None:
    bright, steps = (
        artifacts.read_json(project.folder / f"reports/studies/{name}.json") for name in ("bright", "vdm-finite-steps")
    )
    assert bright["measured"].keys() == {"classes", "data", "device"}
    assert "extractor" in steps["measured"]
    assert bright["rows"]["<none>"] == {"count": 7}
    assert sorted(file.name for file in (project.folder / "studies/bright").iterdir()) == ["details.json", "presentation.json"]


def test_its_code_stands_in_its_details_and_in_no_other(project: Project) -> None:
    def code(name: str) -> str:
        project.call("pipeline.study", name)
        return str(artifacts.read_json(project.folder / f"studies/{name}/details.json")["measured"]["code"])

    before = [code(name) for name in ("bright", "vdm-finite-steps")]
    module = project.code / "pipeline" / "studies" / "brightness.py"
    module.write_text(BRIGHTNESS + "\n# another version\n", encoding="utf-8")
    after = [code(name) for name in ("bright", "vdm-finite-steps")]
    module.write_text(BRIGHTNESS, encoding="utf-8")
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_its_refusals_are_those_of_check(project: Project) -> None:
    params = project.params
    for values, message in (
        ({"classes": 11}, "studies.bright.classes is 11; allowed: up to 10"),
        (
            {"kind": "brightnes"},
            "studies.bright.kind is 'brightnes' (did you mean 'brightness'?); allowed: brightness, finite_steps",
        ),
        ({"classes": "3"}, "studies.bright.classes is '3'; allowed: a valid integer"),
    ):
        project.write({**params, "studies": {"bright": {**params["studies"]["bright"], **values}}})
        for command in (("pipeline.check", "--out", "mark"), ("pipeline.study", "bright")):
            said = project.call(*command, status=2)
            assert message in said
            assert said.count("\n") == 1
    project.write(params)


def test_a_comparison_without_the_study_is_refused_by_the_page(project: Project) -> None:
    params = project.params
    project.write({**params, "studies": {**params["studies"], "more": {**params["studies"]["bright"]}}})
    assert "compare.json holds the studies bright, vdm-finite-steps, params.yaml names" in project.call(
        "pipeline.report", status=2
    )
    assert "reports/studies/more.json does not exist; run: dvc repro study@more" in project.call("pipeline.compare", status=2)
    project.write(params)


def test_a_study_in_another_extractor_is_not_compared(project: Project) -> None:
    path = project.folder / "reports/studies/vdm-finite-steps.json"
    before = path.read_text(encoding="utf-8")
    written = artifacts.read_json(path)
    artifacts.write_json(path, {**written, "measured": {**written["measured"], "extractor": "convnet@00000000"}})
    said = project.call("pipeline.compare", status=2)
    path.write_text(before, encoding="utf-8")
    assert "not comparable" in said
    assert "dvc repro baselines study@vdm-finite-steps" in said
