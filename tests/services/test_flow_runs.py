"""Ends of runs by their processes alone: each is told once, what is deaf is killed, what a killed worker left too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.flow_runs import Processes
from tests.services.test_process import runs

# Like Prefect's: a worker that starts a run in a group of its own, which starts a stage in another one. The run ends its stage.
RUN = """
import pathlib, signal, subprocess, sys, time
told = []
def end(*_):
    told.append(1)
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "deaf" else end)
stage = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(stage.pid, flush=True)
while not told:
    time.sleep(0.02)
time.sleep(0.5)
stage.kill()
stage.wait()
pathlib.Path("told").write_text(str(len(told)))
"""
WORKER = """
import subprocess, sys
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
run = subprocess.Popen([sys.executable, "run.py", sys.argv[1]], start_new_session=True)
run.wait()
helper.wait()
"""


class Worker:
    def __init__(self, folder: Path, kind: str) -> None:
        (folder / "run.py").write_text(RUN)
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, kind], cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        self.stage = int(self.process.stdout.readline())
        self.family = psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path, getattr(request, "param", "obedient"))
    yield made
    made.process.kill()
    for one in alive(made):
        one.kill()
    made.process.wait()


def alive(worker: Worker) -> list[psutil.Process]:
    return [one for one in worker.family if runs(one.pid)]


def helpers(worker: Worker) -> list[psutil.Process]:
    return [one for one in worker.family if one.ppid() == worker.process.pid and "run.py" not in one.cmdline()]


def test_a_run_is_told_once_and_waited_for(worker: Worker, tmp_path: Path) -> None:
    (helper,) = helpers(worker)
    assert Processes(worker.process.pid).stop(patience=60)
    assert (tmp_path / "told").read_text() == "1"
    assert alive(worker) == [helper]  # of the worker's own group, and ends with it
    assert worker.process.poll() is None


@pytest.mark.parametrize("worker", ["deaf"], indirect=True)
def test_what_is_deaf_is_killed_with_its_stage(worker: Worker, tmp_path: Path) -> None:
    (helper,) = helpers(worker)
    assert not Processes(worker.process.pid).stop(patience=0.3)
    assert alive(worker) == [helper]
    assert not (tmp_path / "told").exists()


def test_the_runs_of_a_killed_worker_are_remembered(worker: Worker, tmp_path: Path) -> None:
    (helper,) = helpers(worker)
    processes = Processes(worker.process.pid)
    assert set(processes.look()) == {one.pid for one in worker.family if one != helper}
    worker.process.kill()
    worker.process.wait()
    assert processes.stop(patience=60)
    assert (tmp_path / "told").read_text() == "1"
    assert alive(worker) == [helper]
