"""Commands in process groups of their own, so that what they started ends with them.

DVC runs a stage as a child of its own and doesn't pass SIGTERM on: a signal to `dvc` alone leaves the training running.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from services import process_table

TAIL = 40
# Seconds that a training has to save a checkpoint. Prefect kills the process of a cancelled run, which waits here, after 30.
GRACE = 25.0


@dataclass(frozen=True)
class Finished:
    """status: the exit status, negative for a signal; tail: the last 40 lines; expired: ended by its time limit."""

    status: int
    tail: tuple[str, ...]
    expired: bool


def start(
    command: Sequence[str], *, cwd: str | Path, environment: Mapping[str, str], output: int | IO[Any] = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Starts `command` as the leader of a new process group, both output streams in one."""
    return subprocess.Popen(
        list(command),
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )


def stop(process: subprocess.Popen[str], grace: float = GRACE) -> None:
    """Ends the whole group: SIGTERM, so that training can save a checkpoint, and SIGKILL after `grace` seconds.

    An exception that arrives meanwhile (a second signal) ends the grace: SIGKILL at once, as nobody would wait any more.
    """
    try:
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            end = time.monotonic() + patience
            if not _has_members(process):
                break
            process_table.send(number, [process.pid])
            while _has_members(process) and time.monotonic() < end:
                time.sleep(0.05)
    except BaseException:
        process_table.send(signal.SIGKILL, [process.pid])
        raise
    process.wait()


def run(
    command: Sequence[str],
    log: Callable[[str], None],
    *,
    cwd: str | Path,
    environment: Mapping[str, str],
    timeout: float | None = None,
) -> Finished:
    """Runs `command` and gives every line of its output to `log` as it comes.

    Any exception that arrives meanwhile (a cancellation, Ctrl-C) ends the group first; `log` gets what that still says, unless
    the exception is its own. So does `timeout`, in seconds.
    """
    process = start(command, cwd=cwd, environment=environment)
    assert process.stdout is not None
    tail: deque[str] = deque(maxlen=TAIL)
    expired = threading.Event()
    logging = False
    last: list[str] = []
    reader: threading.Thread | None = None

    def expire() -> None:
        expired.set()
        stop(process)

    timer = threading.Timer(timeout, expire) if timeout is not None else None
    try:
        if timer is not None:
            timer.start()
        for line in process.stdout:
            text = line.rstrip()
            if text:
                tail.append(text)
                logging = True
                log(text)
                logging = False
        status = process.wait()
    except BaseException:
        # Somebody must go on reading: a full pipe would hold up whoever wants to save a checkpoint.
        reader = threading.Thread(target=lambda: last.extend(process.stdout or ()), daemon=True)
        reader.start()
        stop(process)
        reader.join(1.0)
        for text in filter(None, map(str.rstrip, () if logging else last)):
            log(text)
        raise
    finally:
        if timer is not None:
            timer.cancel()
        if reader is None or not reader.is_alive():  # closing waits for a reader, who waits for whatever left the group
            process.stdout.close()
    return Finished(status, tuple(tail), expired.is_set())


def _has_members(process: subprocess.Popen[str]) -> bool:
    """Whether anything of the group still runs."""
    process.poll()
    return any(entry.group == process.pid for entry in process_table.read().values())
