"""A real SeaweedFS server for all storage tests, and scratch repositories that use this repository's .dvc/config."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import stages
from services import objects
from services.object_store import Server

REPOSITORY = Path(__file__).parents[2]
Dvc = Callable[..., subprocess.CompletedProcess[str]]

PIPELINE = """
stages:
  copy:
    cmd: python -c "import shutil; shutil.copy('source.txt', 'copy.txt')"
    deps: [source.txt]
    outs: [copy.txt]
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    storage = Server(tmp_path_factory.mktemp("storage") / ".storage").start()
    yield storage
    storage.stop(grace=0)


@pytest.fixture(autouse=True)
def no_credentials_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What `set -a; . .storage/env; set +a` does; nothing lies on the remote."""
    lines = (server.folder / "env").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    s3 = objects.client()
    for left in list(objects.listing(s3, objects.BUCKET, "dvc/")):
        s3.delete_object(Bucket=objects.BUCKET, Key=left.key)
    return variables


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A repository with one finished stage; its contents differ from those of every other test."""
    folder = tmp_path / "scratch"
    shutil.copytree(
        REPOSITORY / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "remote", "config.local")
    )
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "source.txt").write_text(f"{tmp_path}\n" * 100)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


@pytest.fixture
def dvc(scratch: Path) -> Dvc:
    """dvc(*arguments) in the scratch repository, whose stage has run."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*stages.DVC, *arguments], cwd=scratch, env=stages.environment(), capture_output=True, text=True, timeout=120
        )

    done = call("repro")
    assert done.returncode == 0, done.stderr
    return call
