"""Every end of a command: its exit status, one sentence, no traceback, nothing half-written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core import command

REPOSITORY = Path(__file__).parents[2]

# A command that does what stands in `body`, in a process of its own.
COMMAND = """
import os, resource, sys, time
from pathlib import Path
import numpy as np
from pipeline.core import artifacts, command
def work():
    {body}
sys.exit(command.run_command(work, failures=(RuntimeError,)))
"""


def start(body: str, folder: Path, **streams: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(body=body)], cwd=folder, env=environment, text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )  # fmt: skip


def run(body: str, folder: Path) -> tuple[int, str]:
    process = start(body, folder)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


def test_done(tmp_path: Path) -> None:
    assert run("artifacts.write_text('new/file', 'text')", tmp_path) == (0, "")
    assert (tmp_path / "new" / "file").read_text() == "text"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        ("ValueError('runs.x is 1; allowed: 2')", 2, "error: runs.x is 1; allowed: 2\n"),
        ("RuntimeError('the server ended')", 1, "error: the server ended\n"),
        ("KeyboardInterrupt", 130, "interrupted\n"),
        ("BrokenPipeError(32, 'Broken pipe')", 141, ""),
    ],
)
def test_each_kind_of_end_has_its_status(error: str, status: int, said: str, tmp_path: Path) -> None:
    assert run(f"raise {error}", tmp_path) == (status, said)


def test_a_fault_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    status, said = run("raise KeyError('no such key')", tmp_path)
    assert status == 1
    assert "Traceback" in said


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    for body in ("artifacts.write_text('runs/vdm/model', 'text')", "artifacts.write_text('runs/model', 'text')"):
        status, said = run(body, tmp_path)
        assert (status, said) == (1, "error: runs: file exists; it is a file where a folder is needed; move it away\n")
    assert files(tmp_path) == {"runs"}
    assert (tmp_path / "runs").read_text() == "mine"


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    status, said = run("artifacts.write_text('model', 'text')", tmp_path)
    assert (status, said) == (1, "error: model: is a directory; it is a folder where a file is needed; move it away\n")
    assert files(tmp_path) == {"model"}


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    status, said = run("artifacts.write_text('a' * 250, 'text')", tmp_path)
    assert status == 1
    assert said.endswith(": file name too long; use a shorter name\n")
    assert said.startswith(f"error: {'a' * 250}: ")
    assert files(tmp_path) == set()


LIMIT = "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); "


@pytest.mark.parametrize(
    "write",
    ["artifacts.write_text('out/text', 'x' * 100_000)", "artifacts.write_array('out/text', np.zeros(100_000))"],
)
def test_a_write_that_does_not_fit_names_the_file_and_leaves_the_old_one(write: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "text").write_text("old")
    status, said = run(LIMIT + write, tmp_path)
    assert status == 1
    assert said.startswith("error: out/text: ")
    assert said.count("\n") == 1
    assert (tmp_path / "out" / "text").read_text() == "old"
    assert files(tmp_path) == {"out", "out/text"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full is Linux's")
def test_a_full_disk_below_stdout(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        process = start("print('text')", tmp_path, stdout=full.fileno())
        _, err = process.communicate(timeout=60)
    assert err.startswith("error: no space left on device; free space there")
    assert process.returncode == 1


def test_stdout_closed_early_ends_quietly(tmp_path: Path) -> None:
    process = start("[print('line', number, flush=True) for number in range(100_000)]", tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "terminated\n")]
)
def test_a_signal_leaves_nothing_half_written(number: signal.Signals, status: int, said: str, tmp_path: Path) -> None:
    body = "with artifacts.atomic('out/file') as file: file.write(b'half'); file.flush(); time.sleep(60)"
    process = start(f"\n    {body}", tmp_path)
    end = time.monotonic() + 60
    while not any(file.stat().st_size for file in tmp_path.glob("out/.file.*")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, said)
    assert files(tmp_path) == {"out"}


def test_whoever_uses_sigterm_already_keeps_it() -> None:
    before = signal.signal(signal.SIGTERM, mine := lambda number, frame: None)
    try:
        assert command.run_command(lambda: None) == 0
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    seen: list[object] = []
    assert command.run_command(lambda: seen.append(signal.getsignal(signal.SIGTERM))) == 0
    assert seen != [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGTERM) == before


def test_folders_are_tried_before_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command.writable(Path("a/b/c"), tmp_path / "d")
    assert files(tmp_path) == set(), "trying leaves nothing"
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError) as refused:
        command.writable(Path("a/b/c"))
    assert refused.value.filename == "a"


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere: what the system says to others is put in its mouth."""

    def denied(dir: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir / "tmpabc"))

    monkeypatch.setattr(command.tempfile, "TemporaryFile", denied)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(OSError) as refused:
        command.writable(Path("runs/vdm"))
    assert command.sentence(refused.value) == (
        "runs: permission denied; make it readable and writable for you, or name another place"
    )


def test_the_home_folder_in_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert command.parser("").parse_args(["--params=~/my.yaml"]).params == Path("/home/somebody/my.yaml")
    with pytest.raises(SystemExit, match="2"):
        command.parser("").parse_args(["--params=~nobody-of-that-name/my.yaml"])
    assert "~nobody-of-that-name/my.yaml names no home folder" in capsys.readouterr().err


def test_an_empty_block_has_no_names() -> None:
    with pytest.raises(ValueError, match=r"^bounds has no 'vdm'; allowed: none, as it is empty$"):
        command.choose({}, "vdm", "bounds")
