"""Who descends from whom, against psutil and against processes whose parents have died."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from services import process_table
from services.process_table import Entry

# A child in a session of its own, as a run has, with a child in another one, as its stage has.
RUN = """
import subprocess, sys
code = "import time; print('ready', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code], start_new_session=True).wait()
"""


@pytest.fixture
def run() -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen([sys.executable, "-c", RUN], start_new_session=True, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    family = [psutil.Process(started.pid), *psutil.Process(started.pid).children(recursive=True)]
    yield started
    for one in family:
        if one.is_running():
            one.kill()
    started.wait()
    started.stdout.close()


def test_descendants_are_found_across_sessions(run: subprocess.Popen[str]) -> None:
    found = process_table.descendants(os.getpid(), process_table.read())
    (stage,) = psutil.Process(run.pid).children()
    assert found[run.pid] == Entry(os.getpid(), run.pid)
    assert found[stage.pid] == Entry(run.pid, stage.pid)
    assert os.getpid() not in found
    assert set(process_table.descendants(run.pid, process_table.read())) == {stage.pid}


@pytest.mark.skipif(shutil.which("ps") is None, reason="ps is not installed")
def test_ps_tells_the_same_as_proc(run: subprocess.Popen[str]) -> None:
    listed = process_table._read_ps()
    family = [psutil.Process(run.pid), *psutil.Process(run.pid).children()]
    assert [listed[one.pid] for one in family] == [Entry(one.ppid(), os.getpgid(one.pid)) for one in family]


def test_the_dead_are_not_listed_even_if_nobody_has_collected_them(run: subprocess.Popen[str]) -> None:
    (stage,) = psutil.Process(run.pid).children()
    known = {stage.pid: Entry(run.pid, stage.pid), run.pid: Entry(os.getpid(), run.pid)}
    psutil.Process(run.pid).kill()
    while psutil.Process(run.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    left = process_table.alive(known, process_table.read())
    assert set(left) == {stage.pid}
    assert left[stage.pid].parent != run.pid


def test_a_number_that_has_got_another_group_is_another_process() -> None:
    known = {7: Entry(1, 7), 8: Entry(7, 7)}
    assert process_table.alive(known, {7: Entry(1, 3), 8: Entry(1, 7), 9: Entry(1, 9)}) == {8: Entry(1, 7)}
