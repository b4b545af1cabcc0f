"""The storage server as `make storage` runs it: what it leaves on the disk, what it prints, where it listens."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services import objects
from services.object_store import Server
from tests.services.conftest import REPOSITORY


def secret_of(server: Server) -> str:
    return server.environment()["AWS_SECRET_ACCESS_KEY"]


def test_only_the_owner_can_read_the_files(server: Server) -> None:
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    with_secret = {file.name for file in server.folder.iterdir() if file.is_file() and secret_of(server) in file.read_text()}
    assert with_secret == {"identities.json", "env"}
    for name in (*with_secret, "server.log"):
        assert stat.S_IMODE((server.folder / name).stat().st_mode) == 0o600


def test_every_port_is_on_loopback(server: Server) -> None:
    assert server.process is not None
    listening = [one.laddr for one in psutil.Process(server.process.pid).net_connections() if one.status == "LISTEN"]
    assert server.port in {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_the_secret_is_on_no_command_line_and_in_no_environment(server: Server) -> None:
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    assert secret_of(server) not in " ".join(process.cmdline())
    assert secret_of(server) not in "".join(process.environ().values())


def test_two_servers_have_different_secrets(server: Server, tmp_path: Path) -> None:
    other = Server(tmp_path)
    assert secret_of(other) != secret_of(server)
    assert len(secret_of(other)) >= 40


def test_a_folder_serves_once_and_a_port_too(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is in use by a storage server"):
        Server(server.folder).start()
    with pytest.raises(ValueError, match=rf"port {server.port} of 127\.0\.0\.1 is taken"):
        Server(tmp_path / "other", server.port).start()
    access = server.environment()
    client = objects.client(server.endpoint, access["AWS_ACCESS_KEY_ID"], access["AWS_SECRET_ACCESS_KEY"])
    objects.check_access(client, objects.BUCKET)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`python -m services.object_store`, past its three lines of welcome."""
    command = [sys.executable, "-m", "services.object_store", "--folder", str(tmp_path / ".storage"), "--port", "0"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    children: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        process.welcome = "".join(process.stdout.readline() for _ in range(3))  # type: ignore[attr-defined]
        children = psutil.Process(process.pid).children(recursive=True)
        yield process
    finally:
        for one in [process, *children]:
            if isinstance(one, subprocess.Popen) or one.is_running():
                one.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_no_secret_and_a_signal_stops_all(
    running: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    children = psutil.Process(running.pid).children(recursive=True)
    assert [child.name() for child in children] == ["weed"]
    os.kill(running.pid, number)
    rest, _ = running.communicate(timeout=60)
    output = running.welcome + rest  # type: ignore[attr-defined]
    assert running.returncode == 0
    assert psutil.wait_procs(children, timeout=1)[1] == []
    variables = dict(line.split("=", 1) for line in (tmp_path / ".storage" / "env").read_text().splitlines())
    assert variables["AWS_ENDPOINT_URL"] in output
    assert str(tmp_path / ".storage" / "env") in output
    assert variables["AWS_SECRET_ACCESS_KEY"] not in output
    assert variables["AWS_ACCESS_KEY_ID"] not in output


def test_objects_and_key_outlive_a_restart(tmp_path: Path) -> None:
    first = Server(tmp_path / ".storage")
    try:
        first.start()
        environment = first.environment()
        keys = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
        objects.put(objects.client(first.endpoint, *keys), objects.BUCKET, "kept", b"kept")
    finally:
        first.stop(grace=0)
    second = Server(tmp_path / ".storage")
    try:
        second.start()
        assert objects.get(objects.client(second.endpoint, *keys), objects.BUCKET, "kept") == b"kept"
    finally:
        second.stop(grace=0)
