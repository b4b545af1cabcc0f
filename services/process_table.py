"""What runs on this machine: parents, groups, who descends from whom. From /proc, or from `ps` where that is missing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A living process: its parent, and the process group that it belongs to."""

    parent: int
    group: int


def read() -> dict[int, Entry]:
    """Every living process by its number. Zombies are dead: in a container nobody may ever collect them."""
    return _read_proc() if Path("/proc/self/stat").exists() else _read_ps()


def descendants(root: int, table: Mapping[int, Entry]) -> dict[int, Entry]:
    """Children of `root`, their children and so on, whatever group or session they are in. A child of init has no family."""
    children: dict[int, list[int]] = {}
    for pid, entry in table.items():
        children.setdefault(entry.parent, []).append(pid)
    found: dict[int, Entry] = {}
    waiting = list(children.get(root, []))
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found[pid] = table[pid]
            waiting += children.get(pid, [])
    return found


def alive(known: Mapping[int, Entry], table: Mapping[int, Entry]) -> dict[int, Entry]:
    """Those of `known` that `table` still has. The group tells a process from another that has got its number since."""
    return {pid: table[pid] for pid, entry in known.items() if pid in table and table[pid].group == entry.group}


def send(number: signal.Signals, groups: Iterable[int]) -> None:
    """Signals whole groups; those that are gone need none."""
    for group in set(groups):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(group, number)


def _read_proc() -> dict[int, Entry]:
    found: dict[int, Entry] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "pid (name) state parent group ...": the name may hold anything, so read from its closing bracket.
            state, parent, group = file.read_text(errors="replace").rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if state not in ("Z", "X"):
            found[int(file.parent.name)] = Entry(int(parent), int(group))
    return found


def _read_ps() -> dict[int, Entry]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return {int(pid): Entry(int(parent), int(group)) for pid, parent, group, state, *_ in rows if state[0] not in "ZX"}
