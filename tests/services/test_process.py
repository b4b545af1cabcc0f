"""Process groups: output as it comes, time limits, and nothing left running whatever happens."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from services import process

# A parent that starts a child, both deaf to SIGTERM, as DVC's training would be without its group.
DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 1:
    child = subprocess.Popen([sys.executable, __file__, "child"])
    print(child.pid, flush=True)
time.sleep(600)
"""


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_every_line_of_both_streams_arrives_and_the_last_40_are_kept(tmp_path: Path) -> None:
    code = "import sys\nfor i in range(60): print(i, file=sys.stderr if i % 2 else sys.stdout, flush=True)\nsys.exit(3)"
    lines: list[str] = []
    finished = process.run([sys.executable, "-c", code], lines.append, cwd=tmp_path, environment=os.environ)
    assert lines == [str(number) for number in range(60)]
    assert finished == process.Finished(3, tuple(lines[-40:]), expired=False)


def test_lines_come_while_the_command_still_runs(tmp_path: Path) -> None:
    code = "import pathlib, time\nprint('now', flush=True)\nwhile not pathlib.Path('seen').exists(): time.sleep(0.01)"
    log = lambda line: (tmp_path / "seen").touch()  # noqa: E731
    finished = process.run([sys.executable, "-c", code], log, cwd=tmp_path, environment=os.environ, timeout=30)
    assert finished.status == 0
    assert not finished.expired


def test_a_time_limit_ends_the_command(tmp_path: Path) -> None:
    finished = process.run(["sleep", "600"], print, cwd=tmp_path, environment=os.environ, timeout=0.2)
    assert finished.expired
    assert finished.status < 0


def test_stop_ends_a_whole_group_that_ignores_sigterm(tmp_path: Path) -> None:
    script = tmp_path / "deaf.py"
    script.write_text(DEAF)
    leader = process.start([sys.executable, str(script)], cwd=tmp_path, environment=os.environ)
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    assert runs(child)
    process.stop(leader, grace=0.2)
    assert leader.returncode == -9
    assert not runs(child)


def test_stop_lets_a_child_finish_its_work_within_the_grace(tmp_path: Path) -> None:
    """The leader dies of SIGTERM at once; its child saves a checkpoint first."""
    saving = (
        "import signal, sys, time, pathlib\n"
        "def save(*_):\n    time.sleep(0.5); pathlib.Path('checkpoint').touch(); sys.exit()\n"
        "signal.signal(signal.SIGTERM, save); print('ready', flush=True); time.sleep(600)"
    )
    (tmp_path / "saving.py").write_text(saving)
    leader = process.start(["sh", "-c", f"{sys.executable} saving.py; :"], cwd=tmp_path, environment=os.environ)
    assert leader.stdout is not None
    assert leader.stdout.readline() == "ready\n"
    process.stop(leader, grace=30)
    assert (tmp_path / "checkpoint").exists()


def test_an_error_in_the_log_callback_ends_the_command(tmp_path: Path) -> None:
    seen: list[int] = []

    def fail(line: str) -> None:
        seen.append(int(line))
        raise KeyError("log")

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(KeyError):
        process.run([sys.executable, "-c", code], fail, cwd=tmp_path, environment=os.environ)
    time.sleep(0.1)
    assert not runs(seen[0])


def test_what_a_command_says_while_it_ends_is_logged_and_does_not_hold_it_up(tmp_path: Path) -> None:
    """A signal arrives while the command is silent; in answer it says more than a pipe holds before it saves."""
    code = (
        "import os, pathlib, signal, sys, time\n"
        "def save(*_):\n"
        "    for part in range(20000): print('part', part)\n"
        "    pathlib.Path('checkpoint').touch(); print('saved', flush=True); sys.exit()\n"
        "signal.signal(signal.SIGTERM, save); os.kill(os.getppid(), signal.SIGUSR1); time.sleep(600)"
    )

    def cancel(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    lines: list[str] = []
    before = signal.signal(signal.SIGUSR1, cancel)
    try:
        with pytest.raises(KeyboardInterrupt):
            process.run([sys.executable, "-c", code], lines.append, cwd=tmp_path, environment=os.environ)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (tmp_path / "checkpoint").exists()
    assert lines == [*(f"part {part}" for part in range(20000)), "saved"]


def test_a_second_exception_while_waiting_kills_the_group(tmp_path: Path) -> None:
    script = tmp_path / "deaf.py"
    script.write_text(DEAF)
    leader = process.start([sys.executable, str(script)], cwd=tmp_path, environment=os.environ)
    assert leader.stdout is not None
    child = int(leader.stdout.readline())

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            process.stop(leader, grace=600)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert leader.wait(timeout=30) == -9
    end = time.monotonic() + 30
    while runs(child):
        assert time.monotonic() < end
        time.sleep(0.02)
