"""The only door to DVC: the graph of dvc.yaml, one stage at a time, pushing, differences. Knows nothing of Prefect."""

from __future__ import annotations

import difflib
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from services import process

Log = Callable[[str], None]
DVC = (sys.executable, "-m", "dvc")


class Failure(Enum):
    """Why a command failed, as far as its output tells. The first three may pass by themselves."""

    LOCK = "another DVC command holds the lock"
    STORAGE = "storage does not answer or is out of order"
    DATA = "data could not be read or fetched"
    MISTAKE = "a setting or the data is not allowed"
    BUG = "an error in the code, or the machine"

    @property
    def passes(self) -> bool:
        return self in (Failure.LOCK, Failure.STORAGE, Failure.DATA)


_SIGNS = {
    Failure.LOCK: re.compile(r"is busy, it is being blocked by|[Uu]nable to acquire lock"),
    Failure.STORAGE: re.compile(
        r"Could not connect to the endpoint|Connection (refused|reset|closed|aborted)|Connect(ion)?Timeout|[Rr]ead timed out"
        r"|files? failed to (up|down)load|failed to (push|pull|fetch) data|ServiceUnavailable|SlowDown|InternalError"
        r"|Temporary failure in name resolution|urlopen error"
    ),
    # "failed to reproduce" with an errno is DVC itself that can't read or write; a stage's own end reads "failed to run".
    Failure.DATA: re.compile(
        r"Input/output error|Stale file handle|Checkout failed|missing-files|failed to reproduce '.*': (missing data|\[Errno)"
    ),
}


class StageError(RuntimeError):
    """A stage, or `push`, ended with an error. The message says why and holds the last 40 lines of its output."""

    def __init__(self, stage: str, status: int, tail: Sequence[str], expired: bool = False) -> None:
        super().__init__(stage, status, tuple(tail), expired)
        self.stage, self.status, self.tail, self.expired = stage, status, tuple(tail), expired
        self.failure = Failure.STORAGE if expired else classify(tail)

    def __str__(self) -> str:
        how = "ran into its time limit" if self.expired else f"exited with {self.status}"
        return f"{self.stage} {how} ({self.failure.value}); its last output:\n" + "\n".join(self.tail)


@dataclass(frozen=True)
class Outcome:
    """outcome: "ran", "restored" (from the run cache) or "unchanged"; seconds on the wall clock."""

    stage: str
    outcome: str
    seconds: float


def classify(tail: Sequence[str]) -> Failure:
    """Tells a failure that may pass from a mistake or a bug by the last lines of output.

    Exit status 2 is a user's mistake, said in one sentence (pipeline.core.command). Of a Python traceback only the final
    exception counts, not the source lines that it quotes nor what was printed before.
    """
    text = "\n".join(tail)
    if _SIGNS[Failure.LOCK].search(text):
        return Failure.LOCK
    if re.search(r"exited with 2$", text, re.MULTILINE):
        return Failure.MISTAKE
    last = text.rpartition("Traceback (most recent call last):")[2]
    said = "\n".join(line for line in last.splitlines() if not line.startswith(" "))
    for failure in (Failure.STORAGE, Failure.DATA):
        if _SIGNS[failure].search(said):
            return failure
    return Failure.BUG


def environment() -> dict[str, str]:
    """Ours, with this Python first on the path (stages are started as `python -m ...`) and output unbuffered."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # DVC prints differences in the order of a set, which the hash seed decides.
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0"}


def graph(repository: str | Path = ".") -> dict[str, list[str]]:
    """Every stage and the stages it depends on: dependencies first, else in the order of dvc.yaml, as `dvc repro` goes.

    Raises ValueError if dvc.yaml can't be read.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

    try:
        with Repo(str(repository)) as repo:
            stages = [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]
            edges = repo.index.graph
            # stage.addressing would depend on the working directory; stage.name doesn't.
            needs = {stage.name: [other.name for other in stages if other in edges.successors(stage)] for stage in stages}
    except DvcException as error:
        raise ValueError(f"dvc.yaml can't be read: {' '.join(str(error).split())}; see: dvc stage list") from error
    order: dict[str, list[str]] = {}

    def visit(name: str) -> None:  # DVC has refused cycles
        for other in needs[name]:
            visit(other)
        order.setdefault(name, needs[name])

    for name in needs:
        visit(name)
    return order


