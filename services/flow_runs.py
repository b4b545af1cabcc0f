"""Ends the flow runs of a worker in order: stages save what they can, no process is left, no run stays Running.

A worker that is told to end does neither: it leaves its runs Running, as nobody is there any more who would say otherwise.
"""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from services import process, process_table

Say = Callable[[str], None]

# A flow ends its stage within process.GRACE and tells the server; then it is killed.
PATIENCE = process.GRACE + 10.0
_ACTIVE = ("RUNNING", "PENDING", "CANCELLING")


@dataclass(frozen=True)
class FlowRun:
    id: str
    name: str
    state: str


def active(api: str) -> list[FlowRun]:
    """Runs that have begun and not ended, by the server at `api`. Raises OSError if it doesn't answer."""
    return _find(api, {"state": {"type": {"any_": list(_ACTIVE)}}})


def cancel(api: str, runs: Sequence[FlowRun], message: str) -> list[FlowRun]:
    """Marks those of `runs` as Cancelled that did not end by themselves; which. Their processes must be gone.

    A run whose process was told to end calls itself Crashed: Cancelled is what happened. Raises OSError without an answer.
    """
    if not runs:
        return []
    found = _find(api, {"id": {"any_": [run.id for run in runs]}})
    ended = [run for run in found if run.state in (*_ACTIVE, "CRASHED")]
    for run in ended:
        _ask(api, f"flow_runs/{run.id}/set_state", {"state": {"type": "CANCELLED", "message": message}, "force": True})
    return ended


class Processes:
    """The processes of the runs that the worker with the number `worker` has started, which are all that descend from it.

    Each run has a group of its own, and so has each stage in it.
    """

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.known: dict[int, process_table.Entry] = {}

    def look(self) -> dict[int, process_table.Entry]:
        """Those that live. Remembers them: they outlive a worker that is killed, and then have another parent."""
        table = process_table.read()
        family = process_table.descendants(self.worker, table)
        self.known = process_table.alive(self.known, table) | {
            pid: entry for pid, entry in family.items() if entry.group != self.worker
        }
        return self.known

    def stop(self, patience: float = PATIENCE) -> bool:
        """SIGTERM to each run, once; SIGKILL to whatever is left after `patience` seconds. Whether all ended by themselves.

        A run passes the signal on: its running stage has process.GRACE seconds to save a checkpoint.
        """
        found = self.look()
        # Runs are the worker's children, or nobody's if it is dead.
        leaders = {entry.group for entry in found.values() if entry.parent not in found}
        told: set[int] = set()
        end = time.monotonic() + patience
        while found and time.monotonic() < end:
            process_table.send(signal.SIGTERM, leaders - told)
            told |= leaders
            time.sleep(0.05)
            found = self.look()
            leaders = {entry.group for entry in found.values() if entry.parent == self.worker}  # begun since
        self.kill()
        return not found

    def kill(self) -> None:
        """SIGKILL to all of them, until none is left."""
        end = time.monotonic() + 5.0
        while (found := self.look()) and time.monotonic() < end:
            process_table.send(signal.SIGKILL, {entry.group for entry in found.values()})
            time.sleep(0.05)


def _find(api: str, which: dict[str, Any]) -> list[FlowRun]:
    found = _ask(api, "flow_runs/filter", {"flow_runs": which})
    return [FlowRun(run["id"], run["name"], run["state_type"]) for run in found]


def _ask(api: str, what: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{api}/{what}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)
