"""What `check` refuses before training, `sample` refuses by hand, in the same words, and makes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import check, sample
from tests.support.project import Project, values


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.make(tmp_path_factory.mktemp("fits") / "project")


ANCESTRAL = {"kind": "ancestral", "clip": True, "spacing": "trailing", "variance": "optimal"}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "guidance without labels": (
        {"guidance": 2.0},
        "samples.vdm-ddim-5.guidance is 2.0; allowed for the run 'vdm': null, as the run is trained without labels",
    ),
    "variances that nobody estimated": (
        {"sampler": ANCESTRAL, "steps": 4},
        "samples.vdm-ddim-5.steps is 4; allowed with variance: optimal are numbers of steps whose variances are stored with "
        "the model, runs.vdm.optimal_variance_steps: 3, 5",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_by_hand_as_by_check(mistake: str, project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, sentence = MISTAKES[mistake]
    content = values()
    content["samples"]["vdm-ddim-5"] |= change
    project.write(content)
    before = project.file("samples/vdm-ddim-5/images.npy").read_bytes()
    for main, arguments in ((check.main, ["--out", str(tmp_path / "checked")]), (sample.main, ["vdm-ddim-5"])):
        assert project.run(main, *arguments) == 2
        assert capsys.readouterr().err == f"error: {sentence}\n"
    assert project.file("samples/vdm-ddim-5/images.npy").read_bytes() == before


def test_the_optimal_variances_of_the_model_are_used(project: Project) -> None:
    """A sampler that asks for them gets other images than one with the model's own."""
    made = []
    for variance in ("optimal", "small"):
        content = values()
        content["samples"]["vdm-ddim-5"] |= {"sampler": {**ANCESTRAL, "variance": variance}, "steps": 5}
        project.write(content)
        assert project.run(sample.main, "vdm-ddim-5") == 0
        made.append(project.file("samples/vdm-ddim-5/images.npy").read_bytes())
    assert made[0] != made[1]