def select(needs: Mapping[str, Sequence[str]], targets: Sequence[str] | None) -> tuple[list[str], set[str]]:
    """The stages to run, dependencies first, and which of them were asked for by name. None: all.

    `train` stands for all of train@..., as it does for DVC. Raises ValueError for a name that is no stage.
    """
    if targets is None:
        return list(needs), set(needs)
    named: set[str] = set()
    for target in targets:
        found = {name for name in needs if target in (name, name.partition("@")[0])}
        if not found:
            close = difflib.get_close_matches(target, list(needs), 1)
            guess = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"targets has {target!r}{guess}, which is no stage of dvc.yaml; allowed: {', '.join(needs)}")
        named |= found
    wanted = set(named)
    for name in reversed(list(needs)):
        if name in wanted:
            wanted |= set(needs[name])
    return [name for name in needs if name in wanted], named


def run(stage: str, log: Log, *, force: bool = False, repository: str | Path = ".") -> Outcome:
    """Runs one stage, not what it depends on. Raises StageError."""
    began, outcome = time.monotonic(), "ran"

    def follow(line: str) -> None:
        nonlocal outcome
        if line == f"Stage '{stage}' didn't change, skipping":
            outcome = "unchanged"
        elif line.startswith(f"Stage '{stage}' is cached - skipping run"):
            outcome = "restored"
        log(line)

    command = [*DVC, "repro", "--single-item", *(["--force"] if force else []), stage]
    finished = process.run(command, follow, cwd=repository, environment=environment())
    if finished.status != 0:
        raise StageError(stage, finished.status, finished.tail)
    return Outcome(stage, outcome, round(time.monotonic() - began, 1))


def remotes(repository: str | Path = ".") -> dict[str, str]:
    """Name -> address of DVC's remotes. Raises ValueError if .dvc/config can't be read."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(repository)) as repo:
            return {name: str(settings["url"]) for name, settings in repo.config["remote"].items()}
    except DvcException as error:
        raise ValueError(f".dvc/config can't be read: {' '.join(str(error).split())}") from error


def cache(repository: str | Path = ".") -> Path:
    """The folder of the cache with ab/cdef... for a file of MD5 abcdef.... Raises ValueError if .dvc/config can't be read."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(repository)) as repo:
            return Path(repo.cache.local.path)
    except DvcException as error:
        raise ValueError(f".dvc/config can't be read: {' '.join(str(error).split())}") from error


def push(remote: str, log: Log, *, repository: str | Path = ".", timeout: float = 3600.0) -> None:
    """`dvc push` to `remote`. Raises StageError, also after `timeout` seconds."""
    # One attempt per file: with DVC's defaults a push to a server that died takes minutes per file. Four files at once:
    # more take memory (1 GB for files of 64 MB), not less time.
    command = [*DVC, "push", "--remote", remote, "--jobs", "4"]
    once = {**environment(), "AWS_MAX_ATTEMPTS": "1"}
    finished = process.run(command, log, cwd=repository, environment=once, timeout=timeout)
    if finished.status != 0:
        raise StageError("push", finished.status, finished.tail, finished.expired)


def metrics_diff(repository: str | Path = ".") -> str:
    """Markdown: the workspace's metrics against those of HEAD, then what DVC remarks; empty if nothing differs."""
    lines: list[str] = []
    command = [*DVC, "metrics", "diff", "--md", "HEAD"]
    finished = process.run(command, lines.append, cwd=repository, environment=environment())
    if finished.status != 0:
        raise StageError("metrics diff", finished.status, finished.tail)
    table = [line for line in lines if line.startswith("|")]
    remarks = [line for line in lines if not line.startswith("|")]
    rows = table if len(table) > 2 else []  # two lines are a head with nothing under it
    return "\n".join([*rows, *(["", *remarks] if rows and remarks else remarks)])
