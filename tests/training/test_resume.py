"""A training that is killed and started again ends with the same bytes as one that was never killed."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core import artifacts
from tests.support.scratch import DEADLINE, Scratch, params, wait_for_checkpoints

MODELS = {"ddpm": ("ddpm",), "vdm": ("vdm",), "ddgan": ("ddgan",), "convnet": ("--extractor", "convnet")}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """Parameters and data; nothing is trained."""
    return Scratch.make(tmp_path_factory.mktemp("resume") / "fresh", "ddpm")


@pytest.fixture(scope="module")
def uninterrupted(fresh: Scratch) -> Callable[[str], tuple[bytes, bytes]]:
    """The results of a training that nobody disturbed, by name."""
    found: dict[str, tuple[bytes, bytes]] = {}

    def results(name: str) -> tuple[bytes, bytes]:
        if name not in found:
            scratch = fresh.copy(fresh.folder.with_name(f"whole-{name}"), *MODELS[name])
            assert "continuing" not in scratch.train()
            found[name] = scratch.results()
        return found[name]

    return results


@pytest.fixture(scope="module")
def interrupted(fresh: Scratch) -> Scratch:
    """Killed after three checkpoints, of which two are kept."""
    scratch = fresh.copy(fresh.folder.with_name("interrupted"))
    kill_after(scratch, 3)
    assert scratch.checkpoint("newest") is not None
    assert scratch.checkpoint("older") is not None
    return scratch


def kill_after(scratch: Scratch, checkpoints: int) -> None:
    process = scratch.start()
    wait_for_checkpoints(process, scratch, checkpoints)
    process.kill()
    process.communicate(timeout=DEADLINE)
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    assert not scratch.model.exists()


def continued_from(output: str) -> int:
    """The step in `runs.ddpm: continuing from step 27`."""
    return int(output.split("continuing from step ")[1].split()[0])


def step_of(checkpoint: Path | None) -> int:
    assert checkpoint is not None
    return int(json.loads(artifacts.read_metadata(checkpoint)["record"])["step"])


SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in (("ddpm", 5), ("vdm", 2), ("ddgan", 3), ("convnet", 1))]


@pytest.mark.parametrize(("name", "checkpoints"), [("ddpm", 1), *SLOW])
def test_killed_and_continued_is_bit_equal(
    name: str, checkpoints: int, fresh: Scratch, uninterrupted: Callable[[str], tuple[bytes, bytes]], tmp_path: Path
) -> None:
    scratch = fresh.copy(tmp_path / "scratch", *MODELS[name])
    kill_after(scratch, checkpoints)
    saved = step_of(scratch.checkpoint())
    assert saved >= 9 * checkpoints
    assert continued_from(scratch.train()) == saved
    assert scratch.results() == uninterrupted(name)
    assert scratch.checkpoint("newest") is None, "a finished run leaves no checkpoint"
    assert scratch.checkpoint("older") is None, "a finished run leaves no checkpoint"


@pytest.mark.slow
def test_the_curve_has_the_rate_of_each_group(uninterrupted: Callable[[str], tuple[bytes, bytes]]) -> None:
    """Step 28: after the warm-up of 5 steps and before the last 30 % of 90, so what was configured; step 90: 1/27 of it."""
    rows = list(csv.DictReader(io.StringIO(uninterrupted("ddgan")[1].decode())))
    found = {
        (row["quantity"].removesuffix("/learning_rate"), int(row["step"])): float(row["value"])
        for row in rows
        if row["quantity"].endswith("/learning_rate") and row["split"] == "train"
    }
    assert {group for group, _ in found} == {"discriminator", "generator"}
    for group, rate in (("discriminator", 0.0005), ("generator", 0.002)):
        assert [found[group, step] for step in (28, 90)] == pytest.approx([rate, rate / 27], rel=1e-5)


@pytest.mark.slow
def test_killed_again_and_again(
    interrupted: Scratch, uninterrupted: Callable[[str], tuple[bytes, bytes]], tmp_path: Path
) -> None:
    scratch = interrupted.copy(tmp_path / "scratch")
    before = step_of(scratch.checkpoint())
    for _ in range(2):
        kill_after(scratch, 1)
        assert step_of(scratch.checkpoint()) > before
        before = step_of(scratch.checkpoint())
    assert continued_from(scratch.train()) == before
    assert scratch.results() == uninterrupted("ddpm")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_saves_at_once(
    number: signal.Signals,
    status: int,
    fresh: Scratch,
    uninterrupted: Callable[[str], tuple[bytes, bytes]],
    tmp_path: Path,
) -> None:
    scratch = fresh.copy(tmp_path / "scratch")
    process = scratch.start()
    wait_for_checkpoints(process, scratch, 1)
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (status, "")
    ended = int(out.split("told to end; checkpoint at step ")[1].split()[0])
    assert step_of(scratch.checkpoint()) == ended
    assert not scratch.model.exists()
    assert continued_from(scratch.train()) == ended
    assert scratch.results() == uninterrupted("ddpm")


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_one_bit(file: Path) -> None:
    """In the tensors: the header still reads well, so only a checksum can tell."""
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut_short, flip_one_bit])
def test_damaged_checkpoint_falls_back(
    damage: Callable[[Path], None],
    interrupted: Scratch,
    uninterrupted: Callable[[str], tuple[bytes, bytes]],
    tmp_path: Path,
) -> None:
    scratch = interrupted.copy(tmp_path / "scratch")
    newest, older = scratch.checkpoint("newest"), scratch.checkpoint("older")
    assert newest is not None
    assert step_of(newest) == step_of(older) + 9
    damage(newest)
    expected = step_of(older)
    output = scratch.train()
    assert "newest.safetensors is damaged" in output
    assert continued_from(output) == expected
    assert scratch.results() == uninterrupted("ddpm")


@pytest.mark.slow
def test_killed_between_two_generations(
    interrupted: Scratch, uninterrupted: Callable[[str], tuple[bytes, bytes]], tmp_path: Path
) -> None:
    """The newest has been moved away and its successor, half written, has not taken its place."""
    scratch = interrupted.copy(tmp_path / "scratch")
    newest, older = scratch.checkpoint("newest"), scratch.checkpoint("older")
    assert newest is not None
    assert older is not None
    shutil.move(newest, older)
    newest.with_name("next.safetensors").write_bytes(b"half")
    expected = step_of(older)
    assert continued_from(scratch.train()) == expected
    assert scratch.results() == uninterrupted("ddpm")


@pytest.mark.slow
def test_other_configuration_is_not_continued(
    interrupted: Scratch, uninterrupted: Callable[[str], tuple[bytes, bytes]], tmp_path: Path
) -> None:
    scratch = interrupted.copy(tmp_path / "scratch")
    scratch.write(params(learning_rate=0.003))
    abandoned = scratch.checkpoint("newest")
    assert abandoned is not None
    said = scratch.train()
    assert "continuing" not in said
    folder = abandoned.parent.relative_to(scratch.folder)
    assert (
        f"runs.ddpm: not continued is the checkpoint of step {step_of(abandoned)} in {folder}, which differs in "
        "training.learning_rate; remove that folder if nobody needs it\n"
    ) in said
    weights, curve = scratch.results()
    assert (weights, curve) != uninterrupted("ddpm")
    assert scratch.checkpoint("newest") is not None, "the other configuration's checkpoint is still there"


@pytest.mark.slow
def test_second_process_is_refused(fresh: Scratch, tmp_path: Path) -> None:
    scratch = fresh.copy(tmp_path / "scratch")
    first = scratch.start()
    try:
        wait_for_checkpoints(first, scratch, 1)
        first.send_signal(signal.SIGSTOP)  # it holds on to its lock for as long as the second one needs
        second = scratch.start()
        _, err = second.communicate(timeout=DEADLINE)
    finally:
        first.kill()
        first.communicate(timeout=DEADLINE)
    assert second.returncode == 2
    assert err.startswith("error: another process is training the same configuration (.checkpoints/")
    assert err.count("\n") == 1
