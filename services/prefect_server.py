"""Prefect on one machine: a server on loopback, the deployments of prefect.yaml, a worker. `python -m services.prefect_server`.

State and logs lie in .prefect (git-ignored). The worker starts one run at a time, as all runs write the same workspace.
Ctrl-C or SIGTERM ends everything in order: runs first, so that a training saves a checkpoint. A second one kills everything.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from pipeline.core.command import run_command
from services import flow_runs, process, watchdog

HOST = "127.0.0.1"
POOL = "trilemma"
PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")


class Service:
    """Server and worker for the flows of `repository` on `port` of 127.0.0.1 (0: a free port). Usable as a context."""

    def __init__(self, repository: str | Path = ".", port: int = 4200) -> None:
        self.repository = Path(repository).resolve()
        self.port = port or _free_port()
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.runs: flow_runs.Processes | None = None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def api(self) -> str:
        return f"{self.address}/api"

    @property
    def environment(self) -> dict[str, str]:
        """Ours, without the PREFECT_... settings of other servers, with those of this one."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return {
            **inherited,
            "PREFECT_HOME": str(self.repository / ".prefect"),
            "PREFECT_API_URL": self.api,  # the server needs it too: its pages call this address
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            # Kept in memory, a concurrency slot would stay taken for ever after a crash of the server.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(watchdog.HEARTBEAT),
            "TRILEMMA_HOME": str(self.repository),
        }

    def start(self) -> Self:
        """Server, watchdog, pool, deployments, worker. Raises ValueError for a taken port, RuntimeError for what fails."""
        try:
            self.start_server()
            self._command(sys.executable, "-m", "services.watchdog")
            self._command(*PREFECT, "work-pool", "create", POOL, "--type", "process", "--overwrite")
            self._command(*PREFECT, "deploy", "--all")
            self._launch("worker", "worker", "start", "--pool", POOL, "--limit", "1")
            self.runs = flow_runs.Processes(self.processes["worker"].pid)
        except BaseException:
            self.stop()
            raise
        return self

    def start_server(self, patience: float = 120.0) -> None:
        """Returns when the server answers that it is healthy."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError:
                raise ValueError(f"port {self.port} of {HOST} is taken; choose another: make serve PORT=...") from None
        self._launch("server", "server", "start", "--host", HOST, "--port", str(self.port))
        end = time.monotonic() + patience
        while not self._healthy():
            self.check()
            if time.monotonic() > end:
                raise RuntimeError(f"the Prefect server does not answer after {patience:.0f} s; its log: {self._log('server')}")
            time.sleep(0.2)

    def check(self) -> None:
        """To be called every second or so: raises RuntimeError if server or worker has ended."""
        for name, running in self.processes.items():
            if running.poll() is not None:
                raise RuntimeError(f"the {name} ended by itself with status {running.returncode}; its log: {self._log(name)}")
        if self.runs is not None:
            self.runs.look()

    def stop(self, say: flow_runs.Say = lambda line: None) -> None:
        """Ends runs, worker and server, in this order: see flow_runs. An exception meanwhile leaves the rest to `kill`."""
        going = self._active()
        if going:
            say(f"{_names(going)}: told to end; a training has {process.GRACE:.0f} s to save a checkpoint")
        if self.runs is not None and not self.runs.stop():
            say("killed what did not end in time")
        self._end("worker")
        self._cancel(going, "stopped with the service that ran it", say)
        self._end("server")

    def kill(self, say: flow_runs.Say = lambda line: None) -> None:
        """The same with SIGKILL, without any waiting."""
        going = self._active()
        if self.runs is not None:
            self.runs.kill()
        self._end("worker", grace=0.0)
        self._cancel(going, "killed with the service that ran it", say)
        self._end("server", grace=0.0)

    def _end(self, name: str, **grace: float) -> None:
        if name in self.processes:
            process.stop(self.processes[name], **grace)
            del self.processes[name]

    def _active(self) -> list[flow_runs.FlowRun]:
        try:
            return flow_runs.active(self.api) if "server" in self.processes else []
        except OSError:  # it may be what has ended; the watchdog marks the runs after the next start
            return []

    def _cancel(self, going: list[flow_runs.FlowRun], message: str, say: flow_runs.Say) -> None:
        begun = [run for run in self._active() if run.id not in {one.id for one in going}]
        try:
            if ended := flow_runs.cancel(self.api, [*going, *begun], message):
                say(f"{_names(ended)}: cancelled")
        except OSError as error:
            say(f"{_names(going)}: not marked as cancelled ({error}); the watchdog does it after the next start")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _log(self, name: str) -> Path:
        return self.repository / ".prefect" / f"{name}.log"

    def _launch(self, name: str, *arguments: str) -> None:
        self._log(name).parent.mkdir(mode=0o700, exist_ok=True)
        with open(self._log(name), "ab") as log:
            command = [*PREFECT, *arguments]
            self.processes[name] = process.start(command, cwd=self.repository, environment=self.environment, output=log)

    def _command(self, *command: str) -> None:
        finished = process.run(command, lambda _: None, cwd=self.repository, environment=self.environment, timeout=120.0)
        if finished.status != 0:
            raise RuntimeError(f"{' '.join(command[2:])} exited with {finished.status}:\n" + "\n".join(finished.tail))

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api}/health", timeout=5) as answer:
                return json.load(answer) is True
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def usage(service: Service) -> str:
    """What to do now, in a few lines; commands relative to the working directory where they can be."""
    prefect = os.path.relpath(Path(sys.executable).with_name("prefect"))
    return (
        f"Prefect at {service.address}. In another shell:\n"
        f"    export PREFECT_API_URL={service.api}\n"
        f"    {prefect} deployment run retrain/on-demand --watch\n"
        f"    {prefect} deployment run retrain/on-demand --watch --param 'targets=[\"compare\"]' --param push=null\n"
        "retrain/nightly runs at 03:00 UTC. Ctrl-C stops everything; a training saves a checkpoint first."
    )


def serve(port: int) -> None:
    """Runs everything until SIGINT or SIGTERM. RuntimeError: server or worker ended by itself, or a second signal came."""
    _raise_on_signals()
    service = Service(port=port)
    try:
        try:
            service.start()
            _say(usage(service))
            while True:
                service.check()
                time.sleep(1)
        except KeyboardInterrupt:
            _say("stopping; Ctrl-C again kills everything at once")
        finally:
            service.stop(_say)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        service.kill(_say)
        raise RuntimeError("killed by a second signal; a training continues from the last checkpoint it has saved") from None


def _raise_on_signals() -> None:
    """SIGINT and SIGTERM raise KeyboardInterrupt. All that come within a second are one.

    Whoever signals a whole process group reaches us twice, as `make` passes SIGTERM on.
    """
    heard: list[float] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not heard or now - heard[-1] > 1.0:
            heard.append(now)
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _say(line: str) -> None:
    print(line, flush=True)


def _names(runs: list[flow_runs.FlowRun]) -> str:
    return f"flow run{'s' if len(runs) > 1 else ''} {', '.join(run.name for run in runs)}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=4200, help="of the Prefect server on 127.0.0.1 (default: %(default)s)")
    arguments = parser.parse_args(argv)
    return run_command(lambda: serve(arguments.port), failures=(RuntimeError,))


if __name__ == "__main__":
    sys.exit(main())
