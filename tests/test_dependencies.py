"""The graph is closed: what can change a number is a dependency of the stage that writes it, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core import code
from pipeline.core.code import ROOT, closure, file_of, imports
from tests.support import dependencies
from tests.support.dependencies import CHOSEN, collapsed, kinds, stages

STAGES = stages()
# What DVC cannot name for one kind only: it looks no list up by a name. An edit there costs more trainings or samples than it
# must, never fewer.
SHARED_BY_SOME = {
    "prepare": ("pipeline/datasets/_",),
    "extractor": ("pipeline/networks/layers.py",),
    "train": ("pipeline/diffusion/", "pipeline/networks/"),
    "sample": ("pipeline/samplers/",),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_names_the_code_it_uses_and_no_more(name: str) -> None:
    named = [dep for dep in STAGES[name]["deps"] if str(dep).startswith("pipeline/")]
    needed = dependencies.code(name)
    assert sorted(named) == sorted([*needed.plain, *needed.templated]), "python -m tests.support.dependencies writes them"
    assert all(file.startswith(SHARED_BY_SOME.get(name, ("none",))) for file in needed.some), needed.some


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in CHOSEN if name in STAGES for kind in kinds(name)])
def test_a_plug_in_is_named_by_its_kind(name: str, kind: str) -> None:
    """The template of a stage comes to the file or folder of the kind, and to nothing of another kind."""
    room, template = CHOSEN[name]
    (templated,) = dependencies.code(name).templated
    path = ROOT / templated.replace(template, kind)
    assert path.exists(), path
    own = [file_of(module) for module in dependencies.modules_of(room, kind, name)]
    assert all((ROOT / file).is_relative_to(path) for file in own)


def test_a_stage_without_an_output_of_its_own_code_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk finds what is imported inside a function; a stage that leaves it out is not what the code says."""
    assert "pipeline.training.loop" in closure("pipeline.train")
    assert "pipeline.validation.expectations" in closure("pipeline.evaluate")
    without = [dep for dep in STAGES["train"]["deps"] if dep != "pipeline/training"]
    monkeypatch.setattr(dependencies, "stages", lambda: {**STAGES, "train": {**STAGES["train"], "deps": without}})
    assert "pipeline/training" in dependencies.code("train").plain


@pytest.mark.parametrize("module", code.INERT)
def test_what_is_left_out_exists(module: str) -> None:
    """A list that names what is no more would let something new of that name through."""
    assert (ROOT / Path(*module.split("."))).is_dir() or (ROOT / file_of(module)).is_file()


def test_modules_that_count_do_not_hide_behind_inert_ones() -> None:
    """What an inert module imports is not looked at through it: it must itself be inert, or lead to no number."""
    for module in sorted(closure("pipeline.check", inert=True)):
        if code.is_inert(module):
            through = [name for name in imports(module) if not code.is_inert(name)]
            assert set(through) <= {"pipeline.core.artifacts", "pipeline.core.contracts"}, (module, through)


def test_a_folder_stands_for_all_its_files() -> None:
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "pipeline" / "validation").rglob("*.py") if file.stat().st_size}
    data = {str(file.relative_to(ROOT)) for file in (ROOT / "pipeline" / "validation").glob("site*") if file.suffix != ".py"}
    assert collapsed(files | data) == ["pipeline/validation"]
    assert "pipeline/validation" not in collapsed(files - {"pipeline/validation/rules.py"})
