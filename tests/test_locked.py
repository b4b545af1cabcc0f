"""`make locked`: whether dvc.lock fits the commit, asked of a small repository in which every stage is a shell command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LOCKED = Path(__file__).parents[1] / ".ci" / "locked"
STAGES = """
stages:
  train:
    foreach: ${runs}
    do:
      cmd: mkdir -p runs/${key} && cat code/*.txt in.txt > runs/${key}/model
      deps: [code, in.txt]
      params: ["runs.${key}"]
      outs: ["runs/${key}"]
  sample:
    cmd: cat runs/one/model > sample.txt
    deps: [runs/one]
    outs:
      - sample.txt: {cache: false}
  compare:
    cmd: cat runs/*/model sample.txt > compare.txt
    deps: [runs, sample.txt]
    metrics:
      - compare.txt: {cache: false}
"""


class Repository:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
        self.environment = {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_GLOBAL_CONFIG_DIR": str(folder.parent / "dvc-settings"),
            "DVC_SYSTEM_CONFIG_DIR": str(folder.parent / "dvc-settings"),
            "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc-site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "TMPDIR": str(folder.parent / "tmp"),
            **{f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.folder, env=self.environment, text=True, capture_output=True, check=False)

    def commit(self) -> None:
        for command in (("git", "add", "--all"), ("git", "commit", "--quiet", "--message", "state")):
            done = self.call(*command)
            assert done.returncode == 0, done.stderr

    def edit(self, name: str, before: str, after: str) -> None:
        text = (self.folder / name).read_text(encoding="utf-8")
        assert text.count(before) == 1
        (self.folder / name).write_text(text.replace(before, after), encoding="utf-8")

    def locked(self) -> tuple[int, list[str]]:
        """The exit status, and the stages that it names."""
        done = self.call(".ci/locked")
        assert list((self.folder.parent / "tmp").iterdir()) == [], "nothing is left behind"
        if done.returncode == 0:
            assert done.stdout == "dvc.lock fits: no stage would run\n"
        return done.returncode, [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """After `dvc repro`, committed: results are in DVC's cache, which a clone lacks."""
    folder = tmp_path_factory.mktemp("locked") / "repository"
    for name, text in {
        "dvc.yaml": STAGES, "params.yaml": "runs:\n  one: {steps: 1}\n  two: {steps: 2}\n", "in.txt": "in\n",
        "code/a.txt": "a\n", "code/b.txt": "b\n", ".gitignore": "/runs/\n",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder.parent / "tmp").mkdir()
    (folder / ".ci").mkdir()
    shutil.copy(LOCKED, folder / ".ci" / "locked")
    repository = Repository(folder)
    for command in (("git", "init", "--quiet"), ("dvc", "init", "--quiet"), ("dvc", "repro", "--quiet")):
        done = repository.call(*command)
        assert done.returncode == 0, done.stderr
    repository.commit()
    return repository


@pytest.fixture
def repository(made: Repository, tmp_path: Path) -> Repository:
    (tmp_path / "tmp").mkdir()
    return Repository(shutil.copytree(made.folder, tmp_path / "repository"))


def test_a_lock_that_fits(repository: Repository) -> None:
    """Also of a clone, which has no results; and what is not committed does not count."""
    assert repository.locked() == (0, [])
    repository.edit("in.txt", "in", "other")
    shutil.rmtree(repository.folder / "runs")
    assert repository.locked() == (0, [])


def test_a_change_that_was_not_reproduced(repository: Repository) -> None:
    repository.edit("params.yaml", "steps: 2", "steps: 3")
    repository.commit()
    status, stages = repository.locked()
    assert status == 1
    assert "train@two" in stages
    assert not {"train@one", "sample"} & set(stages)
    assert repository.call("dvc", "repro", "--quiet").returncode == 0
    repository.commit()
    assert repository.locked() == (0, [])


@pytest.mark.parametrize(
    ("name", "before", "after", "first"),
    [
        ("code/a.txt", "a", "b", "train@one"),
        ("compare.txt", "b", "c", "compare"),
        ("dvc.yaml", "> sample.txt", "| cat > sample.txt", "sample"),
        ("dvc.lock", "train@two:", "train@three:", "train@two"),
    ],
)
def test_what_git_holds_does_not_fit(repository: Repository, name: str, before: str, after: str, first: str) -> None:
    """Code, a result, a command, and a lock without the stage."""
    file = repository.folder / name
    file.write_text(file.read_text(encoding="utf-8").replace(before, after, 1), encoding="utf-8")
    repository.commit()
    status, stages = repository.locked()
    assert status == 1
    assert stages[0] == first


def test_a_graph_that_dvc_cannot_read(repository: Repository) -> None:
    (repository.folder / "dvc.yaml").write_text("stages: [\n", encoding="utf-8")
    repository.commit()
    done = repository.call(".ci/locked")
    assert done.returncode == 1
    assert "can't say whether dvc.lock fits" in done.stderr
    assert "'./dvc.yaml' is invalid" in done.stderr
