"""Marks flow runs as crashed whose process died without a word. `python -m services.watchdog`, with PREFECT_API_URL set.

Without it a run whose worker was killed stays Running for ever. A run is taken for dead after `SILENCE` seconds without a
heartbeat, which must be more than two heartbeats (PREFECT_FLOWS_HEARTBEAT_FREQUENCY): else healthy runs are killed.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

NAME = "crash-silent-runs"
HEARTBEAT = 30
SILENCE = 75


async def install() -> None:
    """Makes the Prefect automation, or leaves the one that exists."""
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    try:
        await Automation.aread(name=NAME)
    except ValueError:
        ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
        trigger = EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ends},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE),
        )
        action = ChangeFlowRunState(state=StateType.CRASHED, name=None, message=f"no heartbeat for {SILENCE} s", force=False)
        await Automation(name=NAME, trigger=trigger, actions=[action]).acreate()


def main() -> int:
    asyncio.run(install())
    return 0


if __name__ == "__main__":
    sys.exit(main())
