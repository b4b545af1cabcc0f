"""What Ctrl-C of `make serve` leaves behind while a stage runs: its checkpoint, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.prefect_server import Service
from tests.flows.test_retrain import Running, wait_until
from tests.services.test_process import runs
from tests.support.toy import Toy

Serve = Callable[[str], Running]


@pytest.fixture
def serve(toy: Toy) -> Iterator[Serve]:
    """serve(do): a service with a run whose only stage, `aside`, does that at this moment."""
    started: list[subprocess.Popen[str]] = []
    service = Service(toy.folder, port=0)

    def call(do: str) -> Running:
        (toy.folder / "prefect.toml").write_text("[worker]\nquery_seconds = 1\n")
        toy.set(aside=do)
        command = [sys.executable, "-m", "services.prefect_server", "--port", str(service.port)]
        process = subprocess.Popen(
            command, cwd=toy.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        started.append(process)
        assert process.stdout is not None
        while "Ctrl-C stops everything" not in (line := process.stdout.readline()):
            assert line, "the service ended by itself"
        served = Running(toy, service, process)
        begun = served.command("deployment", "run", "retrain/on-demand", '--param=targets=["aside"]', "--param=push=null")
        assert begun.returncode == 0, begun.stderr
        wait_until((toy.folder / "pids").exists)
        wait_until(lambda: (toy.folder / "pids").stat().st_size > 0)
        assert served.last_run()["state_type"] == "RUNNING"
        return served

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
    for one in of_the_service(toy.folder):
        one.kill()


def of_the_service(folder: Path) -> list[psutil.Process]:
    """Every living process that has the folder in its environment, whoever its parent is."""
    found = []
    for one in psutil.process_iter():
        try:
            if one.status() != psutil.STATUS_ZOMBIE and one.environ().get("TRILEMMA_HOME") == str(folder):
                found.append(one)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def state_after_a_new_start(served: Running) -> dict[str, str]:
    """The state of the only run, as a new server has it, before a watchdog could have changed it."""
    service = Service(served.toy.folder, served.service.port)
    try:
        service.start_server()
        (run,) = [run for run in served.ask("flow_runs") if run["state_type"] != "SCHEDULED"]
    finally:
        service.stop()
    state: dict[str, str] = run["state"]
    return state


@pytest.mark.slow
def test_a_stage_saves_its_checkpoint_and_the_run_is_cancelled(serve: Serve) -> None:
    served = serve("save")
    folder = served.toy.folder
    names = [" ".join(one.cmdline()) for one in of_the_service(folder)]
    assert any("dvc repro" in name for name in names)
    assert any("work.py aside" in name for name in names)
    assert any("worker start" in name for name in names)
    # Both at once, as a process group under make gets them: one request.
    os.kill(served.process.pid, signal.SIGTERM)
    os.kill(served.process.pid, signal.SIGINT)
    said, _ = served.process.communicate(timeout=90)
    assert served.process.returncode == 0, said
    assert (folder / "checkpoint").read_text() == "1 signal"
    assert of_the_service(folder) == []
    assert "told to end" in said
    assert said.splitlines()[-1].endswith(": cancelled")
    state = state_after_a_new_start(served)
    assert (state["type"], state["message"]) == ("CANCELLED", "stopped with the service that ran it")


@pytest.mark.slow
def test_a_second_signal_kills_what_does_not_want_to_end(serve: Serve) -> None:
    served = serve("deaf")
    (stage,) = json.loads((served.toy.folder / "pids").read_text())
    os.kill(served.process.pid, signal.SIGINT)
    assert served.process.stdout is not None
    while "told to end" not in (line := served.process.stdout.readline()):
        assert line, "the service ended by itself"
    time.sleep(1.2)
    assert runs(stage)
    os.kill(served.process.pid, signal.SIGINT)
    said, _ = served.process.communicate(timeout=90)
    assert served.process.returncode == 1
    assert said.splitlines()[-1].startswith("error: killed by a second signal")
    assert of_the_service(served.toy.folder) == []
    assert not (served.toy.folder / "checkpoint").exists()
    assert state_after_a_new_start(served)["type"] == "CANCELLED"


@pytest.mark.slow
def test_a_run_does_not_outlive_a_worker_that_was_killed(serve: Serve) -> None:
    served = serve("save")
    time.sleep(1.5)  # the service looks at its processes every second
    (worker,) = [one for one in of_the_service(served.toy.folder) if "worker" in one.cmdline()]
    worker.kill()
    said, _ = served.process.communicate(timeout=90)
    assert served.process.returncode == 1
    assert "error: the worker ended by itself with status -9" in said
    assert (served.toy.folder / "checkpoint").read_text() == "1 signal"
    assert of_the_service(served.toy.folder) == []
    assert state_after_a_new_start(served)["type"] == "CANCELLED"
