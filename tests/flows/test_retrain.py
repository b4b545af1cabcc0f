"""The flow on a real Prefect server and worker, started as `make serve` starts them, on a toy pipeline."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from flows import retrain
from flows.stages import StageError
from services.objects import UnreachableError
from services.prefect_server import PREFECT, Service
from tests.services.test_process import runs
from tests.support.toy import PIXEL, Toy

ORDER = ["prepare", "train@a", "train@b", "compare", "aside"]


@dataclass
class Running:
    """A toy repository, and what serves its flows."""

    toy: Toy
    service: Service
    process: subprocess.Popen[str]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PREFECT, *arguments],
            cwd=self.toy.folder, env=self.service.environment, capture_output=True, text=True, timeout=180,
        )  # fmt: skip

    def deployment_run(self, **parameters: Any) -> subprocess.CompletedProcess[str]:
        given = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
        return self.command("deployment", "run", "retrain/on-demand", *given, "--watch", "--watch-interval=1")

    def ask(self, what: str, **query: Any) -> Any:
        request = urllib.request.Request(
            f"{self.service.api}/{what}/filter", json.dumps(query).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def last_run(self) -> dict[str, Any]:
        found = self.ask("flow_runs", sort="EXPECTED_START_TIME_DESC", flow_runs={"start_time": {"is_null_": False}})
        return max(found, key=lambda run: run["created"])

    def task_runs(self, flow_run: dict[str, Any]) -> list[dict[str, Any]]:
        """In the order in which they started. The server takes in events of task runs with some delay: waits for their ends."""
        end = time.monotonic() + 30
        while True:
            found = self.ask("task_runs", flow_runs={"id": {"any_": [flow_run["id"]]}})
            if found and all(run["state_type"] in ("COMPLETED", "FAILED") for run in found):
                return sorted(found, key=lambda run: run["start_time"])
            assert time.monotonic() < end, [(run["name"], run["state_type"]) for run in found]
            time.sleep(0.5)

    def logs(self, flow_run: dict[str, Any]) -> list[dict[str, Any]]:
        """The last 200 lines, newest first."""
        found: list[dict[str, Any]] = self.ask(
            "logs", logs={"flow_run_id": {"any_": [flow_run["id"]]}}, limit=200, sort="TIMESTAMP_DESC"
        )
        return found

    def artifacts(self, flow_run: dict[str, Any]) -> dict[str, str]:
        return {one["key"]: one["data"] for one in self.ask("artifacts", flow_runs={"id": {"any_": [flow_run["id"]]}})}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    toy = Toy(tmp_path_factory.mktemp("served") / "toy")
    # The worker asks for runs every ten seconds otherwise, and every run here would wait for that.
    (toy.folder / "prefect.toml").write_text("[worker]\nquery_seconds = 1\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "services.prefect_server", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=toy.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in first, first + process.stdout.read()
        yield Running(toy, Service(toy.folder, port), process)
    finally:
        if process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs([psutil.Process(process.pid), *children], timeout=40)
            for one in alive:
                one.kill()
        process.wait()


@pytest.mark.slow
def test_a_run_completes_after_trouble_with_storage_and_shows_its_results(running: Running) -> None:
    toy = running.toy
    toy.set(prepare="storage fails once")
    done = running.deployment_run()
    assert done.returncode == 0, done.stdout + done.stderr
    run = running.last_run()
    assert run["state_type"] == "COMPLETED"

    tasks = running.task_runs(run)
    assert [task["name"] for task in tasks] == ["check local", *ORDER, "push to local"]
    assert {task["state_type"] for task in tasks} == {"COMPLETED"}
    assert {task["name"]: task["run_count"] for task in tasks if task["run_count"] != 1} == {"prepare": 2}
    assert toy.attempts() == ["prepare", "prepare", "train-a", "train-b", "compare", "aside"]
    # One at a time: each starts after the one before has ended.
    assert all(before["end_time"] <= after["start_time"] for before, after in itertools.pairwise(tasks))

    assert "train-a says hello" in {line["message"] for line in running.logs(run)}

    artifacts = running.artifacts(run)
    assert json.loads(artifacts["results"]) == [
        {"sample": "a-ddim", "quality.fd": 1.5, "speed.images_per_second": 20},
        {"sample": "b-ddim"},
    ]
    assert [(row["stage"], row["outcome"]) for row in json.loads(artifacts["stages"])] == [(name, "ran") for name in ORDER]
    assert f"![a-ddim](data:image/png;base64,{PIXEL})" in artifacts["samples"]
    assert base64.b64decode(PIXEL) == (toy.folder / "samples/a-ddim/grid.png").read_bytes()
    assert artifacts["metrics"].startswith("## Metrics against HEAD")

    pushed = {file.read_text() for file in (toy.folder / ".dvc" / "remote").rglob("*") if file.is_file()}
    assert {"train-a work", "train-b work"} <= pushed


@pytest.mark.slow
def test_a_bug_fails_the_run_with_the_stages_last_output_and_is_not_tried_again(running: Running) -> None:
    running.toy.set(prepare="storage fails once", train_b="bug")
    running.toy.attempts()
    done = running.deployment_run(targets=["train", "compare"], force=True, push=None)
    assert done.returncode != 0
    run = running.last_run()
    assert run["state_type"] == "FAILED"
    assert "train@b exited with" in run["state"]["message"]
    assert "boom on stderr" in run["state"]["message"]
    assert "KeyError: 'no such key'" in run["state"]["message"]
    failed = [task for task in running.task_runs(run) if task["state_type"] == "FAILED"]
    assert [(task["name"], task["run_count"]) for task in failed] == [("train@b", 1)]
    # Nothing else has changed, and force is for the targets: prepare is skipped, and what needs train@b isn't begun.
    assert running.toy.attempts() == ["train-a", "train-b"]


def test_a_misspelt_target_fails_before_any_stage(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.folder)
    with pytest.raises(ValueError, match=r"'trian@a' \(did you mean train@a\?\)"):
        retrain.retrain.fn(targets=["aside", "trian@a"])
    assert toy.attempts() == []


def test_an_unknown_remote_is_refused(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.folder)
    with pytest.raises(ValueError, match=r"'nowhere' is not in \.dvc/config; allowed: local, s3"):
        retrain.check_remote.fn("nowhere")


BUSY = ["ERROR: 'dvc.yaml' is busy, it is being blocked by:"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StageError("train@a", 255, BUSY), True),
        (StageError("push", -15, [], expired=True), True),
        (StageError("train@a", 255, ["KeyError: 'x'"]), False),
        (UnreachableError("no answer"), True),
        (ValueError("a wrong key"), False),
        (MemoryError(), False),
    ],
)
def test_what_is_tried_again(error: Exception, expected: bool) -> None:
    assert retrain.may_pass(retrain.run_stage, TaskRun.model_construct(), Failed(data=error)) is expected


@pytest.mark.slow
def test_a_cancelled_run_leaves_nothing_running(running: Running) -> None:
    pids = running.toy.folder / "pids"
    pids.unlink(missing_ok=True)
    running.toy.set(aside="hang")
    begun = running.command("deployment", "run", "retrain/on-demand", '--param=targets=["aside"]', "--param=push=null")
    assert begun.returncode == 0, begun.stderr
    wait_until(pids.exists)
    started = json.loads(pids.read_text())
    assert all(runs(pid) for pid in started)
    run = running.last_run()
    assert running.command("flow-run", "cancel", run["id"]).returncode == 0
    wait_until(lambda: not any(runs(pid) for pid in started))
    wait_until(lambda: running.last_run()["state_type"] == "CANCELLED")


@pytest.mark.slow
def test_a_cancelled_run_saves_its_checkpoint(running: Running) -> None:
    folder = running.toy.folder
    (folder / "pids").unlink(missing_ok=True)
    running.toy.set(aside="save")
    begun = running.command("deployment", "run", "retrain/on-demand", '--param=targets=["aside"]', "--param=push=null")
    assert begun.returncode == 0, begun.stderr
    wait_until((folder / "pids").exists)
    run = running.last_run()
    assert running.command("flow-run", "cancel", run["id"]).returncode == 0
    wait_until(lambda: running.last_run()["state_type"] == "CANCELLED")
    assert (folder / "checkpoint").read_text() == "1 signal"
    assert "checkpoint saved" in [line["message"] for line in running.logs(run)]


@pytest.mark.slow
def test_what_is_deployed(running: Running) -> None:
    deployments = {one["name"]: one for one in running.ask("deployments")}
    assert set(deployments) == {"on-demand", "nightly"}
    assert deployments["on-demand"]["schedules"] == []
    (schedule,) = deployments["nightly"]["schedules"]
    assert schedule["active"]
    assert schedule["schedule"]["cron"] == "0 3 * * *"
    assert {one["work_pool_name"] for one in deployments.values()} == {"trilemma"}
    (watchdog,) = running.ask("automations")
    assert watchdog["enabled"]
    # Two heartbeats must fit into the silence, or healthy runs are marked as crashed.
    assert watchdog["trigger"]["within"] > 2 * int(running.service.environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])


@pytest.mark.slow
def test_every_port_is_on_loopback(running: Running) -> None:
    processes = [psutil.Process(running.process.pid), *psutil.Process(running.process.pid).children(recursive=True)]
    listening = [one.laddr for process in processes for one in process.net_connections() if one.status == "LISTEN"]
    assert running.service.port in {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}


@pytest.mark.slow
def test_a_taken_port_is_said_in_one_sentence(running: Running, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"port {running.service.port} of 127\.0\.0\.1 is taken; choose another: make serve PORT="
    ):
        Service(tmp_path, running.service.port).start()


@pytest.mark.slow
def test_ctrl_c_stops_server_and_worker(running: Running) -> None:
    """The last test of this file, as it ends the fixture's server."""
    children = psutil.Process(running.process.pid).children(recursive=True)
    assert len(children) >= 2
    os.kill(running.process.pid, signal.SIGINT)
    assert running.process.wait(timeout=60) == 0
    assert psutil.wait_procs(children, timeout=5)[1] == []


def wait_until(condition: Any, patience: float = 90.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.2)
