"""The door to DVC, with real DVC commands on a toy pipeline."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

from flows import stages
from flows.stages import Failure
from tests.services.test_process import runs
from tests.support.toy import Toy


class Cancelled(BaseException):
    pass


def failure(toy: Toy, stage: str) -> stages.StageError:
    with pytest.raises(stages.StageError) as error:
        stages.run(stage, print, repository=toy.folder)
    return error.value


def wait_for(file: Path) -> None:
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end, f"{file} did not appear"
        time.sleep(0.05)


def test_the_graph_names_every_stage_after_what_it_needs(toy: Toy) -> None:
    needs = stages.graph(toy.folder)
    assert needs == {
        "prepare": [],
        "train@a": ["prepare"],
        "train@b": ["prepare"],
        "compare": ["train@a", "train@b"],
        "aside": [],
    }
    assert list(needs) == ["prepare", "train@a", "train@b", "compare", "aside"]


def test_a_stage_written_before_what_it_needs_runs_after_it(toy: Toy) -> None:
    whole = yaml.safe_load((toy.folder / "dvc.yaml").read_text())["stages"]
    (toy.folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": dict(reversed(whole.items()))}, sort_keys=False))
    assert list(stages.graph(toy.folder)) == ["aside", "prepare", "train@a", "train@b", "compare"]


def test_a_broken_pipeline_file_is_a_one_line_value_error(toy: Toy) -> None:
    (toy.folder / "dvc.yaml").write_text("stages:\n  a:\n    comand: x\n")
    with pytest.raises(ValueError, match=r"^dvc\.yaml can't be read: .*$"):
        stages.graph(toy.folder)


NEEDS = {"prepare": [], "train@a": ["prepare"], "train@b": ["prepare"], "compare": ["train@a", "train@b"], "aside": []}


@pytest.mark.parametrize(
    ("targets", "order", "named"),
    [
        (None, list(NEEDS), set(NEEDS)),
        (["aside"], ["aside"], {"aside"}),
        (["train@b"], ["prepare", "train@b"], {"train@b"}),
        (["train"], ["prepare", "train@a", "train@b"], {"train@a", "train@b"}),
        (["compare"], ["prepare", "train@a", "train@b", "compare"], {"compare"}),
        ([], [], set()),
    ],
)
def test_targets_bring_what_they_need(targets: list[str] | None, order: list[str], named: set[str]) -> None:
    assert stages.select(NEEDS, targets) == (order, named)


def test_an_unknown_target_is_named_with_a_guess_and_all_stages() -> None:
    with pytest.raises(ValueError, match=r"'trian@a' \(did you mean train@a\?\).*allowed: prepare, train@a, train@b"):
        stages.select(NEEDS, ["trian@a"])


def test_outcomes_tell_running_skipping_and_restoring_apart(toy: Toy) -> None:
    lines: list[str] = []
    assert stages.run("aside", lines.append, repository=toy.folder).outcome == "ran"
    assert "aside says hello" in lines
    assert stages.run("aside", print, repository=toy.folder).outcome == "unchanged"
    assert stages.run("aside", print, repository=toy.folder, force=True).outcome == "ran"
    toy.set(aside="other work")
    assert stages.run("aside", print, repository=toy.folder).outcome == "ran"
    toy.set()
    assert stages.run("aside", print, repository=toy.folder).outcome == "restored"
    assert toy.attempts() == ["aside"] * 3


def test_one_stage_runs_alone(toy: Toy) -> None:
    stages.run("prepare", print, repository=toy.folder)
    stages.run("train@b", print, repository=toy.folder)
    assert toy.attempts() == ["prepare", "train-b"]


def test_a_bug_shows_its_traceback_and_is_not_tried_again(toy: Toy) -> None:
    toy.set(aside="bug")
    error = failure(toy, "aside")
    assert error.failure is Failure.BUG
    assert not error.failure.passes
    assert "boom on stderr" in str(error)
    assert "KeyError: 'no such key'" in str(error)


def test_a_users_mistake_is_not_tried_again(toy: Toy) -> None:
    toy.set(aside="mistake")
    error = failure(toy, "aside")
    assert error.failure is Failure.MISTAKE
    assert not error.failure.passes
    assert "error: toy.size is -1; allowed: a positive number" in str(error)


def test_trouble_with_storage_may_pass(toy: Toy) -> None:
    toy.set(aside="storage fails once")
    assert failure(toy, "aside").failure is Failure.STORAGE
    assert stages.run("aside", print, repository=toy.folder).outcome == "ran"


def test_a_missing_input_is_trouble_with_data(toy: Toy) -> None:
    stages.run("prepare", print, repository=toy.folder)
    (toy.folder / "data" / "prepared.txt").unlink()
    assert failure(toy, "train@a").failure is Failure.DATA


def test_the_message_holds_the_last_40_lines(toy: Toy) -> None:
    toy.set(aside="long")
    error = failure(toy, "aside")
    assert len(error.tail) == 40
    assert "line 99" in str(error)
    assert "line 50" not in str(error)


def test_a_cancellation_in_the_main_thread_ends_everything_that_the_stage_started(toy: Toy) -> None:
    toy.set(aside="hang")

    def cancel(*_: object) -> None:
        raise Cancelled

    def when_it_hangs(line: str) -> None:
        if line == "hanging":
            signal.setitimer(signal.ITIMER_REAL, 0.3)

    before = signal.signal(signal.SIGALRM, cancel)
    try:
        with pytest.raises(Cancelled):
            stages.run("aside", when_it_hangs, repository=toy.folder)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    pids = json.loads((toy.folder / "pids").read_text())
    assert len(pids) == 2
    assert not any(runs(pid) for pid in pids)
    toy.set()
    assert stages.run("aside", print, repository=toy.folder).outcome == "ran"  # no lock is left


def test_a_lock_held_by_another_command_may_pass(toy: Toy) -> None:
    toy.set(aside="hang")
    found: list[BaseException] = []

    def other() -> None:
        try:
            stages.run("aside", print, repository=toy.folder)
        except stages.StageError as error:
            found.append(error)

    holder = threading.Thread(target=other)
    holder.start()
    try:
        wait_for(toy.folder / "pids")
        assert failure(toy, "aside").failure is Failure.LOCK
    finally:
        for pid in json.loads((toy.folder / "pids").read_text()):
            subprocess.run(["kill", str(pid)], check=True)
        holder.join(timeout=60)
    assert [type(error) for error in found] == [stages.StageError]


TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "x.py", line 1, in <module>',
    '    raise Error("Connection refused")',
]


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        # What DVC 3.67 prints, as noted in trials with it.
        (["ERROR: failed to push data to the cloud - 884 files failed to upload"], Failure.STORAGE),
        (['ERROR: unexpected error - Could not connect to the endpoint URL: "http://127.0.0.1:1/b"'], Failure.STORAGE),
        (["ERROR: Checkout failed for following targets:", "runs/a", "Is your cache up to date?"], Failure.DATA),
        (["ERROR: '/x/dvc.yaml' is busy, it is being blocked by:", "  (PID 7): dvc repro"], Failure.LOCK),
        (["ERROR: failed to reproduce 'train@a': missing data 'source': data/raw"], Failure.DATA),
        # The exception counts, not source lines quoted above it, nor warnings printed before.
        ([*TRACEBACK, "KeyError: 'x'"], Failure.BUG),
        (["warning: Connection refused, using what is there", *TRACEBACK, "KeyError: 'x'"], Failure.BUG),
        ([*TRACEBACK, "OSError: [Errno 5] Input/output error"], Failure.DATA),
        ([*TRACEBACK, "ConnectionRefusedError: [Errno 111] Connection refused"], Failure.STORAGE),
        (["error: bad", "ERROR: failed to reproduce 'a': failed to run: python -m a, exited with 2"], Failure.MISTAKE),
        (["killed", "ERROR: failed to reproduce 'a': failed to run: python -m a, exited with -9"], Failure.BUG),
        (["ERROR: failed to reproduce 'a': failed to run: python -m a, exited with 25"], Failure.BUG),
        ([], Failure.BUG),
    ],
)
def test_what_a_failure_is_told_by(tail: list[str], expected: Failure) -> None:
    assert stages.classify(tail) is expected


def test_exactly_trouble_with_locks_storage_and_data_may_pass() -> None:
    assert {kind for kind in Failure if kind.passes} == {Failure.LOCK, Failure.STORAGE, Failure.DATA}


def test_metrics_that_differ_from_the_last_commit_are_shown(toy: Toy) -> None:
    metrics = toy.folder / "reports" / "compare.json"
    for stage in ("prepare", "train@a", "train@b", "compare"):
        stages.run(stage, print, repository=toy.folder)
    toy.commit()
    assert stages.metrics_diff(toy.folder) == ""
    metrics.write_text('{"fd": 4.25, "kid": 3.0}')
    toy.commit()
    metrics.write_text('{"fd": 2.0, "kid": 3.0}')
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in stages.metrics_diff(toy.folder).splitlines()]
    assert rows[0] == ["Path", "Metric", "HEAD", "workspace", "Change"]
    assert rows[2:] == [["reports/compare.json", "fd", "4.25", "2.0", "-2.25"]]


def test_remotes_are_those_of_this_repository(toy: Toy) -> None:
    assert stages.remotes(toy.folder) == {"local": str(toy.folder / ".dvc" / "remote"), "s3": "s3://trilemma/dvc"}
