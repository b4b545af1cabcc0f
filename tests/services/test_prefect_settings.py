"""Which server `prefect` speaks to when it is called from the top of the repository, as Prefect itself reads its settings."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from services.prefect_server import PREFECT, Service
from tests.services.conftest import REPOSITORY


def prefect(*arguments: str, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    wide = {"COLUMNS": "200", "NO_COLOR": "1"}
    command = [*PREFECT, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment | wide, capture_output=True, text=True, timeout=120)


def address(cwd: Path, environment: dict[str, str]) -> tuple[str, str] | None:
    """The server's address and where it comes from; None if nothing says it."""
    view = prefect("config", "view", "--show-sources", cwd=cwd, environment=environment)
    assert view.returncode == 0, view.stderr
    found = re.search(r"^PREFECT_API_URL='(.*)' \(from (.*)\)$", view.stdout, re.MULTILINE)
    return None if found is None else (found[1], found[2])


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """A shell in which nobody has said anything about Prefect."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**inherited, "PREFECT_HOME": str(tmp_path / "home"), "DO_NOT_TRACK": "1"}


def test_without_a_variable_it_is_the_server_of_make_serve(bare: dict[str, str], tmp_path: Path) -> None:
    assert address(REPOSITORY, bare) == (Service(REPOSITORY).api, "prefect.toml")
    assert address(tmp_path, bare) is None


def test_what_the_service_says_of_another_port_is_stronger(bare: dict[str, str]) -> None:
    service = Service(REPOSITORY, port=4321)
    given = {"PREFECT_API_URL": service.environment["PREFECT_API_URL"]}
    assert address(REPOSITORY, bare | given) == ("http://127.0.0.1:4321/api", "env")


def test_without_a_server_none_is_started_and_the_command_fails(bare: dict[str, str], tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9/api"  # the discard port: nobody listens
    settings = (REPOSITORY / "prefect.toml").read_text()
    (tmp_path / "prefect.toml").write_text(settings.replace(Service(REPOSITORY).api, nobody))
    run = prefect("deployment", "run", "retrain/on-demand", cwd=tmp_path, environment=bare)
    assert run.returncode != 0
    assert run.stderr.rstrip().endswith("All connection attempts failed")
    assert "temporary server" not in run.stdout + run.stderr
