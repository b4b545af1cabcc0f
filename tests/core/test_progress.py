from __future__ import annotations

import pytest

from pipeline.core import command
from pipeline.core.device import choose_precision
from pipeline.core.progress import Progress
from tests.support.blocks import bound


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_now_and_then_with_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(100, "images", "runs.toy", every=10, clock=clock) as progress:
        for _ in range(5):
            clock.now += 4
            progress.update(8, "loss 1.5")
    # 8 images in 4 seconds: after 12 seconds 24 are done and 76 are left, which take 38 seconds.
    assert capsys.readouterr().out.splitlines() == ["runs.toy: 24/100 images, 2 images/s, 38 s left, loss 1.5"]


def test_last_line_always_comes(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(4, "images", "toy", every=1e9, clock=Clock()) as progress:
        progress.update(3)
        progress.update(1)
    assert capsys.readouterr().out.startswith("toy: 4/4 images, ")


def test_work_of_an_earlier_process_does_not_count_for_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(1000, "images", "toy", every=1, start=900, clock=clock) as progress:
        clock.now += 10
        progress.update(50)
    assert capsys.readouterr().out == "toy: 950/1000 images, 5 images/s, 10 s left\n"


def test_mistake_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise ValueError("runs.toy is 3; allowed: 4")

    assert command.run_command(work) == 2
    assert capsys.readouterr().err == "error: runs.toy is 3; allowed: 4\n"
    assert command.run_command(lambda: None) == 0


def test_error_of_ours_is_not_hidden() -> None:
    def work() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        command.run_command(work)


def test_choose_lists_the_names() -> None:
    block = {"ddpm": bound(seed=1), "vdm": bound(seed=2)}
    assert command.choose(block, "vdm", "bounds").seed == 2
    with pytest.raises(ValueError, match=r"^bounds has no 'vmd'; allowed: ddpm, vdm$"):
        command.choose(block, "vmd", "bounds")


def test_precision_that_is_asked_for_is_taken() -> None:
    import torch

    assert choose_precision("float32", torch.device("cuda")) == "float32"
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "float32")])
def test_automatic_precision_asks_the_machine(fast: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: fast)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: not fast)
    assert choose_precision("auto", torch.device("cpu")) == expected
    assert choose_precision("auto", torch.device("cuda")) != expected
