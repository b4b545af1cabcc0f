"""The flow `retrain`: every stage of dvc.yaml as a Prefect task run, then results as artifacts, then a push.

Stages run one at a time, in the order of their dependencies: each uses all cores, and two trainings side by side on few cores
slow each other down many times over. What hasn't changed is skipped by DVC in half a second.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows import push as pushing
from flows import results, stages
from pipeline.core.artifacts import read_json
from services.objects import UnreachableError


def may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether to try again: after trouble with data, storage or a lock, never after a bug or a user's mistake."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, UnreachableError) or (isinstance(error, stages.StageError) and error.failure.passes)


RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [5, 60],
    "retry_condition_fn": may_pass,
    "cache_policy": NO_CACHE,
}


@task(task_run_name="{stage}", **RETRIES)
def run_stage(stage: str, force: bool) -> stages.Outcome:
    return stages.run(stage, get_run_logger().info, force=force)


@task(task_run_name="check {remote}", **RETRIES)
def check_remote(remote: str) -> None:
    pushing.check(remote)


@task(task_run_name="push to {remote}", **RETRIES)
def push_outputs(remote: str) -> None:
    pushing.push(remote, get_run_logger().info)


@flow(name="retrain")
def retrain(targets: list[str] | None = None, force: bool = False, push: str | None = "local") -> None:
    """Brings the pipeline up to date.

    Args:
        targets: stages to bring up to date, with what they depend on; `train` stands for all of train@...; null: all stages.
        force: run the targets again even if nothing changed.
        push: the DVC remote that gets the outputs in the end; null: none. s3 takes its endpoint and credentials from the
            environment in which the worker (`make serve`) was started.
    """
    order, named = stages.select(needs := stages.graph(), targets)
    if push is not None:
        check_remote(push)  # a wrong key should end the run before hours of training, not after
    states: dict[str, State[Any]] = {}
    outcomes: list[stages.Outcome] = []
    # Called, not submitted: a cancellation is an exception in the main thread, and must meet the running stage there.
    for name in order:
        before = [states[other] for other in needs[name]]
        states[name] = run_stage.with_options(name=name.partition("@")[0])(
            name, force and name in named, wait_for=before, return_state=True
        )
        outcomes.append(states[name].result())
    publish(outcomes)
    if push is not None:
        push_outputs(push)


def publish(outcomes: list[stages.Outcome]) -> None:
    """Artifacts: what the stages did, the table of results, the grids of samples, the metrics against HEAD."""
    log = get_run_logger()
    create_table_artifact([asdict(outcome) for outcome in outcomes], key="stages", description="What every stage did")
    compare = Path("reports/compare.json")
    if compare.is_file():
        create_table_artifact(results.rows(read_json(compare)), key="results", description=f"From {compare}")
    else:
        log.info("no table of results: %s does not exist yet", compare)
    if grids := results.grids():
        pictures = {grid.parent.name: grid.read_bytes() for grid in grids}
        create_markdown_artifact(results.gallery(pictures), key="samples", description="Grids of generated samples")
    else:
        log.info("no sample grids: samples/*/grid.png do not exist yet")
    difference = stages.metrics_diff()
    create_markdown_artifact(
        f"## Metrics against HEAD\n\n{difference or 'No metric differs.'}\n", key="metrics", description="dvc metrics diff HEAD"
    )
