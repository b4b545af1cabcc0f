"""Prefect on one machine: a server on loopback, the deployments of prefect.yaml, a worker. `python -m services.prefect_server`.

State and logs lie in .prefect (git-ignored). The worker starts one run at a time, as all runs write the same workspace.
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
from types import TracebackType
from typing import Self

from pipeline.core.command import run_command
from services import process, watchdog

HOST = "127.0.0.1"
POOL = "trilemma"
PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")


class Service:
    """Server and worker for the flows of `repository` on `port` of 127.0.0.1 (0: a free port). Usable as a context."""

    def __init__(self, repository: str | Path = ".", port: int = 4200) -> None:
        self.repository = Path(repository).resolve()
        self.port = port or _free_port()
        self.processes: dict[str, subprocess.Popen[str]] = {}

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
        """Raises RuntimeError if server or worker has ended."""
        for name, running in self.processes.items():
            if running.poll() is not None:
                raise RuntimeError(f"the {name} ended by itself with status {running.returncode}; its log: {self._log(name)}")

    def stop(self) -> None:
        """The worker first: it ends the runs that it started."""
        for name in reversed(list(self.processes)):
            process.stop(self.processes.pop(name))

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
        "retrain/nightly runs at 03:00 UTC. Ctrl-C stops everything."
    )


def serve(port: int) -> None:
    """Runs everything until SIGINT or SIGTERM. Raises RuntimeError if server or worker ends by itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    service = Service(port=port)
    try:
        service.start()
        print(usage(service), flush=True)
        while True:
            service.check()
            time.sleep(1)
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        service.stop()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=4200, help="of the Prefect server on 127.0.0.1 (default: %(default)s)")
    arguments = parser.parse_args(argv)
    return run_command(lambda: serve(arguments.port), failures=(RuntimeError,))


if __name__ == "__main__":
    sys.exit(main())
